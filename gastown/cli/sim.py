"""gastown sim: the whole product by seed, with every fault there is, on a Postgres of its own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gastown.sim.database import Server
    from gastown.sim.report import Totals

app = typer.Typer()

Seed = Annotated[int | None, typer.Option("--seed", min=0, help="The seed; without one, a fresh one each time.")]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="How many seeds, one after another.")]
Steps = Annotated[int, typer.Option("--steps", min=1, help="Steps of each seed, before it settles.")]
Replay = Annotated[Path | None, typer.Option("--replay", help="A history that failed, to run once more, exactly.")]
Shorten = Annotated[float, typer.Option("--shorten", min=0, help="Seconds to look for a shorter history that fails.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


@app.command()
def sim(
    seed: Seed = None,
    seeds: Seeds = 1,
    steps: Steps = 1000,
    replay: Replay = None,
    shorten: Shorten = 60.0,
    as_json: AsJson = False,
) -> None:
    """Simulate a town with every fault there is, and look after each step whether a promise is broken.

    What fails is written to a file that --replay takes. Nothing of your own installation is touched. Exit code 1 when
    a promise was broken.
    """
    from gastown.cli import screen
    from gastown.sim import report

    with report.place() as server:
        if replay is not None:
            totals = report.run_again(server, *_history(replay))
        else:
            totals = report.run(server, seed, seeds, steps, say=(lambda _: None) if as_json else screen.say)
        written = None if replay is not None else _write_failure(server, totals, shorten)
    if as_json:
        screen.print_json(_summary(totals, written))
    else:
        _tell(totals, written)
    if totals.failure is not None:
        raise typer.Exit(1)


def _history(path: Path) -> tuple[int, list[str]]:
    from gastown.errors import UsageError
    from gastown.sim.runs import load

    try:
        return load(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} holds no history: {error}", hint="gastown sim --seed N writes one that fails"
        ) from error


def _write_failure(server: "Server", totals: "Totals", within_s: float) -> Path | None:
    from gastown.sim import report, runs

    if totals.failure is None:
        return None
    totals.failure = report.shortest(server, totals.failure, within_s)
    path = report.default_file(totals.failure)
    runs.save(totals.failure, path)
    return path


def _summary(totals: "Totals", written: Path | None) -> dict[str, object]:
    failure = totals.failure
    return {
        "seeds": totals.seeds,
        "steps": totals.steps,
        "steps_per_s": round(totals.steps_per_s, 1),
        "broken": None if failure is None else {"seed": failure.seed, "invariant": failure.invariant},
        "detail": None if failure is None else failure.detail,
        "history": [] if failure is None else failure.labels,
        "file": None if written is None else str(written),
    }


def _tell(totals: "Totals", written: Path | None) -> None:
    from gastown.cli import screen
    from gastown.cli.words import count

    failure = totals.failure
    if failure is not None:
        screen.say("\n".join(f"  {label}" for label in failure.labels))
        screen.say(f"seed {failure.seed} breaks: {failure.invariant}: {failure.detail}")
        if written is not None:
            screen.say(f"next: gastown sim --replay {written}")
    words = f"{totals.steps} steps of {count(len(totals.seeds), 'seed')} in {totals.seconds:.0f} s"
    screen.say(f"{words} ({totals.steps_per_s:.0f} steps/s): {'broken' if failure else 'nothing broken'}")
