"""gastown mr: the merge queue, and what people say of what is in it."""

from typing import TYPE_CHECKING, Annotated

import typer

from gastown.cli.options import AsJson, BeadId, Limit, RigName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from gastown.cli.screen import Cell
    from gastown.reconcile.actions import StopContainer
    from gastown.store.listing import NeighbourRow
    from gastown.store.queue import MergeDetail, QueueRow

app = typer.Typer()
mr = typer.Typer(no_args_is_help=True, help="The merge queue.")
app.add_typer(mr, name="mr")

Everything = Annotated[bool, typer.Option("--all", help="Those that are over as well.")]
Comment = Annotated[str, typer.Option("--comment", "-m", metavar="TEXT", help="Why: others will read it.")]
Changes = Annotated[str, typer.Option("--comment", "-m", metavar="TEXT", help="What has to change.")]


@mr.command("list")
def list_queue(
    rig: RigName = None, everything: Everything = False, limit: Limit = 100, as_json: AsJson = False
) -> None:
    """List what is to be merged, in the order in which it will be, and what keeps the rest of it."""
    from gastown.cli import screen
    from gastown.cli.ask import ask
    from gastown.commands import towns
    from gastown.store import queue

    def read(session: "Session", town_id: int) -> "list[QueueRow]":
        if rig is not None:
            towns.get_rig(session, town_id, rig)
        return queue.list_queue(session, town_id, rig=rig, everything=everything, limit=limit + 1)

    rows = ask(read)
    if as_json:
        return screen.print_json(rows[:limit])
    if rows:
        _print_list(rows[:limit])
    else:
        screen.say("no merge requests yet" if everything else "nothing is to be merged")
    if len(rows) > limit:
        screen.note(f"only the first {limit}; --limit shows more")
    return None


def _print_list(rows: "Sequence[QueueRow]") -> None:
    from gastown.cli import screen

    rigs, targets = len({row.rig for row in rows}) > 1, len({row.target for row in rows}) > 1
    heads = ("#", "bead", "state", *(["rig"] if rigs else []), *(["target"] if targets else []))
    cells = [_line(row, rigs, targets) for row in rows]
    heads += ("rounds", "reviewed", "title", "what")
    screen.console().print(screen.table(heads, cells, flexible=("title", "what")))


def _line(row: "QueueRow", rigs: bool, targets: bool) -> "list[Cell]":
    from gastown.cli import screen
    from gastown.cli.words import in_short, one_line

    return [
        "-" if row.place is None else str(row.place),
        row.bead_id,
        screen.state("merged" if row.merged_sha else row.state),
        *([row.rig] if rigs else []),
        *([one_line(row.target, 40)] if targets else []),
        str(row.rounds) if row.rounds else "-",
        _reviewed(row),
        one_line(row.title, 60),
        in_short(_what(row), 200),
    ]


def _reviewed(row: "QueueRow") -> str:
    if row.reviewed:
        return "yes"
    return "-" if row.review_agent is None else "no"


def _what(row: "QueueRow") -> str:
    """The most telling thing that is known about it."""
    if row.merged_sha is not None:
        return f"as {row.merged_sha[:12]}"
    if row.held_reason is not None:
        return f"{row.rework_id} mends it: {row.held_reason}" if row.rework_id else row.held_reason
    if row.batch is not None:
        return f"together with {row.batch}"
    if row.step is not None:
        return row.step
    if row.state == "in review":
        return f"{row.review_id} reads it" if row.review_id else f"{row.review_agent} is to read it"
    return ""


@mr.command("show")
def show(bead_id: BeadId, as_json: AsJson = False) -> None:
    """Show all about a bead's merge: what holds it, what was said of it, and what its gates did."""
    from gastown.cli import screen
    from gastown.cli.ask import ask
    from gastown.store import queue

    detail = ask(lambda session, town_id: queue.merge_detail(session, town_id, bead_id))
    return screen.print_json(detail) if as_json else _print_detail(detail)


