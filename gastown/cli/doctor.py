"""gastown doctor: everything that has to be in order, asked at once; for what is not, why and what to do next."""

import threading
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from gastown.cli.findings import Finding, Level
from gastown.cli.options import AsJson

app = typer.Typer()

Quick = Annotated[bool, typer.Option("--quick", help="Without the container that is started and removed to try it.")]
CHECK_S = 45.0  # of each check; all run at the same time
Check = Callable[[], Sequence[Finding]]

MARKS = {
    Level.GOOD: ("ok", "green"),
    Level.ODD: ("note", "yellow"),
    Level.BAD: ("BAD", "red"),
    Level.LEFT: ("-", "dim"),
}


@app.command()
def doctor(quick: Quick = False, as_json: AsJson = False) -> None:
    """Check that everything Gastown needs from this machine is there and answers. Exit code 1 when something is not."""
    from gastown.cli import screen
    from gastown.cli.words import count

    found = examine(quick=quick)
    bad = sum(each.level is Level.BAD for each in found)
    if as_json:
        screen.print_json(found)
    else:
        _print(found)
        odd = sum(each.level is Level.ODD for each in found)
        noted = f", {count(odd, 'note')}" if odd else ""
        screen.say(f"{count(bad, 'problem')}{noted}" if bad else f"all is well{noted}")
    if bad:
        raise typer.Exit(1)


def examine(*, quick: bool = False) -> list[Finding]:
    """What was found, in the order of the checks. It takes as long as the slowest check, and CHECK_S at most."""
    from gastown.errors import UsageError
    from gastown.settings import get_settings

    try:
        settings = get_settings()
    except UsageError as error:
        return [Finding("settings", Level.BAD, str(error), error.hint)]
    from gastown.cli import checks, checks_of_docker
    from gastown.cli.ask import without_log_lines

    listed: list[tuple[str, Check]] = [
        ("settings", lambda: checks.settings_are_sound(settings)),
        ("home", lambda: checks.home_is_usable(settings)),
        ("git", checks.git_is_there),
        ("database", lambda: checks.database_answers(settings)),
        ("broker", checks.broker_answers),
        ("workers", lambda: checks.workers_answer(settings)),
        ("api", lambda: checks.api_answers(settings)),
        ("nodes", checks.nodes_are_alive),
        ("agents", lambda: checks.programs_are_there(settings)),
        ("docker", lambda: checks_of_docker.engine_is_usable(settings, quick=quick)),
    ]
    with without_log_lines():
        return _all_at_once(listed)


def _all_at_once(listed: Sequence[tuple[str, Check]], limit_s: float = CHECK_S) -> list[Finding]:
    """Each in a thread of its own, which nobody waits for longer than that: it dies with this process."""
    results: dict[str, Sequence[Finding]] = {}

    def run(name: str, check: Check) -> None:
        results[name] = _guarded(name, check)

    threads = {name: threading.Thread(target=run, args=(name, check), name=name, daemon=True) for name, check in listed}
    for thread in threads.values():
        thread.start()
    from time import monotonic

    end = monotonic() + limit_s
    for thread in threads.values():
        thread.join(max(0.0, end - monotonic()))
    silent = f"no answer within {limit_s:.0f} s"
    return [
        finding
        for name in threads
        for finding in results.get(name) or [Finding(name, Level.BAD, silent, "look at what it asks: it hangs")]
    ]


def _guarded(name: str, check: Check) -> Sequence[Finding]:
    """A check that fails is a finding as well."""
    from gastown.errors import GastownError

    try:
        return check()
    except GastownError as error:
        return [Finding(name, Level.BAD, str(error), error.hint)]
    except Exception as error:  # noqa: BLE001 (one check that fails must not take the others with it)
        words = (str(error).strip().splitlines() or ["no reason given"])[0]
        return [Finding(name, Level.BAD, f"the check itself failed: {type(error).__name__}: {words}", "report it")]


def _print(found: Sequence[Finding]) -> None:
    from rich.text import Text

    from gastown.cli import screen
    from gastown.cli.words import in_short

    rows = []
    for each in found:
        mark, colour = MARKS[each.level]
        told = in_short(each.what) + (f"\nnext: {in_short(each.next)}" if each.next else "")
        rows.append((Text(mark, colour), each.name, told))
    screen.console().print(screen.table(("", "what", "found"), rows, wrapped=("found",)))
