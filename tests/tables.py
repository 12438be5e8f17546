"""What tests have to tell besides passing: tables at the end of the run, whole also when several processes ran it."""

from typing import Any

import pytest

TABLES: dict[str, list[str]] = {}  # title -> lines, in the order in which they came


def add(title: str, *lines: str) -> None:
    """Lines of the table of this title; one that is there already is not shown twice."""
    table = TABLES.setdefault(title, [])
    table.extend(line for line in lines if line not in table)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a process of pytest-xdist: hand them to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tables"] = TABLES


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    for title, lines in getattr(node, "workeroutput", {}).get("tables", {}).items():
        add(title, *lines)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for title, lines in TABLES.items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)
