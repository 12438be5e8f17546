"""Draft a migration from what models.py has and the migrations have not: `make migration M="Add labels to rigs"`."""

import sys
import tempfile
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from gastown import db, migrations
from gastown.embedded import postgres


def draft(engine: Engine, message: str) -> list[Path]:
    """Compare with a database that has the newest schema, and write the difference as the next revision."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    number = 1 + len(list(ScriptDirectory.from_config(config).walk_revisions()))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        made: Any = command.revision(
            config, message, autogenerate=True, rev_id=f"{number:04}", process_revision_directives=_drop_empty
        )
    return [Path(script.path) for script in (made if isinstance(made, list) else [made]) if script]


def _drop_empty(_context: object, _revision: object, directives: list[Any]) -> None:
    if directives[0].upgrade_ops.is_empty():
        directives.clear()


def main() -> None:
    message = " ".join(sys.argv[1:]).strip()
    if not message:
        sys.exit('what does it do? make migration M="Add labels to rigs"')
    with tempfile.TemporaryDirectory() as folder, postgres.throw_away(Path(folder)) as url:
        engine = db.make_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        try:
            migrations.upgrade(engine)
            if not draft(engine, message):
                sys.exit("models.py has nothing that the migrations have not")
        finally:
            engine.dispose()


if __name__ == "__main__":
    main()
