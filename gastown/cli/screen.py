"""Where commands print: tables and notes, plain when nobody looks at a terminal."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from gastown.cli.words import one_line, to_json
from gastown.states import BeadStatus, DispatchStatus, Resolution, Verdict

PIPED_WIDTH = 200  # of a table that goes to a file or another program
NARROW = 100  # columns of a terminal, below which tables leave out what matters less
_COLOURS = {
    Resolution.MERGED: "green",
    Resolution.NO_CHANGES: "green",
    Resolution.DONE: "green",
    DispatchStatus.SUCCEEDED: "green",
    Resolution.CANCELED: "dim",
    DispatchStatus.STOPPED: "dim",
    BeadStatus.FAILED: "red",
    DispatchStatus.ROLLED_BACK: "yellow",
    DispatchStatus.LOST: "yellow",
    "merge held": "yellow",
    "yours to merge": "yellow",
    "retrying": "yellow",
    Verdict.HELD: "yellow",
    Verdict.BLOCKER_FAILED: "yellow",
    Verdict.MEMBER_FAILED: "yellow",
    Verdict.PAUSED: "yellow",
    Verdict.NO_NODE: "yellow",
    DispatchStatus.RUNNING: "cyan",
    "merging": "cyan",
}

Cell = str | Text


def console(*, err: bool = False) -> Console:
    """Rich, with no interpretation of what is printed: titles may hold brackets."""
    stream = sys.stderr if err else sys.stdout
    width = None if stream.isatty() else int(os.environ.get("COLUMNS") or PIPED_WIDTH)
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False, soft_wrap=False)


def state(words: str) -> Text:
    return Text(words.replace("_", " "), _COLOURS.get(words, ""))


def is_narrow() -> bool:
    return console().width < NARROW


def table(
    heads: Sequence[str], rows: Iterable[Sequence[Cell]], *, flexible: Sequence[str] = (), wrapped: Sequence[str] = ()
) -> Table:
    """Columns as wide as they must be; for want of room `flexible` ones are cut and `wrapped` ones get more lines."""
    made = Table(box=None, pad_edge=False, header_style="bold", show_edge=False, padding=(0, 2, 0, 0))
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    for number, head in enumerate(heads):
        gives_way = (
            head in flexible or head in wrapped
        )  # Rich narrows only columns that may wrap, so the cells are told not to
        widest = max([len(head), *(row[number].cell_len for row in cells)])
        made.add_column(head, no_wrap=not gives_way, min_width=8 if gives_way else widest)
        for row in cells:
            row[number].no_wrap, row[number].overflow = head not in wrapped, "fold" if head in wrapped else "ellipsis"
    for row in cells:
        made.add_row(*row)
    return made


def say(text: Cell = "") -> None:
    """One line, or several, on standard output, unbroken: terminals wrap, and pipes want whole lines."""
    console().print(text, soft_wrap=True)


def note(text: str) -> None:
    """On standard error: for people, not for pipes."""
    sys.stdout.flush()
    console(err=True).print(text, soft_wrap=True)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Says which step a long command is at, on standard error: a line that changes, or one line a step."""
    if not sys.stderr.isatty():
        yield lambda step: note(f"... {one_line(step)}")
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    shown = Progress(*columns, console=console(err=True), transient=True)
    with shown:
        task = shown.add_task("", total=None)
        yield lambda step: shown.update(task, description=escape(one_line(step, 80)))


def print_json(value: object) -> None:
    typer.echo(to_json(value))
