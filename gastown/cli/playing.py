"""The demo on the screen: what will happen, what happens, what happened, and what to type next."""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from gastown import settings
from gastown.cli import INTERRUPTED, screen
from gastown.cli.beads import state_of
from gastown.cli.board import beads_table, move_of
from gastown.cli.running import signals_interrupt
from gastown.demo import place, repository
from gastown.demo.place import Place
from gastown.settings import Settings
from gastown.states import Resolution

if TYPE_CHECKING:
    from gastown.demo.script import Fault, Play

LOOK_S = 0.15


def play(*, keep: bool | None, plain: bool) -> int:
    """The exit code: 0 when every bead is merged exactly once, 1 when not, 130 after Ctrl-C."""
    watched = sys.stdout.isatty()
    stays = watched if keep is None else keep
    live = watched and not plain and not screen.console().is_dumb_terminal
    began = time.monotonic()
    with place.claimed(settings.home()) as where:
        place.enter(where)
        stack = None
        outcome = INTERRUPTED
        bead_id = ""
        try:
            with signals_interrupt():
                _announce(where)
                stack = place.make_anew(where)
                outcome, bead_id = _play(where, stack, began, live=live)
        except KeyboardInterrupt:
            screen.note("interrupted")
        finally:
            if stack is not None and not (bead_id and stays):
                _stop(where, stack)
        if bead_id:
            _say_what_next(where, bead_id, stays=stays)
    return outcome


def _announce(where: Place) -> None:
    screen.say("Gastown now works on a small Python package: five beads, merged as tests pass.")
    screen.say("On purpose two starts fail, then an agent is killed, then the worker itself.")
    screen.say(f"All of it is in {_short(where.home)}, takes about a minute, and Ctrl-C ends it.\n")


def _play(where: Place, stack: Settings, began: float, *, live: bool) -> tuple[int, str]:
    """The exit code, and the bead with the most to tell."""
    with screen.progress() as progress:
        progress("starting Postgres, Redis, the workers and the API")
        where.start(stack)
    from gastown.demo import story  # now, since the Celery app takes its broker from the settings when it is imported
    from gastown.demo.script import Play

    up = time.monotonic()
    show = Play(where, stack)
    if live:
        with Live(console=screen.console(), refresh_per_second=8) as picture:
            _perform(show, lambda: picture.update(_picture(show, began)))
    else:
        lines = _Lines(began)
        _perform(show, lambda: lines.show(show))
    wrong = story.problems(show)
    took = time.monotonic()
    if wrong:
        _say_what_is_wrong(where, wrong)
    else:
        _conclude(show, up - began, took - up)
    unmerged = (row.id for row in show.rows if row.resolution != Resolution.MERGED)
    return 1 if wrong else 0, next(unmerged, show.longest)


def _perform(show: "Play", look: Callable[[], None]) -> None:
    for _ in show.perform():
        look()
        time.sleep(LOOK_S)
    look()


# --- while it happens


