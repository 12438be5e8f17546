"""The documentation says what is so: generated parts are up to date, and what is named exists."""

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.main import get_command

from gastown.celery_app import app
from gastown.cli import build

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
CODE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = {"console", "sh"}
PROMPT = re.compile(r"^\$ ", re.MULTILINE)
ASSIGNMENT = re.compile(r"\w+=")
every_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def prose(page: Path) -> str:
    return CODE.sub("", page.read_text())


def command_lines(page: Path) -> Iterator[list[str]]:
    """What a reader may type: the lines of shell blocks, those after a prompt, and `gastown ...` in the text."""
    for language, block in CODE.findall(page.read_text()):
        if language in SHELL:
            prompted = PROMPT.search(block) is not None
            lines = [line.removeprefix("$ ") for line in block.splitlines() if not prompted or line.startswith("$ ")]
            yield from (part for line in lines for part in split(line))
    for inline in re.findall(r"`((?:gastown|make) [^`]+)`", prose(page)):
        yield from split(inline)


def split(line: str) -> Iterator[list[str]]:
    """A line of shell as its commands."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    words: list[str] = []
    for token in [*lexer, ";"]:
        if set(token) <= set(";&|"):
            while words and ASSIGNMENT.match(words[0]):
                words.pop(0)
            if words:
                yield words
            words = []
        else:
            words.append(token)


@cache
def command_tree() -> Any:
    return get_command(build())


def complaint(words: list[str]) -> str | None:
    """What `gastown` would not understand of this command line: a command or an option that does not exist."""
    command, rest = command_tree(), words[1:]
    while hasattr(command, "commands") and rest and not rest[0].startswith(("-", ".")):
        if rest[0] not in command.commands:
            return f"no command {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    known = {"--help", "-h", "--debug"}.union(*([*each.opts, *each.secondary_opts] for each in command.params))
    return next((f"no option {each}" for each in rest if each.startswith("-") and each not in known), None)


@cache
def functions_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@every_page
def test_generated_parts_are_up_to_date(page: Path, generator: ModuleType) -> None:
    assert generator.with_parts(page.read_text()) == page.read_text(), "make docs"


def test_every_part_is_shown(generator: ModuleType) -> None:
    shown = re.findall(r"<!-- generated: ([\w-]+) -->", "".join(page.read_text() for page in PAGES))
    assert sorted(shown) == sorted(generator.PARTS)


@every_page
def test_tests_that_are_named_exist(page: Path) -> None:
    for path, name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", page.read_text()):
        assert (ROOT / path).exists(), f"there is no {path}; if it has moved: make docs"
        assert name in functions_in(ROOT / path), f"{path} has no {name}; if it has moved: make docs"


def test_each_guarantee_has_tests_and_limits() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text()
    sections = re.split(r"^## (G\d)\. ", text, flags=re.MULTILINE)[1:]
    assert sections[::2] == [f"G{number}" for number in range(1, 9)]
    for name, section in zip(sections[::2], sections[1::2], strict=True):
        for part in ("**Promise.**", "**How.**", "**Limits."):
            assert part in section, f"{name} has no {part}"
        assert "::test_" in section, f"{name} names no test"


@every_page
def test_commands_that_are_shown_exist(page: Path) -> None:
    wrong = [
        f"{shlex.join(words)}: {problem}"
        for words in command_lines(page)
        if words[0] == "gastown" and (problem := complaint(words)) is not None
    ]
    assert wrong == []


@every_page
def test_make_targets_that_are_shown_exist(page: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = {words[1] for words in command_lines(page) if words[0] == "make"}
    assert shown <= targets


def test_the_check_itself_finds_what_is_wrong() -> None:
    assert complaint(["gastown", "bead", "lst"]) == "no command lst"
    assert complaint(["gastown", "logs", "--flow", "gt-1"]) == "no option --flow"
    assert complaint(["gastown", "logs", "-f", "gt-1"]) is None
    assert list(split("a -b 'c; d' && X=1 e | f # g")) == [["a", "-b", "c; d"], ["e"], ["f"]]


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_places_in_the_source_exist(name: str) -> None:
    for place in re.findall(r"`((?:\w+/)*\w+(?:/|\.py))`", prose(ROOT / name)):
        assert (ROOT / place).exists() or (ROOT / "gastown" / place).exists(), place


@every_page
def test_tasks_that_are_named_exist(page: Path) -> None:
    app.loader.import_default_modules()
    for name in re.findall(r"`(gastown\.\w+)`", prose(page)):
        known = name in app.tasks or importlib.util.find_spec(name) is not None
        assert known or name == "gastown.toml", name


def test_celery_settings_are_as_told() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text().partition("## Celery settings")[2]
    told = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text, re.MULTILINE)
    assert len(told) > 5
    assert {name: repr(app.conf[name]) for name, _ in told} == dict(told)


def test_the_changelog_says_what_is_next() -> None:
    assert re.search(r"^## \[Unreleased\]$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


@every_page
def test_nothing_of_our_machines_is_told(page: Path) -> None:
    assert not re.search(r"/work/|/root\b|/tmp/", page.read_text())
