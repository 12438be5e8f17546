"""The beads of a run while they work: a live table on a terminal, else a line for each change."""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from sqlalchemy.orm import Session

from gastown.cli import screen
from gastown.cli.ask import ask
from gastown.cli.beads import state_of, what_of
from gastown.cli.words import in_short, one_line, span
from gastown.commands.plans import RUN_LABEL
from gastown.embedded import control
from gastown.errors import DatabaseUnavailable, StackUnavailable
from gastown.settings import get_settings
from gastown.states import RELEASING
from gastown.store import explain, listing
from gastown.store.advice import needs_a_person
from gastown.store.listing import BeadRow

POLL_S = 0.5
SETTLED_LOOKS = 3  # a bead that needs a person may only be between two moves
GONE_S = 60.0  # Postgres or the stack may be away for so long, while they are restarted


def watch(run_id: str, bead_ids: list[str], *, quiet: bool) -> list[BeadRow]:
    """Until every bead has ended or waits for a person; how they stand then.

    Raises StackUnavailable or DatabaseUnavailable when nothing can happen any more.
    """
    watcher = _Watcher(run_id, bead_ids)
    if quiet or not sys.stdout.isatty():
        printer = _ChangePrinter()
        return watcher.until_settled(printer.show)
    with Live(console=screen.console(), refresh_per_second=4, transient=False) as live:
        return watcher.until_settled(lambda rows, trouble: live.update(_table(run_id, rows, trouble, watcher.began)))


class _Watcher:
    def __init__(self, run_id: str, bead_ids: list[str]) -> None:
        self._run_id, self._bead_ids = run_id, list(bead_ids)
        self.began = self._seen_well = time.monotonic()

    def until_settled(self, show: Callable[[list[BeadRow], str], None]) -> list[BeadRow]:
        rows: list[BeadRow] = []
        settled = 0
        while True:
            trouble = self._trouble()
            try:
                rows = self._read()
            except DatabaseUnavailable as error:
                if time.monotonic() - self._seen_well > GONE_S:
                    raise DatabaseUnavailable(str(error), hint=f"gastown run --resume {self._run_id}") from error
                trouble = str(error)
            show(rows, trouble)
            settled = settled + 1 if rows and not trouble and all(is_settled(row) for row in rows) else 0
            if settled and (settled >= SETTLED_LOOKS or all(row.terminal for row in rows)):
                return rows
            time.sleep(POLL_S)

    def _read(self) -> list[BeadRow]:
        def read(session: Session, town_id: int) -> list[BeadRow]:
            while True:  # agents may have filed more: before their own beads ended, so none of these is missed
                rows = listing.beads_by_id(session, town_id, self._bead_ids)
                of_run = listing.beads_with_label(session, town_id, RUN_LABEL + self._run_id)
                filed = [each for each in of_run if each not in self._bead_ids]
                if not filed:
                    return explain.with_live_holds(session, town_id, rows)
                self._bead_ids += filed

        return ask(read)

    def _trouble(self) -> str:
        """Why nothing happens, if the stack of this home is ours to look at. Raises StackUnavailable in the end."""
        settings = get_settings()
        now = control.read_status(settings)
        if now.is_up or not settings.embedded_database:
            self._seen_well = time.monotonic()
            return ""
        if not now.alive:
            hint = f"gastown run --resume {self._run_id}"
            raise StackUnavailable(f"the stack went down: {now.reason or 'somebody stopped it'}", hint=hint)
        if time.monotonic() - self._seen_well > GONE_S:
            raise StackUnavailable(f"the stack is {now.state}", hint="gastown status")
        return f"the stack is {now.state}"


def is_settled(row: BeadRow) -> bool:
    """Whether this run has nothing more to wait for: it has ended, or a person is needed."""
    return row.terminal or needs_a_person(
        row.status,
        row.verdict,
        live=row.live,
        held_by_hand=row.held_by_hand,
        held_code=row.held_code,
        review_over=row.review_over,
    )


class _ChangePrinter:
    """For pipes and files: a line when a bead has moved."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[object, ...]] = {}
        self._trouble = ""

    def show(self, rows: Sequence[BeadRow], trouble: str) -> None:
        if trouble != self._trouble and trouble:
            screen.note(f"{datetime.now().astimezone():%H:%M:%S} {trouble}")
        self._trouble = trouble
        for row in rows:
            state = state_of(row)
            now = (state, row.attempts, row.held_reason)
            if self._said.get(row.id) != now:
                self._said[row.id] = now
                screen.note(f"{datetime.now().astimezone():%H:%M:%S} {row.id} {move_of(row)}")


def _table(run_id: str, rows: Sequence[BeadRow], trouble: str, began: float) -> Group:
    """What fits on the screen; those that have ended give way first."""
    done = sum(row.resolution in RELEASING for row in rows)
    head = Text(f"run {run_id}  {done} of {len(rows)} done  {span(time.monotonic() - began)}", "bold")
    if trouble:
        head.append(f"  {one_line(trouble, 100)}", "yellow")
    room = max(3, shutil.get_terminal_size().lines - 5)
    shown = list(rows)
    for row in [row for row in rows if row.terminal]:
        if len(shown) <= room:
            break
        shown.remove(row)
    left_out = len(rows) - len(shown[:room])
    more = [Text(f"and {left_out} more", "dim")] if left_out else []
    return Group(
        head, beads_table(shown[:room]), *more, Text()
    )  # a line for ^C: in a full one it would break the picture


def beads_table(rows: Sequence[BeadRow]) -> Table:
    """A bead a line; 80 columns are enough."""
    heads = ("id", "state", "tries", "agent", "title", "what")
    cells = [
        (
            row.id,
            screen.state(state_of(row)),
            str(row.attempts),
            row.agent or "-",
            one_line(row.title, 60),
            f"as {row.merged_sha[:12]}" if row.merged_sha else in_short(what_of(row), 100),
        )
        for row in rows
    ]
    return screen.table(heads, cells, flexible=("title", "what"))


def move_of(row: BeadRow) -> str:
    """Where a bead stands now, for a line a change."""
    by = f" by {row.agent}" if row.live and row.agent else ""
    more = "" if row.live else in_short(what_of(row), 160)
    tries = f" attempt {row.attempts}{by}" if row.live else f" ({more})" if more else ""
    return f"{state_of(row).replace('_', ' ')}{tries}: {one_line(row.title, 60)}"
