"""A stack that stops does not wait for gates, and leaves none behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from celery.signals import worker_shutting_down

from gastown.agent import processes
from gastown.agent.command import MARK
from gastown.agent.runs import node_mark
from gastown.cli.drain import drain
from gastown.db import transaction
from gastown.embedded import home
from gastown.embedded.supervisor import Supervisor
from gastown.settings import get_settings
from gastown.states import MergeStatus
from gastown.store import merges
from gastown.tasks import shutdown
from gastown.tasks.merge import merge
from tests.builders import a_merge, a_node, a_rig, now, the_api_is_there
from tests.races import Thread, committed
from tests.refinery.rig import Rig

LATER = "/0123456789ab"  # the name of the worker is empty here
FORKED = """
import os, time
from celery.signals import worker_shutting_down
from gastown.tasks import shutdown
child = os.fork()
if child:
    worker_shutting_down.send(sender=None)
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
deadline = time.monotonic() + 60
while not shutdown.is_near():
    if time.monotonic() > deadline:
        os._exit(1)
os._exit(0)
"""


def test_a_process_of_the_pool_hears_of_the_shutdown() -> None:
    assert subprocess.run([sys.executable, "-c", FORKED], timeout=100).returncode == 0


def test_a_merge_in_a_gate_is_left_when_its_worker_shuts_down(
    checkout: Rig, tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutdown, "_told", bytearray(1))
    gated = tmp_path / "gated"
    with transaction() as session:
        the_api_is_there(session)
        a_node(session)
        values = {"gates": [f"touch {gated}; sleep 300"], "environment": {"PATH": os.environ["PATH"]}}
        a_rig(session, repository=str(checkout.remote), **values)
        request = a_merge(session, head_sha=checkout.work("gt-1", {"new": "new\n"}).head_sha)
    at_work = Thread(lambda: merge.run(request.id))
    deadline = time.monotonic() + 60
    while not gated.exists():
        assert at_work.is_alive(), "it ended before its gate"
        assert time.monotonic() < deadline, "it does not reach its gate"
        time.sleep(0.01)
    worker_shutting_down.send(sender=None)
    at_work.value()
    left = now(request)
    assert (left.status, left.held_code) == (MergeStatus.IN_PROGRESS, None)
    assert committed(lambda session: merges.expire_merges_of(session, LATER)) == [request.bead_id]


def an_abandoned_gate(own_home: Path) -> subprocess.Popen[bytes]:
    worker = subprocess.Popen(["/bin/true"])
    mark = f"{node_mark(own_home)}.{worker.pid}.{processes.birth(worker.pid)}.abc"
    worker.wait()
    gate = subprocess.Popen(["/bin/sleep", "300"], env={MARK: mark})
    deadline = time.monotonic() + 60
    while gate.pid not in processes.marked(MARK, mark):
        assert time.monotonic() < deadline
    return gate


@pytest.mark.parametrize("by", ["stop", "drain"])
def test_a_gate_without_its_worker_ends_with_the_stack(own_home: Path, by: str) -> None:
    settings = get_settings()
    home.prepare(settings)
    gate = an_abandoned_gate(own_home)
    try:
        if by == "stop":
            Supervisor(settings)._stop(drain=False)
        else:
            assert drain(own_home) == 0
        assert gate.wait(timeout=60) == -9
    finally:
        gate.kill()
        gate.wait()
