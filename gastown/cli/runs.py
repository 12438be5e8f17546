"""gastown run: from nothing to merged."""

from typing import Annotated

import typer

from gastown.cli.options import Agent, AllowRed, AsJson, Branch, Format, Gates, GatesFile, PlanFile, Setup

app = typer.Typer()

Tasks = Annotated[list[str] | None, typer.Argument(metavar="TASK...", help="What is to be done; each is one bead.")]
Repository = Annotated[str, typer.Option("--repo", "-R", metavar="PATH|URL", help="The repository to work on.")]
Resume = Annotated[str | None, typer.Option("--resume", metavar="RUN", help="Go on with an earlier run.")]


@app.command()
def run(
    tasks: Tasks = None,
    repo: Repository = ".",
    agent: Agent = None,
    setup: Setup = None,
    gate: Gates = None,
    gates_file: GatesFile = None,
    branch: Branch = None,
    file: PlanFile = None,
    plan_format: Format = None,
    resume: Resume = None,
    allow_red: AllowRed = False,
    as_json: AsJson = False,
) -> None:
    """Do tasks from nothing to merged: start what is needed, wait, stop what was started.

    Exit code 0 when all are merged, 1 when some need a person. Ctrl-C detaches, or stops the stack if this
    run started it, with the work saved; --resume goes on.
    """
    from gastown.cli import adding, running
    from gastown.cli.adding import Wanted
    from gastown.errors import UsageError

    if sum((bool(tasks), file is not None, resume is not None)) != 1:
        raise UsageError("run takes either tasks, or a plan, or a run to go on with", hint='gastown run "task" "task"')
    if plan_format is not None and file is None:
        raise UsageError("--format is for a plan", hint="gastown run -f PLAN")
    wanted = Wanted(
        repository=repo,
        branch=branch,
        agent=agent,
        setup=setup,
        gates=adding.given_gates(gates_file, gate),
        allow_red=allow_red,
    )
    order = running.Order(
        tasks=tuple(tasks or ()), plan=file, plan_format=plan_format, resume=resume, wanted=wanted, as_json=as_json
    )
    code = running.carry_out(order)
    if code:
        raise typer.Exit(code)
