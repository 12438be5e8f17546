"""How long a failed start keeps its bead waiting, and what one that hangs does to the others: on a whole stack."""

import os
import statistics
import time
from pathlib import Path

from sqlalchemy import select

from bench.report import row
from bench.stack import live_stack, make_repository

WAS_BUSY_S, WAS_QUIET_S = 105.0, 400.0  # the predecessor's first retry after a failed start
WAS_STALLED_S = 60.0  # ... and how long one hanging start kept its whole town
ROUNDS = 10
HANG_S = 20
OTHERS = 6


def first_retry() -> None:
    """From the failure of a start to the commit of the next attempt. The ratio is to the predecessor's busy town."""
    with live_stack() as folder:
        rig = _Rig(folder)
        rig.run_one("")  # the mirror is made
        for fault in ("raise", "refuse", "kill_child"):
            gaps = [rig.gap(fault) for _ in range(ROUNDS if fault != "kill_child" else 4)]
            median = statistics.median(gaps)
            figures = f"median {median * 1e3:.0f} ms  longest {max(gaps) * 1e3:.0f} ms"
            was = f"predecessor {WAS_BUSY_S:.0f} to {WAS_QUIET_S:.0f} s"
            row(f"first-retry  {fault}, {len(gaps)} times", figures, was, ratio=WAS_BUSY_S / median, of="ahead:")


def hanging_start() -> None:
    """One start hangs while others are slung: how long these wait for their attempts. The ratio is to none hanging."""
    with live_stack() as folder:
        rig = _Rig(folder)
        rig.run_one("")
        calm = rig.longest_wait()
        rig.sling(f"slow {HANG_S}")
        stalled = rig.longest_wait()
        figures = f"longest {stalled * 1e3:.0f} ms, {calm * 1e3:.0f} ms without"
        was = f"predecessor {WAS_STALLED_S:.0f} s"
        row(f"hanging-start  {OTHERS} others beside it", figures, was, ratio=stalled / calm, of="to none hanging:")


class _Rig:
    def __init__(self, folder: Path) -> None:
        from gastown.commands import towns
        from gastown.db import in_transaction
        from gastown.presets.environment import capture

        self.faults = folder / "faults"
        repository = folder / "repository"
        make_repository(repository)
        new = towns.NewRig(
            name="bench", repository=str(repository), branch="main", agent="shell", environment=capture(os.environ)
        )
        in_transaction(lambda session: towns.add_rig(session, towns.ensure_town(session, "default"), new).id)

    def sling(self, fault: str) -> str:
        from gastown.commands import towns, work
        from gastown.db import in_transaction
        from gastown.demo import faults
        from gastown.tasks.base import poke

        def write(session):  # type: ignore[no-untyped-def]
            town = towns.ensure_town(session, "default")
            bead = work.sling(
                session, town, towns.get_rig(session, town, "bench"), work.NewBead(title="x", body="true")
            )
            if fault:
                faults.order(self.faults, bead, 1, fault)
            return bead

        bead_id = in_transaction(write)
        poke()
        return bead_id

    def run_one(self, fault: str) -> str:
        bead_id = self.sling(fault)
        _until(lambda: _closed(bead_id))
        return bead_id

    def gap(self, fault: str) -> float:
        """From the fault to the next attempt's row, in seconds."""
        from gastown.db import transaction
        from gastown.demo import faults
        from gastown.models import Dispatch

        bead_id = self.run_one(fault)
        struck = faults.struck_at(self.faults, bead_id, 1)
        with transaction() as session:
            second = select(Dispatch.queued_at).where(Dispatch.bead_id == bead_id, Dispatch.epoch == 2)
            queued_at = session.scalars(second).one()
        assert struck is not None
        return (queued_at - struck).total_seconds()

    def longest_wait(self) -> float:
        """Of beads that are slung now: from their creation to their attempt's first call, in seconds."""
        from gastown.db import transaction
        from gastown.models import Bead, Dispatch

        waits = []
        for _ in range(OTHERS):
            bead_id = self.run_one("")
            with transaction() as session:
                times = select(Bead.created_at, Dispatch.started_at).join(Dispatch, Dispatch.bead_id == Bead.id)
                created_at, started_at = session.execute(times.where(Bead.id == bead_id)).one()
            waits.append((started_at - created_at).total_seconds())
        return max(waits)


def _closed(bead_id: str) -> bool:
    from gastown.db import transaction
    from gastown.models import Bead

    with transaction() as session:
        return session.get_one(Bead, bead_id).status == "closed"


def _until(probe) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 120
    while not probe():
        if time.monotonic() > deadline:
            raise RuntimeError("it did not end within 120 s")
        time.sleep(0.02)
