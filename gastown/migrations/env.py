"""Alembic's entry. `gastown.migrations.upgrade` hands it a connection."""

from alembic import context

from gastown.migrations import note_served
from gastown.models import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    compare_server_default=False,
    # partitions of log_chunks are made by housekeeping, not by a migration
    include_object=lambda _object, name, kind, _reflected, _other: (
        not (kind == "table" and name is not None and name.startswith("log_chunks_"))
    ),
)
with context.begin_transaction():
    context.run_migrations()
    note_served(connection, context.script)
