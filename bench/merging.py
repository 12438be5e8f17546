"""What merges cost: alone, and in batches, which save gate runs. On a whole stack, with requests that wait already."""

import itertools
import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import func, select, text, update

from bench.report import row
from bench.stack import live_stack, processes

SERIAL_BAR, BATCHED_BAR, OVERHEAD_BAR_S = 1.3, 0.4, 0.3
REQUESTS, GATE_S, BATCH = 10, 1.0, 8
UNGATED = 20
MANY, BAD = 16, (0, 1, 3)
ENDS_WITHIN_S = 300


def merging() -> None:
    with live_stack() as folder:
        town = _Town(folder)
        town.merge([""], [], 1)  # the mirror is made
        gate = [f"sleep {GATE_S:g}"]
        took_s, total_s = town.merge([""] * REQUESTS, gate, 1), REQUESTS * GATE_S
        name = f"merging  {REQUESTS} requests, gate {GATE_S:g} s"
        figures = (f"{took_s:.2f} s", f"{total_s:.0f} s of gates")
        row(f"{name}, one by one", *figures, f"bar {SERIAL_BAR}", ratio=took_s / total_s, of="to their gates:")
        took_s = town.merge([""] * REQUESTS, gate, BATCH)
        figures = (f"{took_s:.2f} s", f"{town.gate_runs()} gate runs")
        row(f"{name}, batches of {BATCH}", *figures, f"bar {BATCHED_BAR}", ratio=took_s / total_s, of="to their gates:")
        before = _cpu_s()
        each_s = town.merge([""] * UNGATED, [], 1) / UNGATED
        cpu_s, median_s = (_cpu_s() - before) / UNGATED, town.median_s()
        figures = (f"{each_s * 1e3:.0f} ms each, median {median_s * 1e3:.0f}", f"{cpu_s * 1e3:.0f} ms of CPU, all told")
        row(f"merging  {UNGATED} requests, no gate", *figures, ratio=each_s / OVERHEAD_BAR_S, of="to 300 ms:")
        for batch in (1, BATCH, MANY):
            for bad in BAD:
                _gate_runs(town, batch, bad)


def _cpu_s() -> float:
    """Of the whole stack: workers, git, database, broker, API and beat."""
    times = [process.cpu_times() for process in processes()]
    return sum(each.user + each.system + each.children_user + each.children_system for each in times)