def _picture(show: "Play", began: float) -> RenderableType:
    from gastown.demo import story

    merged = sum(row.resolution == Resolution.MERGED for row in show.rows)
    parts: list[RenderableType] = [
        Text(f"{merged} of {len(repository.CHORES)} merged, {time.monotonic() - began:.0f} s", "bold"),
        beads_table(show.rows),
    ]
    struck = _struck(show)
    if struck:
        parts.append(Text("\nwhat was broken, and what Gastown did", "bold"))
    for at_s, fault in ((_seconds(fault.struck_at, began), fault) for fault in struck):
        parts.append(Text(f"{at_s:5.1f} s  {story.broken(fault)}", "red", no_wrap=True, overflow="ellipsis"))
        done = story.mended(fault)
        parts.append(Text(f"      -> {done or '...'}", "green" if done else "dim", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


class _Lines:
    """A line for each change, for pipes, files and --plain."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._said: set[tuple[str, str]] = set()
        self._stood: dict[str, tuple[str, int]] = {}

    def show(self, show: "Play") -> None:
        from gastown.demo import story

        for fault in _struck(show):
            self._once(fault, "FAULT", story.broken(fault), _seconds(fault.struck_at, self._began))
            if self._is_known(fault):
                self._once(fault, "   ->", story.mended(fault), time.monotonic() - self._began)
        for row in show.rows:
            stands = (state_of(row), row.attempts)
            if self._stood.get(row.id) != stands:
                self._stood[row.id] = stands
                self._line(f"{row.id}  {move_of(row)}", time.monotonic() - self._began)

    def _once(self, fault: "Fault", mark: str, words: str, at_s: float) -> None:
        if (mark, fault.kind) not in self._said:
            self._said.add((mark, fault.kind))
            self._line(f"{mark}  {words}", at_s)

    @staticmethod
    def _is_known(fault: "Fault") -> bool:
        """Whether everything that is to be said about its end is known."""
        from gastown.demo.script import Kind

        match fault.kind:
            case Kind.KILL_AGENT:
                return fault.resumed
            case Kind.KILL_WORKER:
                return fault.next_at is not None and fault.back_at is not None
        return fault.next_at is not None

    @staticmethod
    def _line(words: str, at_s: float) -> None:
        screen.say(f"{at_s:5.1f} s  {words}")
        sys.stdout.flush()


def _struck(show: "Play") -> "list[Fault]":
    return sorted((fault for fault in show.faults if fault.struck_at), key=lambda fault: str(fault.struck_at))


def _seconds(at: datetime | None, began: float) -> float:
    """Since the demo began, of a moment of the wall clock."""
    now = datetime.now(UTC)
    return time.monotonic() - began - (now - (at or now)).total_seconds()


# --- when it is over


def _conclude(show: "Play", start_s: float, took_s: float) -> None:
    from gastown.demo import story

    screen.say(f"\nevery bead is merged exactly once: so say git and the database of {repository.BRANCH}\n")
    screen.say(repository.graph(show.place.repository))
    screen.say("\nfrom each fault to the next attempt on its bead:")
    for fault in _struck(show):
        screen.say(f"  {story.NAMES[fault.kind]:<22}{story.seconds(fault.recovery_s or 0):>7}")
    screen.say(f"time: {start_s:.0f} s to start everything, {took_s:.0f} s for the beads")


def _say_what_is_wrong(where: Place, wrong: list[str]) -> None:
    screen.note("\ngastown: the demo did not go as it should")
    for each in wrong:
        screen.note(f"  {each}")
    screen.note(f"next: look into {_short(where.home / 'log')}, or ask about a bead as follows")


def _say_what_next(where: Place, bead_id: str, *, stays: bool) -> None:
    command = _command(where)
    screen.say("\ntry next:")
    if not stays:
        screen.say(f"  {command} up --detach")
    for words in ("why", "logs", "bead show"):
        screen.say(f"  {command} {words} {bead_id}")
    screen.say("its stack is still up; to end it:" if stays else "and in the end:")
    screen.say(f"  {command} down")


def _stop(where: Place, stack: Settings) -> None:
    try:
        with screen.progress() as progress:
            progress("stopping the demo's stack")
            where.stop(stack)
    except KeyboardInterrupt:
        screen.note(f"it goes on stopping by itself; to be sure: {_command(where)} down")
    else:
        screen.note("nothing of the demo runs any more")


def _command(where: Place) -> str:
    """`gastown` for the demo's home, as it can be typed here."""
    program = Path(sys.executable).with_name("gastown")
    on_path = shutil.which("gastown")
    if not program.is_file():
        words = f"{shlex.quote(sys.executable)} -m gastown.cli"
    elif on_path and Path(on_path).resolve() == program.resolve():
        words = "gastown"
    elif program.is_relative_to(Path.cwd()):
        words = shlex.quote(str(program.relative_to(Path.cwd())))
    else:
        words = shlex.quote(str(program))
    return f"GASTOWN_HOME={_short(where.home)} {words}"


def _short(path: Path) -> str:
    """A path as a shell understands it, with ~ for the home folder."""
    person = os.environ.get("HOME")
    if person and path.is_relative_to(person):
        rest = str(path.relative_to(person))
        if shlex.quote(rest) == rest:
            return f"~/{rest}"
    return shlex.quote(str(path))
