"""Convoys on the screen: one a line, the waves of one that was made, or one with the graph of its members."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.text import Text

from gastown.cli import graph, screen
from gastown.cli.beads import state_of, what_of
from gastown.cli.screen import Cell
from gastown.cli.why import DOWN
from gastown.cli.words import at, count, in_short, one_line
from gastown.states import TERMINAL, BeadStatus, ConvoyStatus, Resolution, Verdict
from gastown.store.convoy_detail import BranchRow, ConvoyDetail, ConvoyRow, LandingRow
from gastown.store.listing import BeadRow

PREVIEWED, FEWER = 10, 3  # beads of one wave; and of a convoy of more than MANY
MANY = 60
GRAPH_SHARE = 3  # a graph that needs more than a third of the width leaves no room for the text


def preview(detail: ConvoyDetail) -> dict[str, Any]:
    """As JSON: the convoy, and in which order it goes."""
    return {
        **vars(detail.convoy),
        "beads": detail.members,
        "after": detail.after,
        "waves": graph.waves(detail.after),
        "longest": graph.longest_chain(detail.after),
        "branches": detail.branches,
    }


def print_list(rows: Sequence[ConvoyRow], *, more: bool, everything: bool) -> None:
    if rows:
        heads = ("id", "state", "members", "merged", "failed", "waiting", "made", "name")
        cells = [_line(row) for row in rows]
        screen.console().print(screen.table(heads, cells, flexible=("name",)))
    else:
        screen.say("no convoys" if everything else "no convoy is under way")
    if more:
        screen.note(f"only the newest {len(rows)}; --limit shows more")
    if not everything:
        screen.note("closed convoys are left out; --all shows them")


def _line(row: ConvoyRow) -> Sequence[Cell]:
    counts = (row.members, row.merged, row.failed, row.waiting)
    return (row.id, screen.state(row.status), *(str(each) for each in counts), at(row.created_at), one_line(row.name))


def print_preview(detail: ConvoyDetail) -> None:
    """What will happen, in the order in which it can."""
    row = detail.convoy
    titles = {each.id: one_line(each.title, 40 if screen.is_narrow() else 70) for each in detail.members}
    most = PREVIEWED if row.members <= MANY else FEWER
    waves, longest = graph.waves(detail.after), graph.longest_chain(detail.after)
    screen.say(
        f"{row.id} {one_line(row.name)}: {count(row.members, 'bead')} in {count(len(waves), 'wave')}, {row.mode}"
    )
    for number, wave in enumerate(waves, 1):
        together = " at the same time" if len(wave) > 1 else ""
        screen.say(f"\nwave {number}: {count(len(wave), 'bead')}{together}")
        for each in wave[:most]:
            after = f" (after {_some(detail.after[each])})" if detail.after[each] else ""
            screen.say(f"  {each} {titles[each]}{after}")
        if len(wave) > most:
            screen.say(f"  and {len(wave) - most} more")
    screen.say()
    if len(longest) > 1:
        screen.say(f"longest chain: {count(len(longest), 'bead')}, {_some(longest, ' > ')}")
    agents = Counter(each.preset or "of the rig" for each in detail.members)
    screen.say(f"agents: {', '.join(f'{one_line(name)} ({number})' for name, number in agents.most_common())}")
    for branch in detail.branches:
        screen.say(f"{one_line(branch.rig)}: merged into {one_line(branch.branch)}, which lands on {branch.target}")
    if row.status == ConvoyStatus.STAGED:
        screen.say(f"\nstaged: nothing of it starts before you say so\nnext: gastown convoy start {row.id}")
    else:
        screen.say(f"\nnext: gastown convoy show {row.id}")


def print_detail(detail: ConvoyDetail) -> None:
    row = detail.convoy
    if detail.down and row.status not in (ConvoyStatus.CLOSED, ConvoyStatus.FAILED):
        screen.say(DOWN)
    screen.say(f"{row.id} {one_line(row.name)}")
    state = screen.state(row.status).append(f", {row.mode}")
    screen.say(state if not row.partial else state.append(", lands without what fails"))
    times = (("made", row.created_at), ("started", row.started_at), ("ended", row.closed_at))
    screen.say(f"  {', '.join(f'{word} {at(moment)}' for word, moment in times if moment)}")
    screen.say(f"  {progress(row)}")
    screen.say()
    _print_graph(detail)
    for landing in detail.landings:
        _print_landing(landing, detail)
    next_step = _next(detail)
    if next_step:
        screen.say(f"\nnext: {next_step}")


def progress(row: ConvoyRow) -> str:
    always = (("merged", row.merged), ("failed", row.failed), ("waiting", row.waiting))
    parts = (*always, ("left out", row.left_out), ("canceled", row.canceled))
    shown = [f"{number} {word}" for word, number in parts if number or (word, number) in always]
    return f"{', '.join(shown)} of {count(row.members, 'member')}"


def _print_graph(detail: ConvoyDetail) -> None:
    """The members, each after those that it waits for, with lanes between them where there is room."""
    rows = {row.id: row for row in detail.members}
    lines = graph.draw(detail.after, {row.id: _mark(row) for row in detail.members})
    roomy = not screen.is_narrow()
    several = len({row.rig for row in detail.members}) > 1
    drawn = bool(lines) and len(lines[0][0]) <= screen.console().width // GRAPH_SHARE
    if not drawn:
        lines = [("", name) for name in graph.in_order(detail.after)]
    heads = ("", "id", "state", "tries", *(["agent"] if roomy else []), *(["rig"] if several else []), "title", "what")
    cells: list[Sequence[Cell]] = []
    for line, name in lines:
        if name is None:
            cells.append((line, *[""] * (len(heads) - 1)))
            continue
        row = rows[name]
        others = [each for each in detail.after[name] if each not in rows or not drawn]
        waits = f"after {_some(others)}" if others and row.status not in TERMINAL else ""
        what = in_short("; ".join(part for part in (_what(row, detail), waits) if part), 100)
        state = screen.state(state_of(row))
        picture = Text(line)
        picture.highlight_words([mark for mark in graph.both(_mark(row)) if mark in line], state.style)
        own: list[Cell] = [picture, row.id, state, str(row.attempts)]
        own += [row.agent or "-"] if roomy else []
        own += [one_line(row.rig)] if several else []
        cells.append((*own, one_line(row.title, 60), what))
    screen.console().print(screen.table(heads, cells, flexible=("title", "what")))
    if lines and not drawn:
        screen.note("a wider terminal shows what waits for what; --json has it all")


def _what(row: BeadRow, detail: ConvoyDetail) -> str:
    if row.merged_sha:
        went = f"left out; went to {detail.left_out[row.id]} " if detail.left_out.get(row.id) else ""
        return f"{went}as {row.merged_sha[:12]}"
    if row.id in detail.left_out:
        return "left out" + (f": {what_of(row)}" if what_of(row) else "")
    return "" if row.verdict == Verdict.STAGED else what_of(row)  # of each member, and said above


def _mark(row: BeadRow) -> str:
    if row.status == BeadStatus.FAILED:
        return "✗"
    if row.resolution is not None:
        return "◌" if row.resolution == Resolution.CANCELED else "●"
    return "◐" if row.live or row.status == BeadStatus.IN_REVIEW else "○"


def _print_landing(landing: LandingRow, detail: ConvoyDetail) -> None:
    bead = landing.bead
    branch = next((each for each in detail.branches if each.rig == bead.rig), None)
    screen.say(f"\n{one_line(bead.rig)}: {_where(branch, over=bead.terminal)}")
    state = state_of(bead).replace("_", " ")
    reason = landing.reason.removeprefix(state).removeprefix(": ")
    screen.say(f"  {bead.id} {state}" + (f": {in_short(reason, 500)}" if reason else ""))
    if not bead.terminal or bead.status == BeadStatus.FAILED:
        screen.say(f"  opens  {landing.opens}")


def _where(branch: BranchRow | None, *, over: bool) -> str:
    if branch is None:
        return "each member is merged by itself"
    at_head = (
        f" at {branch.head_sha[:12]}" if branch.head_sha else ", nothing merged into it" + ("" if over else " yet")
    )
    return f"branch {one_line(branch.branch)}{at_head}" + ("" if over else f", lands on {one_line(branch.target)}")


def _next(detail: ConvoyDetail) -> str:
    row = detail.convoy
    if row.status == ConvoyStatus.STAGED:
        return f"gastown convoy start {row.id}"
    failed = [each.id for each in detail.members if each.status == BeadStatus.FAILED]
    if row.status == ConvoyStatus.OPEN and failed and not row.partial:
        first = failed[0]
        return f"gastown why {first}, gastown bead retry (or cancel) {first}, or gastown convoy land {row.id} --partial"
    if row.status == ConvoyStatus.FAILED:
        return f"gastown convoy land {row.id}, or gastown convoy close {row.id}"
    own = f"gastown convoy show {row.id}"  # which was typed just now
    steps = [each.command for each in detail.landings if not each.bead.terminal and not each.command.startswith(own)]
    return steps[0] if steps else ""


def _some(names: Sequence[str], between: str = ", ") -> str:
    shown = list(names) if len(names) <= 6 else [*names[:5], f"... ({len(names)})"]
    return between.join(shown)
