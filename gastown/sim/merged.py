"""What must hold of merges: a served done named them, they are wanted, and happen once; and rows agree with targets."""

from typing import TYPE_CHECKING, Any

from gastown.reconcile.policy import Policy
from gastown.sim import landed, reviewed
from gastown.sim.target import Landing
from gastown.states import MERGING

if TYPE_CHECKING:
    from gastown.sim.oracles import Oracles

Row = dict[str, Any]
ROUNDS = Policy().rework_rounds


def check(oracles: "Oracles") -> None:
    """G4: merged once, by the head of the served done, never for one that is canceled; and the rows agree."""
    world, rows = oracles.world, oracles.now.tables["merge_requests"]
    for row in rows.values():
        oracles.heads.setdefault(row["bead_id"], set()).add(row["head_sha"])
    for landing in world.targets.landings:
        landed.check_brought(oracles, landing)
        for head in landing.merges:
            _check_landed(oracles, head, landing, [row for row in rows.values() if row["head_sha"] == head])
    world.targets.landings.clear()
    for row in rows.values():
        name = world.name_of_merge(row)
        if row["dispatch_id"] is not None and oracles.served.get(row["dispatch_id"]) != row["head_sha"]:
            oracles.fail("a merge request of a head that no served done named", name)
        if row["merged_sha"] is not None and not world.targets.of(row["rig_id"], row["target"]).holds(row["head_sha"]):
            oracles.fail("recorded as merged, and not on the target", name)
        if row["rounds"] > ROUNDS:
            oracles.fail("a merge mended more often than may be", f"{name}: {row['rounds']}")
        leader = rows.get(row["batch_of"])
        if leader is not None and row["status"] == "open" and leader["status"] not in MERGING:
            oracles.fail("a member of a batch whose leader is not being merged", name)
    _check_mended(oracles)


def _check_mended(oracles: "Oracles") -> None:
    """A bead that is made for a merge opens none of its own, and is live only while that waits."""
    beads, rows = oracles.now.tables["beads"], oracles.now.tables["merge_requests"]
    for row in rows.values():
        if beads[row["bead_id"]]["mr_id"] is not None:
            oracles.fail("a merge request of a bead that mends another", oracles.world.name_of(row["bead_id"]))
        mended = row["rework_id"] is not None and beads[row["rework_id"]]["resolution"] == "done"
        if mended and row["held_code"] is not None:
            oracles.fail("a merge held by what was mended", oracles.world.name_of(row["rework_id"]))
    for key, bead in beads.items():
        mends = bead["mr_id"] is not None and bead["purpose"] != "review"
        if mends and bead["status"] == "in_progress" and rows[bead["mr_id"]]["status"] == "closed":
            oracles.fail("an agent mends a merge that is over", oracles.world.name_of(key))


def _check_landed(oracles: "Oracles", head: str, landing: Landing, requests: list[Row]) -> None:
    if not requests:
        oracles.fail("a head was merged that nobody asked for", head)
        return
    request = max(requests, key=lambda row: int(row["id"]))  # one that was called off may have had the same head
    bead = oracles.now.tables["beads"][request["bead_id"]]
    name = oracles.world.name_of_merge(request)
    if request["target"] != landing.branch:
        if bead["resolution"] != "merged":
            oracles.fail("landed, and its bead was not merged", name)
    elif bead["status"] != "in_review" or request["status"] in ("closed", "failed"):
        state = f"{bead['status']} {bead['resolution'] or ''}".strip()
        oracles.fail("merged, and its bead did not want it", f"{name}: {state}, request {request['status']}")
    else:
        reviewed.check_landed(oracles, request)
    target = oracles.world.targets.of(landing.rig_id, landing.branch)
    heads = oracles.heads[bead["id"]]
    merges = [each for each in target.above[target.head] if target.merged_head.get(each) in heads]
    if len(merges) > 1:
        oracles.fail("merged more than once", name)
