"""Let gates be objects, and a rig say how it merges and who the author is"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.alter_column("rigs", "gates", server_default=None)
    op.execute("ALTER TABLE rigs ALTER COLUMN gates TYPE jsonb USING to_jsonb(gates)")  # bare commands stay readable
    op.alter_column("rigs", "gates", server_default=sa.text("'[]'"))
    op.add_column("rigs", sa.Column("merge_method", sa.Text(), server_default="merge", nullable=False))
    op.add_column("rigs", sa.Column("author", sa.Text(), nullable=True))
    op.create_check_constraint(op.f("rigs_merge_method_check"), "rigs", "merge_method IN ('merge', 'squash', 'rebase')")
    op.create_check_constraint(op.f("rigs_gates_check"), "rigs", "jsonb_typeof(gates) = 'array'")
    op.add_column("merge_requests", sa.Column("gate_runs", postgresql.JSONB(), nullable=True))
