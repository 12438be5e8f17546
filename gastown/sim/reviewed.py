"""What must hold of reviews: what is merged was approved as it is, where that is wanted, by somebody who read it."""

from typing import TYPE_CHECKING, Any

from gastown.sim.actors import Actor

if TYPE_CHECKING:
    from gastown.sim.agents import SimAgent
    from gastown.sim.oracles import Oracles

Row = dict[str, Any]
CHANGES_REQUESTED = "changes_requested"


def note(oracles: "Oracles", agent: "SimAgent", what: str) -> None:
    """What an agent said of the head that it was given, and was told that it counts."""
    review = next(row for row in oracles.now.tables["beads"].values() if oracles.world.name_of(row["id"]) == agent.bead)
    said, other = (oracles.approved, oracles.objected) if what == "approves" else (oracles.objected, oracles.approved)
    assert agent.reads is not None
    said.add((review["mr_id"], agent.reads))
    other.discard((review["mr_id"], agent.reads))


def check(oracles: "Oracles", actor: Actor | None) -> None:
    """An approval, like an objection, is somebody's, and of the head that it is kept with; no merge begins without."""
    asked = "" if actor is None else actor.name
    for key, row in oracles.now.tables["merge_requests"].items():
        was = oracles.before.tables["merge_requests"].get(key)
        name, head = oracles.world.name_of_merge(row), row["head_sha"]
        if was is None:
            continue
        if row["reviewed_sha"] not in (None, was["reviewed_sha"]):
            by_person = asked.startswith("user approve") and row["reviewed_sha"] == head
            if not by_person and (key, row["reviewed_sha"]) not in oracles.approved:
                oracles.fail("an approval that nobody gave", name)
        if row["held_code"] == CHANGES_REQUESTED != was["held_code"]:
            if not asked.startswith("user reject") and (key, head) not in oracles.objected:
                oracles.fail("an objection that nobody raised", name)
            oracles.approved.discard((key, head))
        if row["merge_epoch"] != was["merge_epoch"]:
            oracles.claimed_at[key] = since = oracles.world.step if actor is None else actor.began_at_step
            if was["status"] == "open" and not _may_be_merged(oracles, row, since):
                oracles.fail("a merge begins of a head that nobody approved", name)


def check_landed(oracles: "Oracles", request: Row) -> None:
    name = oracles.world.name_of_merge(request)
    if request["held_code"] == CHANGES_REQUESTED:
        oracles.fail("merged while somebody wants it changed", name)
    if not _may_be_merged(oracles, request, oracles.claimed_at.get(request["id"], 0)):
        oracles.fail("merged, and nobody approved its head", name)


def _may_be_merged(oracles: "Oracles", request: Row, since: int) -> bool:
    """Or its rig did not ask for reviews at some moment since that step."""
    policies = oracles.world.policies
    earlier = [snapshot for at, snapshot in policies if at < since][-1:]
    then = [snapshot for at, snapshot in policies if at >= since]
    asks = [each.tables["rigs"][request["rig_id"]]["reviews"] for each in (*earlier, *then, oracles.now)]
    return request["reviewed_sha"] == request["head_sha"] or not all(asks)
