"""Programs and schemas of different versions: what may run on what while a fleet is upgraded."""

import ast
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine

from gastown import db, migrations
from gastown.errors import DatabaseUnavailable, SchemaTooNew
from tests.conftest import administer, url_of

VERSIONS = Path(migrations.__file__).parent / "versions"
NEXT = '''
"""{title}"""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{before}"
{expands}


def upgrade() -> None:
    op.add_column("towns", sa.Column("of_{revision}", sa.Text(), nullable=True))
'''


@pytest.fixture
def fresh(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An empty database, which is that of this process."""
    name = f"sides_{uuid.uuid4().hex}"
    administer(postgres_url, f"CREATE DATABASE {name}")
    engine = db.make_engine(url_of(postgres_url, name))
    monkeypatch.setattr(migrations, "current_engine", lambda: engine)
    try:
        yield engine
    finally:
        engine.dispose()
        administer(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


def newer(folder: Path, *expanding: bool) -> Config:
    """The migrations of a program that has so many more, each of which only adds or does not say so."""
    scripts = shutil.copytree(VERSIONS.parent, folder / "newer", ignore=shutil.ignore_patterns("__pycache__"))
    before = migrations.head()
    for number, expands in enumerate(expanding, int(before) + 1):
        said = "expands = True" if expands else ""
        source = NEXT.format(title="Add", revision=f"{number:04}", before=before, expands=said).lstrip()
        (scripts / "versions" / f"{number:04}_add.py").write_text(source)
        before = f"{number:04}"
    config = Config()
    config.set_main_option("script_location", str(scripts))
    return config


def migrate(engine: Engine, config: Config, revision: str = "head") -> None:
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.commit()


@pytest.mark.parametrize(
    ("expanding", "served"),
    [
        ((), True),
        ((True,), True),  # the rolling upgrade: one ahead, and that one only adds
        ((False,), False),
        ((True, True), False),  # two ahead
        ((False, True), False),
    ],
)
def test_what_an_older_program_goes_on_with(
    fresh: Engine, tmp_path: Path, expanding: tuple[bool, ...], served: bool
) -> None:
    migrate(fresh, newer(tmp_path, *expanding))
    if served:
        migrations.check()
        return
    with pytest.raises(SchemaTooNew, match=f"knows none after {migrations.head()}"):
        migrations.check()


def test_it_is_said_of_the_schema_as_it_is_now(fresh: Engine, tmp_path: Path) -> None:
    """One ahead that adds, then one that takes away: who was served is served no more."""
    config = newer(tmp_path, True, False)
    migrate(fresh, config, f"{int(migrations.head()) + 1:04}")
    migrations.check()
    migrate(fresh, config)
    with pytest.raises(SchemaTooNew):
        migrations.check()


def test_an_older_program_migrates_nothing(fresh: Engine, tmp_path: Path) -> None:
    migrate(fresh, newer(tmp_path, True))
    with pytest.raises(SchemaTooNew):
        migrations.upgrade(fresh)
    migrations.check()


def test_a_newer_program_waits_for_its_schema(fresh: Engine) -> None:
    migrate(fresh, migrations._config(), "0005")
    with pytest.raises(DatabaseUnavailable, match="older schema") as refused:
        migrations.check()
    assert refused.value.hint == "gastown db upgrade"


def test_an_empty_database(fresh: Engine) -> None:
    with pytest.raises(DatabaseUnavailable, match="older schema"):
        migrations.check()
    migrations.upgrade(fresh)
    migrations.check()


ADDING = {"add_column", "create_table", "create_index"}


@pytest.mark.parametrize("file", sorted(VERSIONS.glob("[0-9]*.py")), ids=lambda file: file.stem)
def test_what_says_that_it_only_adds_does(file: Path) -> None:
    """A program of before writes rows as before: each new column is filled without it."""
    tree = ast.parse(file.read_text())
    if not any(ast.unparse(each) == "expands = True" for each in tree.body):
        return
    for call in [each for each in ast.walk(tree) if isinstance(each, ast.Call)]:
        called = ast.unparse(call.func)
        assert not called.startswith("op.") or called.removeprefix("op.") in ADDING, ast.unparse(call)
        options = {each.arg: ast.unparse(each.value) for each in call.keywords}
        if called == "op.add_column":
            column = call.args[1]
            assert isinstance(column, ast.Call)
            options = {each.arg: ast.unparse(each.value) for each in column.keywords}
            assert options.get("nullable") != "False" or "server_default" in options, ast.unparse(call)
        assert called != "op.create_index" or options.get("unique") != "True", ast.unparse(call)