def _gate_runs(town: "_Town", batch: int, bad: int) -> None:
    """The bad ones are spread over the queue."""
    faults = ["bad" if number % 5 == 3 and number // 5 < bad else "" for number in range(MANY)]
    town.merge(faults, ["! ls | grep -q bad"], batch)
    merged, runs = town.merged(), town.gate_runs()
    assert merged == MANY - bad, f"{merged} merged"
    figures = (f"{runs} gate runs", f"{merged} merged")
    row(f"gate runs  {MANY} requests, {bad} bad, batches of {batch}", *figures, ratio=runs / merged, of="each:")


class _Town:
    """A repository, and merge requests into it that all come at once."""

    def __init__(self, folder: Path) -> None:
        from gastown.commands import towns
        from gastown.db import in_transaction
        from gastown.presets.environment import capture

        self.repository, self.log = folder / "server.git", folder / "gates"
        self._git("init", "-q", "--bare", "-b", "main", str(self.repository), at=folder)
        tree = self._git("mktree", given="")
        self._git("update-ref", "refs/heads/main", self._git("commit-tree", tree, "-m", "first"))
        new = towns.NewRig(
            name="bench", repository=str(self.repository), branch="main", agent="shell", environment=capture(os.environ)
        )
        self.rig_id = in_transaction(lambda s: towns.add_rig(s, towns.ensure_town(s, "default"), new).id)
        self._batch: list[int] = []

    def _git(self, *words: str, at: Path | None = None, given: str | None = None) -> str:
        who = {f"GIT_{role}_{part}": "bench" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
        done = subprocess.run(
            ["git", *words], cwd=at or self.repository, env=os.environ | who, input=given, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.strip()

    def _heads(self, faults: Sequence[str]) -> list[str]:
        """A commit for each, with one file, on the target as it is; kept where an attempt's supervisor keeps it."""
        from gastown.agent.mirror import Mirror
        from gastown.settings import get_settings

        heads, base, stamp = [], self._git("rev-parse", "main"), time.monotonic_ns()
        listed = self._git("ls-tree", "main")
        for number, fault in enumerate(faults):
            blob = self._git("hash-object", "-w", "--stdin", given=f"{number}\n")
            entry = f"100644 blob {blob}\t{fault or 'good'}-{stamp}-{number}"
            tree = self._git("mktree", given=f"{listed}\n{entry}\n".lstrip())
            head = self._git("commit-tree", tree, "-p", base, "-m", f"work {number}")
            self._git("update-ref", f"refs/gastown/head/{stamp}/{number}", head)
            heads.append(head)
        mirror = Mirror.open(get_settings().home, self.rig_id, str(self.repository))
        mirror.fetch("+refs/gastown/head/*:refs/gastown/head/*")
        return heads

    def merge(self, faults: Sequence[str], commands: Sequence[str], batch: int) -> float:
        """From the commit of the requests to the end of the last one, in seconds. A fault is what the gate finds."""
        from gastown.db import transaction
        from gastown.gates import named, stored
        from gastown.models import MergeRequest, Rig
        from gastown.states import DispatchStatus
        from gastown.tasks.base import poke
        from tests.builders import an_attempt

        heads = self._heads(faults)
        self.log.unlink(missing_ok=True)
        gates = stored(named([f"echo run >> {self.log}; {command}" for command in commands]))
        with transaction() as session:
            values = {"gates": gates, "policy": {"merge_batch": batch}}
            session.execute(update(Rig).where(Rig.id == self.rig_id).values(**values))
            session.execute(text("UPDATE merge_requests SET held_code = NULL, held_reason = NULL, status = 'closed'"))
            session.execute(
                text("UPDATE beads SET status = 'closed', resolution = 'canceled', closed_at = gastown_now() "
                     "WHERE status = 'in_review'")
            )  # fmt: skip
        self._batch = []
        with transaction() as session:
            rig = session.get_one(Rig, self.rig_id)
            for head in heads:
                made = an_attempt(session, DispatchStatus.SUCCEEDED, rig=rig)
                request = session.scalars(select(MergeRequest).where(MergeRequest.dispatch_id == made.id)).one()
                request.head_sha, request.head_ref = head, "refs/gastown/head/none"
                self._batch.append(request.id)
        began = time.perf_counter()
        poke()
        waiting = select(func.count()).where(
            MergeRequest.id.in_(self._batch), MergeRequest.status != "closed", MergeRequest.held_code.is_(None)
        )
        while True:
            with transaction() as session:
                if not session.scalar(waiting):
                    return time.perf_counter() - began
            if time.perf_counter() - began > ENDS_WITHIN_S:
                raise RuntimeError(f"merges did not end within {ENDS_WITHIN_S} s")
            time.sleep(0.01)

    def gate_runs(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def merged(self) -> int:
        from gastown.db import transaction
        from gastown.models import MergeRequest

        done = select(func.count()).where(MergeRequest.id.in_(self._batch), MergeRequest.merged_sha.is_not(None))
        with transaction() as session:
            return session.scalars(done).one()

    def median_s(self) -> float:
        """From one record to the next."""
        from gastown.db import transaction
        from gastown.models import MergeRequest

        times = select(MergeRequest.merged_at).where(MergeRequest.id.in_(self._batch)).order_by(MergeRequest.merged_at)
        with transaction() as session:
            at = session.scalars(times).all()
        return statistics.median((later - sooner).total_seconds() for sooner, later in itertools.pairwise(at))
