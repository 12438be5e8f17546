"""What a tick costs: with nothing to do, whatever the history; with agents at work; and of decisions by the hundred."""

import os
import time

import psycopg
from sqlalchemy import event, text

from bench.report import median_of, ms, row
from bench.server import execute
from bench.town import BenchTown, bench_town

# The hosted predecessor on a machine like this one (docs/benchmarks.md)
WAS_IDLE_MS = {"nothing": 5.0, "50 k closed": 58.0, "50 k blocked": 510.0}
WAS_WORKING_MS = 0.9  # of each working agent, in each tick
WAS_DISPATCH_MS = {0: 4.4, 50_000: 24.5}  # each of 100, by closed beads
WAS_BURST = 212.0  # dispatches a second, at best
CLOSED, BLOCKED = (int(each) for each in os.environ.get("BENCH_SIZES", "1000000,100000").split(","))
WORKING = 200
LEASE_S, TICK_S = 45, 5


def idle_tick() -> None:
    """A tick with nothing due. The ratio is to the same with 1 k closed beads; the bar is 1.5, and 10 ms."""
    with bench_town() as town:
        from gastown.tasks.reconcile import reconcile

        nothing = median_of(reconcile, 300)
        _say_idle("nothing", nothing, nothing)
        town.history.grow(closed=1000, blocked=100)
        _settle(town)
        base = median_of(reconcile, 300)
        _say_idle("1 k closed, 100 blocked", base, base)
        for closed, blocked, name in (
            (50_000, 100, "50 k closed"),
            (50_000, 50_000, "50 k blocked"),
            (CLOSED, BLOCKED, f"{CLOSED:,} closed, {BLOCKED:,} blocked"),
        ):
            grown_s = town.history.grow(closed=min(closed, CLOSED), blocked=min(blocked, BLOCKED))
            _settle(town)
            print(f"  ({name}: made in {grown_s:.0f} s)", flush=True)
            _say_idle(name, median_of(reconcile, 300), base)


def _say_idle(name: str, took: float, base: float) -> None:
    was = WAS_IDLE_MS.get(name)
    ahead = f"predecessor {was:.0f} ms, {was / took / 1e3:.0f}x" if was else ""
    row(f"idle-tick  {name}", ms(took), ahead, ratio=took / base, of="to 1 k closed:")


def _settle(town: BenchTown) -> None:
    """What bulk loading leaves behind is not what is measured."""
    execute("VACUUM ANALYZE", "CHECKPOINT")
    town.beat()


def working_tick() -> None:
    """A tick among agents at work, whose leases are looked at and extended. The ratio is to a commit of one row."""
    with bench_town() as town:
        from gastown.tasks.reconcile import reconcile

        commit = single_row_commit()
        town.sling(WORKING)
        reconcile()
        town.set_running()
        reconcile()
        began, ticks = time.perf_counter(), LEASE_S // TICK_S
        with _Ahead() as clock:
            for number in range(1, ticks + 1):
                clock.advance(TICK_S)
                execute(
                    f"UPDATE dispatches SET heartbeat_at = gastown_now() + interval '{number * TICK_S} s', "
                    f"lease_expires_at = gastown_now() + interval '{number * TICK_S + LEASE_S} s' "
                    "WHERE status = 'running'"
                )
                reconcile()
        each = (time.perf_counter() - began) / ticks / WORKING
        row(
            f"working-tick  {WORKING} agents, {ticks} ticks",
            f"{each * 1e3:.3f} ms of each agent in each tick",
            f"predecessor {WAS_WORKING_MS} ms, {WAS_WORKING_MS / each / 1e3:.0f}x",
            ratio=each / commit,
            of="to a commit of one row:",
        )


def dispatching() -> None:
    """100 ready beads in one tick: decided, written, committed, published. And 1,000, as a burst."""
    with bench_town() as town:
        commit, message = single_row_commit(), one_message()
        row("dispatching  a commit of one row", ms(commit), ratio=1.0)
        row("dispatching  one bare Celery message", ms(message), ratio=message / commit, of="to a commit of one row:")
        base = 0.0
        for closed, blocked in ((0, 0), (1000, 100), (50_000, 100), (CLOSED, BLOCKED)):
            town.history.grow(closed=closed, blocked=blocked)
            _settle(town)
            runs = [_dispatch(town, 100) for _ in range(7)]
            each, cpu = min(run[0] for run in runs) / 100, min(run[1] for run in runs) / 100
            base = each if closed <= 1000 else base
            was = WAS_DISPATCH_MS.get(closed)
            row(
                f"dispatching  100 among {closed:,} closed",
                f"{each * 1e3:.3f} ms each ({runs[0][2]} statements, {cpu * 1e3:.3f} ms CPU each)",
                f"predecessor {was} ms, {was / each / 1e3:.0f}x" if was else "",
                f"{each / commit:.2f} commits of one row, {each / message:.2f} bare messages",
                ratio=each / base,
                of="to 1 k closed:",
            )
        took = min(_dispatch(town, 1000)[0] for _ in range(3))
        row("dispatching  a burst of 1,000", f"{1000 / took:.0f}/s", ratio=1000 / took / WAS_BURST, of="to 212/s:")


def _dispatch(town: BenchTown, count: int) -> tuple[float, float, int]:
    """(seconds, CPU seconds of this process, statements) of the tick that starts so many."""
    from gastown.db import engine
    from gastown.tasks.reconcile import reconcile

    town.clear()
    town.beat()
    town.sling(count)
    statements = 0

    def note(*_: object) -> None:
        nonlocal statements
        statements += 1

    event.listen(engine(), "before_cursor_execute", note)
    began, cpu = time.perf_counter(), time.process_time()
    while claims_something(town.id):  # a tick is bounded in time, and pokes itself
        reconcile()
    taken = time.perf_counter() - began, time.process_time() - cpu, statements
    event.remove(engine(), "before_cursor_execute", note)
    with engine().connect() as connection:
        made = connection.scalar(text("SELECT count(*) FROM dispatches WHERE status = 'queued'"))
    assert made == count, f"{made} of {count} were dispatched"
    return taken


def claims_something(town_id: int) -> bool:
    from gastown.db import transaction
    from gastown.store import claims

    with transaction() as session:
        return claims.something_due(session, town_id)


def single_row_commit() -> float:
    """The median time of a commit that inserts one row, on the same server, in seconds."""
    with psycopg.connect(os.environ["GASTOWN_DATABASE_URL"]) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS bench_rows (n bigint)")
        connection.commit()

        def once() -> None:
            connection.execute("INSERT INTO bench_rows VALUES (1)")
            connection.commit()

        return median_of(once, 300)


def one_message() -> float:
    """The median time of publishing one bare Celery message, in seconds."""
    from gastown.celery_app import app

    return median_of(lambda: app.send_task("bench.nothing", args=["x"], queue="bench", routing_key="bench"), 300)


class _Ahead:
    """The database's clock, as the transactions of this process see it, ahead by what was advanced."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def advance(self, seconds: float) -> None:
        self.ahead_s += seconds

    def _set(self, connection: object) -> None:
        connection.exec_driver_sql(  # type: ignore[attr-defined]
            f"SELECT set_config('gastown.now', (clock_timestamp() + interval '{self.ahead_s} s')::text, true)"
        )

    def __enter__(self) -> "_Ahead":
        from gastown.db import engine

        event.listen(engine(), "begin", self._set)
        return self

    def __exit__(self, *_: object) -> None:
        from gastown.db import engine

        event.remove(engine(), "begin", self._set)
