"""gastown self: what an agent may say from a shell inside its attempt. Quick, since agents call it often.

It speaks to its supervisor, which has the attempt's token; it opens no database.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gastown.cli.options import Agent, AsJson
from gastown.cli.sling import Body, File, Priority, Title

if TYPE_CHECKING:
    from gastown.agent.protocol import Filed

app = typer.Typer()
own = typer.Typer(no_args_is_help=True, help="For agents: speak from inside an attempt.")
app.add_typer(own, name="self")

Words = Annotated[list[str], typer.Argument(metavar="TEXT...", help="In a line or two.")]
After = Annotated[
    list[str] | None, typer.Option("--after", metavar="BEAD|self", help="Start when that one, or this one, is merged.")
]
Key = Annotated[str, typer.Option("--key", metavar="KEY", help="The same key is the same bead; default: the content.")]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="2030-01-31T12:00, or seconds since 1970.")]
For = Annotated[float | None, typer.Option("--for", metavar="SECONDS", min=0, help="How long the pause is.")]
Comment = Annotated[str | None, typer.Option("--comment", metavar="TEXT", help="Why, or what has to change.")]
CommentFile = Annotated[
    str | None, typer.Option("--file", "-F", metavar="FILE", help="That from a file; - for a pipe.")
]
ITSELF = "self"


@own.command()
def status(text: Words) -> None:
    """Say what you are doing: `gastown bead list` shows it."""
    _say("status", {"text": " ".join(text)})


@own.command()
def escalate(text: Words) -> None:
    """Ask a person. Nobody answers you here, so go on as far as you can."""
    _say("escalate", {"text": " ".join(text)})
    typer.echo("a person is asked: gastown why shows it")


@own.command()
def cost(usd: Annotated[float, typer.Argument(metavar="USD", help="In all, since this attempt began.")]) -> None:
    """Say what this attempt has cost so far: above its cap it is stopped."""
    _say("cost", {"usd": usd})


@own.command()
def tool(
    step: Annotated[Literal["begin", "end"], typer.Argument(help="begin or end")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which one; the same for both.")],
) -> None:
    """Say that a tool runs: until it ends, silence does not mean that you are stuck."""
    _say("tool", {"step": step, "name": name})


@own.command()
def limit(text: Words, until: Until = None, for_s: For = None) -> None:
    """Your provider wants a pause: end now, with an exit code not 0. It costs no attempt, and others wait as well."""
    from gastown.errors import UsageError

    if until is not None and for_s is not None:
        raise UsageError("--until and --for are two ends of one pause", hint="give one of them")
    retry_at = None if until is None else _time(until)
    _say("limit", {"text": " ".join(text), "retry_at": retry_at, "retry_after_s": for_s})


@own.command("locked-out")
def locked_out(text: Words) -> None:
    """Your provider does not let you in: end now, with an exit code not 0. A person is asked before the next try."""
    _say("locked_out", {"text": " ".join(text)})


def _time(text: str) -> str:
    """With a zone: this machine's, when the text names none. Raises UsageError."""
    from datetime import UTC, datetime

    from gastown.errors import UsageError

    try:
        at = datetime.fromtimestamp(float(text), UTC) if text.isdigit() else datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"{text!r} is no time", hint="2030-01-31T12:00, 2030-01-31T12:00+00:00, or seconds since 1970"
        ) from error
    return at.isoformat()


@own.command("bead")
def file_bead(
    title: Title,
    body: Body = None,
    file: File = None,
    after: After = None,
    priority: Priority = "medium",
    agent: Agent = None,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """File new work on this repository, for another attempt. Saying it twice files it once."""
    from gastown.agent.line import LINE_BYTES
    from gastown.agent.protocol import Filed, NewWork
    from gastown.cli.reading import read_text
    from gastown.errors import UsageError

    if body is not None and file is not None:
        raise UsageError("--body and --file are two bodies", hint="give one of them")
    text = read_text(file, LINE_BYTES) if file is not None else body or ""
    itself = _mark("GASTOWN_BEAD")
    waits_for = [itself if each == ITSELF else each for each in after or []]
    work = NewWork(title=title, body=text, priority=priority, after=waits_for, agent=agent, key=key)
    filed = Filed.from_json(_say("beads", work.to_json()))
    _print_filed(filed, title, as_json)


@own.command()
def review(
    verdict: Annotated[Literal["approve", "changes"], typer.Argument(help="approve or changes")],
    comment: Comment = None,
    file: CommentFile = None,
) -> None:
    """Answer the review that this attempt is: the work may be merged, or what has to change first. Once."""
    from gastown.agent.line import LINE_BYTES
    from gastown.agent.protocol import Review, Reviewed
    from gastown.cli.reading import read_text
    from gastown.errors import UsageError

    if comment is not None and file is not None:
        raise UsageError("--comment and --file are two comments", hint="give one of them")
    text = read_text(file, LINE_BYTES) if file is not None else comment or ""
    said = Reviewed.from_json(_say("reviews", Review(verdict=verdict, comment=text).to_json()))
    typer.echo(said.message)


def _print_filed(filed: "Filed", title: str, as_json: bool) -> None:
    from gastown.cli.words import one_line, to_json

    if as_json:
        typer.echo(to_json(filed))
    else:
        before = "" if filed.created else " (filed before)"
        typer.echo(f"{filed.id} {one_line(title, 80)}{before}")


@own.command()
def show(as_json: AsJson = False) -> None:
    """Say which attempt this is."""
    from gastown.cli.words import to_json

    bead, epoch, agent, dispatch = map(_mark, ("GASTOWN_BEAD", "GASTOWN_EPOCH", "GASTOWN_AGENT", "GASTOWN_DISPATCH"))
    if as_json:
        return typer.echo(to_json({"bead": bead, "epoch": int(epoch), "agent": agent, "dispatch": dispatch}))
    return typer.echo(f"{bead}, attempt {epoch}, agent {agent}")


def _mark(name: str) -> str:
    """What the supervisor told this attempt. Raises UsageError outside of one."""
    from gastown.errors import UsageError

    value = os.environ.get(name)
    if not value or not os.environ.get("GASTOWN_DISPATCH"):
        what = "this is no attempt: `gastown self` is for agents that Gastown has started"
        raise UsageError(what, hint='gastown sling "..." is for people')
    return value


def _say(call: str, body: dict[str, Any]) -> dict[str, Any]:
    """One call by way of the supervisor; the API's answer.

    Raises UsageError outside an attempt or for what is too long, RuntimeUnavailable when the supervisor does not
    answer, else what the API said.
    """
    from gastown.agent.line import TooLong, ask
    from gastown.errors import GastownError, RuntimeUnavailable, UsageError

    _mark("GASTOWN_BEAD")
    path = os.environ.get("GASTOWN_SELF")
    if not path:
        raise RuntimeUnavailable(
            "this attempt's supervisor takes no calls", hint="go on without; its log has the cause"
        )
    try:
        reply = ask(Path(path), call, body)
    except TooLong as error:
        raise UsageError(
            f"that is too long: {error}", hint="put it into a file of the repository, and name it"
        ) from error
    except (OSError, ValueError) as error:
        what = f"this attempt's supervisor does not answer: {error}"
        raise RuntimeUnavailable(what, hint="try once more, else go on without") from error
    if not reply.ok:
        failure = GastownError(reply.message, hint=reply.hint)
        failure.exit_code = reply.exit_code
        raise failure
    return reply.result