def _print_detail(detail: "MergeDetail") -> None:
    from gastown.cli import screen
    from gastown.cli.words import at, one_line

    row = detail.merge
    screen.say(f"{row.bead_id} {one_line(row.title)}")
    place = f", number {row.place} of {one_line(row.target)}" if row.place else f", for {one_line(row.target)}"
    state = "merged" if row.merged_sha else row.state.replace("_", " ")
    screen.say(f"  {state}{place}, rig {row.rig}, priority {row.priority}")
    lines = {
        "head": row.head_sha + (f" by {detail.made_by}" if detail.made_by else ""),
        "ref": one_line(detail.head_ref or ""),
        "asked": at(row.created_at),
        "step": one_line(row.step or ""),
        "batch": f"together with {row.batch}" if row.batch else "",
        "merge": f"{detail.merge_sha} onto {detail.expected_sha}" if detail.merge_sha else "",
        "staged": f"{detail.staged_sha}, until the checkout is clean" if detail.staged_sha else "",
        "published": one_line(detail.published_ref or ""),
        "merged": f"{row.merged_sha} at {at(row.merged_at)}" if row.merged_sha else "",
        "rounds": f"{row.rounds} of rework" if row.rounds else "",
        "review": _review(row),
        "held": f"{row.held_code}: {one_line(row.held_reason or '')}" if row.held_code else "",
        "mended by": one_line(row.rework_id or detail.rework_agent or "a person") if row.held_code else "",
        "look": f"again at {at(detail.look_at)}" if detail.look_at and row.held_code else "",
    }
    for key, value in lines.items():
        if value:
            screen.say(f"  {key:<9} {value}")
    _print_rest(detail)


def _review(row: "QueueRow") -> str:
    if row.reviewed:
        return "approved"
    if row.review_agent is None:
        return ""
    return f"{row.review_id} reads it" if row.review_id else f"{row.review_agent} has to approve it"


def _print_rest(detail: "MergeDetail") -> None:
    from gastown.cli import beads, screen
    from gastown.cli.words import at, one_line

    if detail.held_output and detail.held_output != detail.review_notes:
        beads.section("what holds it")
        beads.indented(detail.held_output, beads.OUTPUT_LINES, tail=True)
    if detail.said:
        beads.section("what was said of it")
    for said in detail.said:
        screen.say(f"  {at(said.at)} {one_line(said.actor)}: {one_line(said.message, 200)}")
        if len(said.comment.strip().splitlines()) > 1:
            beads.indented(said.comment, beads.OUTPUT_LINES)
    _print_beads("read by", detail.reviews)
    _print_beads("mended by", detail.reworks)
    if detail.gate_runs:
        beads.section("gates")
        beads.print_gates(detail.gate_runs)
    if detail.merge.state not in ("closed", "failed"):
        screen.say(f"next: gastown why {detail.merge.bead_id}")


def _print_beads(words: str, rows: "Sequence[NeighbourRow]") -> None:
    from gastown.cli import beads, screen
    from gastown.cli.words import one_line

    if rows:
        beads.section(words)
    for row in rows:
        screen.say(f"  {row.id} {(row.resolution or row.status).replace('_', ' ')}: {one_line(row.title, 80)}")


@mr.command()
def approve(bead_id: BeadId, comment: Comment = "") -> None:
    """Let a bead's work be merged, whatever reviews of it said; one that is under way ends."""
    from gastown.cli.ask import ask
    from gastown.commands import reviews

    _tell(ask(lambda session, town_id: reviews.approve(session, town_id, bead_id, comment)), bead_id)


@mr.command()
def reject(bead_id: BeadId, comment: Changes) -> None:
    """Have a bead's work changed before it is merged, by an agent if one can; a merge that goes on is given up."""
    from gastown.cli.ask import ask
    from gastown.commands import reviews
    from gastown.settings import get_settings

    home = get_settings().home
    _tell(ask(lambda session, town_id: reviews.reject(session, town_id, bead_id, comment, home)), bead_id)


def _tell(done: "tuple[str, list[StopContainer]]", bead_id: str) -> None:
    from gastown.cli import screen
    from gastown.cli.ask import publish_after
    from gastown.cli.words import in_short

    words, stops = done
    publish_after(stops)
    screen.say(f"{in_short(words, 500)}\nnext: gastown why {bead_id}")
