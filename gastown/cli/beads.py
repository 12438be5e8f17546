"""Beads on the screen: one a line, or one with everything about it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from gastown.cli import screen
from gastown.cli.screen import Cell
from gastown.cli.words import at, block, count, in_short, one_line, size, span
from gastown.states import LIVE, BeadStatus, HoldCode, Purpose, Verdict
from gastown.store.detail import BeadDetail, MergeRow
from gastown.store.listing import AttemptRow, BeadRow, EventRow, NeighbourRow

BODY_LINES = 12  # of a long body
_OF_AN_ATTEMPT = (Verdict.DISPATCH, Verdict.AWAITING_START, Verdict.AWAITING_AGENT)
OUTPUT_LINES = 30  # of a red gate's output


def state_of(row: BeadRow) -> str:
    """Where a bead stands, in one or two words."""
    if row.resolution is not None:
        return row.resolution
    if row.status == BeadStatus.IN_REVIEW:
        by_hand = row.held_code == HoldCode.AWAITING_APPROVAL
        if row.verdict == Verdict.AWAITING_REVIEW and not row.held_code:
            return "in review"
        return "yours to merge" if by_hand else "merge held" if row.held_code else "merging"
    if row.held_by_hand:
        return "held"
    if row.status == BeadStatus.IN_PROGRESS:
        return str(row.attempt_status) if row.live else "retrying"
    if row.status == BeadStatus.OPEN:
        return row.verdict or "open"
    return row.status


def what_of(row: BeadRow) -> str:
    """The most telling thing that is known about it."""
    if row.status == BeadStatus.FAILED:
        return row.failure or ""
    if row.terminal:
        return ""
    if row.live and row.says:
        return row.says
    if row.merge_step:
        return row.merge_step
    if row.verdict in _OF_AN_ATTEMPT and not row.live:  # said of the attempt that has ended since
        return row.failure or ""
    return (row.held_reason if row.held_code or row.held_by_hand else None) or row.reason or ""


def belongs(row: BeadRow) -> str:
    """What a bead of a convoy is to it."""
    return f"{'lands' if row.purpose == Purpose.LANDING else 'member of'} convoy {row.convoy}"


def print_list(rows: Sequence[BeadRow], *, more: bool, everything: bool) -> None:
    if rows:
        screen.console().print(_short_table(rows) if screen.is_narrow() else _wide_table(rows))
    else:
        screen.say("no beads" if everything else "nothing is open")
    if more:
        screen.note(f"only the newest {len(rows)}; --limit shows more")
    if not everything:
        screen.note("closed beads are left out; --all shows them")


def _wide_table(rows: Sequence[BeadRow]) -> Table:
    convoys = any(row.convoy for row in rows)
    heads = ("id", "state", "priority", "tries", "agent", "rig", *(["convoy"] if convoys else []), "title", "what")
    return screen.table(heads, [_line(row, convoys=convoys) for row in rows], flexible=("title", "what"))


def _short_table(rows: Sequence[BeadRow]) -> Table:
    """For 80 columns: no agent, a priority only where it is not the usual one, the rig only if there are several."""
    several = len({row.rig for row in rows}) > 1
    cells: list[Sequence[Cell]]
    heads = ("id", "state", "tries", *(["rig"] if several else []), "title", "what")
    cells = [
        (
            row.id,
            screen.state(state_of(row)),
            str(row.attempts),
            *([row.rig] if several else []),
            one_line(row.title if row.priority == "medium" else f"[{row.priority}] {row.title}", 60),
            in_short(what_of(row), 100),
        )
        for row in rows
    ]
    return screen.table(heads, cells, flexible=("title", "what"))


def _line(row: BeadRow, *, convoys: bool) -> Sequence[Cell]:
    return (
        row.id,
        screen.state(state_of(row)),
        row.priority,
        str(row.attempts),
        row.agent or "-",
        row.rig,
        *([row.convoy or "-"] if convoys else []),
        one_line(row.title, 60),
        in_short(what_of(row), 100),
    )


def print_detail(detail: BeadDetail) -> None:
    row = detail.bead
    screen.say(f"{row.id} {one_line(row.title)}")
    state = state_of(row).replace("_", " ")
    about = [state, f"rig {row.rig}", f"priority {row.priority}"]
    about += [] if row.purpose == Purpose.LANDING else [f"agent {row.preset or 'of the rig'}"]
    screen.say(f"  {', '.join(about)}")
    ended = f", ended {at(row.closed_at)}" if row.closed_at else ""
    began = f", first attempt {at(row.started_at)}" if row.started_at else ""
    screen.say(f"  made {at(row.created_at)}{began}{ended}")
    if detail.made_for is not None:
        screen.say(f"  made for the merge of {detail.made_for} ({detail.purpose})")
    if row.convoy is not None:
        screen.say(f"  {belongs(row)} (gastown convoy show {row.convoy})")
    if row.labels:
        screen.say(f"  labels: {', '.join(one_line(each) for each in row.labels)}")
    if row.status == BeadStatus.FAILED:
        section("why it failed")
        indented(f"{detail.failure_code}: {row.failure or ''}", OUTPUT_LINES)
    elif not row.terminal:
        screen.say(f"  {row.verdict or 'not looked at yet'}: {in_short(what_of(row)) or 'the next tick looks at it'}")
    if detail.body.strip():
        section("body")
        indented(detail.body, BODY_LINES)
    if row.purpose != Purpose.LANDING:  # the convoy shows its members
        _neighbours("waits for", detail.blockers)
    _neighbours("is waited for by", detail.dependants)
    if detail.attempts:
        section("attempts")
        print_attempts(detail.attempts)
    if detail.merge is not None:
        section("merge")
        _print_merge(detail.merge)
    _neighbours("made for its merge", detail.made)
    section("last events")
    print_events(detail.events, with_bead=False)
    if not row.terminal or row.status == BeadStatus.FAILED:
        look = f"logs {row.id}" if row.purpose != Purpose.LANDING else f"convoy show {row.convoy}"
        screen.say(f"next: gastown why {row.id} or gastown {look}")


def print_attempts(attempts: Sequence[AttemptRow]) -> None:
    heads = ("try", "agent", "preset", "node", "state", "reason", "waited", "ran", "output", "message")
    screen.console().print(screen.table(heads, [_attempt(each) for each in attempts], flexible=("message",)))


def _attempt(row: AttemptRow) -> Sequence[Cell]:
    exit_code = "" if row.exit_code in (None, 0) else f" (exit {row.exit_code})"
    adopted = " (adopted)" if row.adopted_at else ""
    now = datetime.now(UTC)
    waited = (row.started_at or row.ended_at or now) - row.queued_at
    ran = "-" if row.started_at is None else span(((row.ended_at or now) - row.started_at).total_seconds())
    return (
        str(row.epoch),
        row.agent,
        row.preset,
        row.node,
        _attempt_state(row.status, adopted),
        (row.code or "-") + exit_code,
        span(waited.total_seconds()),
        ran,
        size(row.log_bytes),
        in_short((row.says or row.phase or "") if row.status in LIVE else row.message or "", 200),
    )


def _attempt_state(status: str, more: str) -> Cell:
    text = screen.state(status)
    return text.append(more) if more else text


def _print_merge(merge: MergeRow) -> None:
    if merge.merged_sha is not None:
        screen.say(f"  merged into {merge.target} as {merge.merged_sha[:12]} at {at(merge.merged_at)}")
        print_gates(merge.gate_runs or [])
        return
    step = f", {one_line(merge.step)}" if merge.step else ""
    screen.say(f"  {merge.status.replace('_', ' ')}{step}: {merge.head_sha[:12]} into {merge.target}")
    if merge.held_reason:
        screen.say(f"  held ({merge.held_code}): {one_line(merge.held_reason)}")
    if merge.rounds:
        screen.say(f"  {count(merge.rounds, 'round')} of rework so far")
    if merge.held_output:
        indented(merge.held_output, OUTPUT_LINES, tail=True)
    print_gates(merge.gate_runs or [])


def print_gates(runs: Sequence[Mapping[str, Any]]) -> None:
    """How the gates passed, and all that a flaky one printed."""
    for run in runs:
        flaky = f", at try {run['tries']} of {run['allowed']}" if run["tries"] > 1 else ""
        screen.say(f"  gate {one_line(run['name'])}: passed in {span(run['duration_s'])}{flaky}")
        if flaky:
            indented(run["output"], OUTPUT_LINES, tail=True)


def print_events(events: Sequence[EventRow], *, with_bead: bool = True) -> None:
    for event in events:
        screen.say(event_line(event, with_bead=with_bead))


def event_line(event: EventRow, *, with_bead: bool = True) -> str:
    bead = f"{event.bead_id or '-':<8} " if with_bead else ""
    return f"  {at(event.at)} {bead}{event.kind:<14} {event.actor}: {in_short(event.message, 300)}"


def _neighbours(words: str, rows: Sequence[NeighbourRow]) -> None:
    if rows:
        section(words)
    for row in rows:
        screen.say(f"  {row.id} {(row.resolution or row.status).replace('_', ' ')}: {one_line(row.title, 80)}")


def section(words: str) -> None:
    screen.say(f"\n{words}:")


def indented(text: str, limit: int, *, tail: bool = False) -> None:
    """Some lines of a long text: the last ones of an output, the first ones of anything else."""
    lines = block(text).split("\n")
    left_out = len(lines) - limit
    shown = lines if left_out <= 0 else lines[-limit:] if tail else lines[:limit]
    if left_out > 0 and tail:
        screen.say(f"  | ... {count(left_out, 'line')} before")
    for line in shown:
        screen.say(f"  | {line}")
    if left_out > 0 and not tail:
        screen.say(f"  | ... {count(left_out, 'line')} more")
