"""`gastown self` where there is nothing of Gastown but the supervisor: in a container. The same words as everywhere.

Exit codes: 0 done, 1 refused, 2 usage, 3 not found, 4 not now.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from gastown.agent.line import LINE_BYTES, TooLong, ask
from gastown.agent.protocol import Filed, NewWork, Review, Reviewed

USAGE, NOT_NOW = 2, 4


class Wrong(Exception):
    """What to say, what to do, and the exit code."""

    def __init__(self, message: str, hint: str, exit_code: int) -> None:
        super().__init__(message)
        self.hint, self.exit_code = hint, exit_code


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """`self status reading`, and the like."""
    given = _parser().parse_args(arguments)
    try:
        print_answer(given)
    except Wrong as error:
        sys.stderr.write(f"gastown: {error}\n" + (f"next: {error.hint}\n" if error.hint else ""))
        sys.exit(error.exit_code)
    sys.exit(0)


def print_answer(given: argparse.Namespace) -> None:
    """Raises Wrong."""
    text = " ".join(given.text) if "text" in given else ""
    match given.call:
        case "status":
            _say("status", {"text": text})
        case "escalate":
            _say("escalate", {"text": text})
            _print("a person is asked: gastown why shows it")
        case "cost":
            _say("cost", {"usd": given.usd})
        case "tool":
            _say("tool", {"step": given.step, "name": given.name})
        case "limit":
            retry_at = None if given.until is None else _time(given.until)
            _say("limit", {"text": text, "retry_at": retry_at, "retry_after_s": given.for_s})
        case "locked-out":
            _say("locked_out", {"text": text})
        case "review":
            comment = given.comment or (_read(given.file) if given.file else "")
            _print(
                Reviewed.from_json(_say("reviews", Review(verdict=given.verdict, comment=comment).to_json())).message
            )
        case "bead":
            _file_bead(given)
        case _:
            _show(given.json)


def _file_bead(given: argparse.Namespace) -> None:
    after = [_mark("GASTOWN_BEAD") if each == "self" else each for each in given.after]
    body = given.body or (_read(given.file) if given.file else "")
    work = NewWork(title=given.title, body=body, priority=given.priority, after=after, agent=given.agent, key=given.key)
    filed = Filed.from_json(_say("beads", work.to_json()))
    if given.json:
        return _print(json.dumps(filed.to_json()))
    return _print(f"{filed.id} {' '.join(given.title.split())[:80]}{'' if filed.created else ' (filed before)'}")


def _show(as_json: bool) -> None:
    bead, epoch, agent, dispatch = map(_mark, ("GASTOWN_BEAD", "GASTOWN_EPOCH", "GASTOWN_AGENT", "GASTOWN_DISPATCH"))
    if as_json:
        return _print(json.dumps({"bead": bead, "epoch": int(epoch), "agent": agent, "dispatch": dispatch}))
    return _print(f"{bead}, attempt {epoch}, agent {agent}")


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="gastown", description="In a container there is `gastown self` alone.")
    own = top.add_subparsers(required=True).add_parser("self", help="speak from inside an attempt")
    calls = own.add_subparsers(dest="call", required=True)
    for name, words in (
        ("status", "say what you are doing"),
        ("escalate", "ask a person; nobody answers here, so go on as far as you can"),
        ("limit", "your provider wants a pause: end now, with an exit code not 0"),
        ("locked-out", "your provider does not let you in: end now, with an exit code not 0"),
    ):
        calls.add_parser(name, help=words).add_argument("text", nargs="+")
    pause = calls.choices["limit"].add_mutually_exclusive_group()
    pause.add_argument("--until", help="2030-01-31T12:00, or seconds since 1970")
    pause.add_argument("--for", dest="for_s", type=float, metavar="SECONDS")
    calls.add_parser("cost", help="what it has cost so far, in all").add_argument("usd", type=float)
    tool = calls.add_parser("tool", help="a tool runs: silence does not mean that you are stuck")
    tool.add_argument("step", choices=("begin", "end"))
    tool.add_argument("name")
    review = calls.add_parser("review", help="answer the review that this attempt is")
    review.add_argument("verdict", choices=("approve", "changes"))
    comment = review.add_mutually_exclusive_group()
    comment.add_argument("--comment")
    comment.add_argument("--file", "-F")
    bead = calls.add_parser("bead", help="file new work on this repository, for another attempt")
    bead.add_argument("title")
    body = bead.add_mutually_exclusive_group()
    body.add_argument("--body")
    body.add_argument("--file", "-F")
    bead.add_argument("--after", action="append", default=[], metavar="BEAD|self")
    bead.add_argument("--priority", "-p", default="medium", choices=("critical", "high", "medium", "low"))
    bead.add_argument("--agent", "-a", metavar="PRESET")
    bead.add_argument("--key", default="", help="the same key is the same bead")
    for each in (bead, calls.add_parser("show", help="which attempt this is")):
        each.add_argument("--json", action="store_true")
    return top


def _time(text: str) -> str:
    try:
        at = datetime.fromtimestamp(float(text), UTC) if text.isdigit() else datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError) as error:
        hint = "2030-01-31T12:00, 2030-01-31T12:00+00:00, or seconds since 1970"
        raise Wrong(f"{text!r} is no time", hint, USAGE) from error
    return at.isoformat()


def _read(name: str) -> str:
    try:
        data = sys.stdin.buffer.read(LINE_BYTES + 1) if name == "-" else Path(name).read_bytes()
        return data.decode()
    except (OSError, ValueError) as error:
        raise Wrong(f"{name} cannot be read: {error}", "", USAGE) from error


def _mark(name: str) -> str:
    value = os.environ.get(name)
    if not value or not os.environ.get("GASTOWN_DISPATCH"):
        raise Wrong("this is no attempt: `gastown self` is for agents that Gastown has started", "", USAGE)
    return value


def _say(call: str, body: dict[str, Any]) -> dict[str, Any]:
    _mark("GASTOWN_BEAD")
    path = os.environ.get("GASTOWN_SELF")
    if not path:
        raise Wrong("this attempt's supervisor takes no calls", "go on without; its log has the cause", NOT_NOW)
    try:
        reply = ask(Path(path), call, body)
    except TooLong as error:
        raise Wrong(f"that is too long: {error}", "put it into a file of the repository, and name it", USAGE) from error
    except (OSError, ValueError) as error:
        words = f"this attempt's supervisor does not answer: {error}"
        raise Wrong(words, "try once more, else go on without", NOT_NOW) from error
    if not reply.ok:
        raise Wrong(reply.message, reply.hint, reply.exit_code)
    return reply.result


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
