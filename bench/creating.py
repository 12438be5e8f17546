"""How fast work comes in: one bead a transaction, and whole plans; and from there to its attempt."""

import time

from bench.report import row
from bench.ticks import BLOCKED, CLOSED, _settle, single_row_commit
from bench.town import BenchTown, bench_town

WAS_CREATES, WAS_SLINGS = 305.0, 68.0  # a second
PLAN = 1000
SINGLES = 400


def creating() -> None:
    """Beads a second, in an empty town and after years. Ratios are to commits of one row a second on this server."""
    with bench_town() as town:
        commits = 1 / single_row_commit()
        for closed, blocked in ((1000, 100), (CLOSED, BLOCKED)):
            town.history.grow(closed=closed, blocked=blocked)
            _settle(town)
            many, one, slung = max(_plans(town) for _ in range(3)), _singles(town), _to_attempt(town)
            where = f"among {closed:,} closed"
            row(f"creating  a plan of {PLAN} {where}", f"{many:.0f}/s", _ahead(many, WAS_CREATES), ratio=many / commits)
            row(f"creating  one a transaction {where}", f"{one:.0f}/s", _ahead(one, WAS_CREATES), ratio=one / commits)
            row(
                f"creating  slung and dispatched {where}",
                f"{slung:.0f}/s",
                _ahead(slung, WAS_SLINGS),
                ratio=slung / commits,
            )


def _ahead(rate: float, was: float) -> str:
    return f"predecessor {was:.0f}/s, {rate / was:.1f}x"


def _plans(town: BenchTown) -> float:
    from gastown.commands import plans, towns
    from gastown.db import in_transaction

    town.clear()
    plan = plans.Plan(bead=[plans.PlannedBead(id=str(n), title=f"bead {n}") for n in range(PLAN)])

    def write(session):  # type: ignore[no-untyped-def]
        rig = towns.get_rig(session, town.id, "bench")
        agents = {bead.id: "shell" for bead in plan.bead}
        return plans.sling_plan(session, town.id, plan, {None: rig}, agents, "run:bench")

    began = time.perf_counter()
    in_transaction(write)
    return PLAN / (time.perf_counter() - began)


def _singles(town: BenchTown) -> float:
    town.clear()
    began = time.perf_counter()
    for _ in range(SINGLES):
        town.sling(1)
    return SINGLES / (time.perf_counter() - began)


def _to_attempt(town: BenchTown) -> float:
    """Each bead in a transaction of its own; ticks beside them, as pokes would bring."""
    from gastown.tasks.reconcile import reconcile  # not before the broker's address is known

    town.clear()
    town.beat()
    began = time.perf_counter()
    for number in range(SINGLES):
        town.sling(1)
        if number % 20 == 19:
            reconcile()
    return SINGLES / (time.perf_counter() - began)
