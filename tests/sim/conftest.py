"""One server for all simulations of the session, and what they came to, at the end of the run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gastown.sim.database import Server, server

RUNS: list[str] = []
CAUGHT: list[tuple[str, int, int, str]] = []  # mutant, seed, steps, invariant


@pytest.fixture(scope="session")
def sim_server() -> Iterator[Server]:
    with server() as made:
        yield made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(1200))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if RUNS:
        terminalreporter.section("simulation: fresh seeds")
        for line in RUNS:
            terminalreporter.write_line(line)
    if CAUGHT:
        terminalreporter.section("mutants: seed, steps until one was noticed, by which invariant")
        for name, seed, steps, invariant in CAUGHT:
            terminalreporter.write_line(f"{name:64} {seed:6} {steps:6}  {invariant}")
