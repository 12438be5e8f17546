"""G2: a superseded attempt changes nothing, one that nothing replaced goes on, and agents never overlap."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from gastown.agent.protocol import FENCED_EXIT
from gastown.agent.runs import RunFiles
from gastown.demo import faults
from tests.flows.town import Town, run_town, until
from tests.flows.watch import AGENT

SHORT_LEASES = {
    "heartbeat_s": 1,
    "heartbeat_lease_s": 6,
    "inspect_start_s": 1,
    "backoff_s": [0, 20],
    "api_silence_s": 15,
}


@pytest.fixture(scope="module")
def shared_town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with run_town(tmp_path_factory.mktemp("fence"), policy=SHORT_LEASES) as town:
        yield town


def test_late_start_is_adopted(town: Town) -> None:
    """S28: given up twice, it comes up while its bead waits out the backoff: it goes on, and nothing counts."""
    bead = town.sling("sleep 1; echo done > result.txt", fault={1: "raise", 2: "script raise late"})
    until("it is given up twice", lambda: [each.status for each in town.attempts(bead)] == ["rolled_back"] * 2)
    faults.mark(Path(town.environment[faults.FOLDER]), bead, 2, faults.START)
    town.merged(bead)
    town.measure("start: late, in the backoff: adopted", bead, town.attempts(bead)[1].starting_at)
    first, second = town.attempts(bead)
    assert (first.status, second.status) == ("rolled_back", "succeeded")
    assert second.adopted_at is not None
    assert second.failure_class is None


def test_late_start_is_fenced(town: Town) -> None:
    """S08, S09: given up once, its successor is at work when it comes up: 409, and it stops itself."""
    orders, go = Path(town.environment[faults.FOLDER]), town.folder / "go"
    script = f"echo $GASTOWN_EPOCH >> epochs.txt; until test -e {go}; do sleep 0.1; done"
    bead = town.sling(script, fault={1: "script raise late"})
    until("its successor works", lambda: AGENT in town.watch.alive.get((bead, "2"), ()))
    faults.mark(orders, bead, 1, faults.START)
    late = RunFiles(town.settings.home, str(town.attempts(bead)[0].id))
    until("the late one has ended", lambda: late.exit_code() is not None)
    assert late.exit_code() == FENCED_EXIT
    go.touch()
    town.merged(bead)
    town.measure("start: late, its successor at work: fenced", bead)
    first, second = town.attempts(bead)
    assert (first.status, second.status, first.adopted_at) == ("rolled_back", "succeeded", None)
    assert town.read("epochs.txt") == "2"


def test_silent_attempt_is_replaced(town: Town) -> None:
    """Its supervisor is frozen: lost after a lease. Its successor ends what is left of it before it starts its own."""
    script = "if test -f half.txt; then echo rest >> half.txt; else echo half > half.txt; sleep 90; fi"
    bead = town.sling(script)
    running = until("it runs", lambda: [each for each in town.attempts(bead) if each.status == "running"])[0]
    until("its agent works", lambda: (town.settings.home / "work" / bead / "1" / "half.txt").exists())
    psutil.Process(running.pid).suspend()
    town.merged(bead)
    lost, worked = town.attempts(bead)
    assert (lost.status, lost.code, worked.status) == ("lost", "heartbeat_lost", "succeeded")
    assert town.read("half.txt") == "half\nrest"


def test_paused_attempt_that_nothing_replaced_goes_on(town: Town) -> None:
    """The same with the bead in backoff: thawed before its turn comes, it is adopted and finishes."""
    go = town.folder / "thawed"
    script = f"echo begun > begun.txt; until test -e {go}; do sleep 0.1; done; echo done > result.txt"
    bead = town.sling(script, fault={1: "raise"})
    running = until("it runs", lambda: [each for each in town.attempts(bead) if each.status == "running"])[0]
    until("its agent works", lambda: (Path(town.settings.home) / "work" / bead / "2" / "begun.txt").exists())
    process = psutil.Process(running.pid)
    process.suspend()
    until("it is lost", lambda: town.attempts(bead)[1].status == "lost")
    go.touch()
    process.resume()
    town.merged(bead)
    assert [each.status for each in town.attempts(bead)] == ["rolled_back", "succeeded"]
    assert town.attempts(bead)[1].adopted_at is not None
