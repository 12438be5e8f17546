"""What must hold of convoys: one lands as a whole, by its landing alone, and who waited for a member starts with it."""

from typing import TYPE_CHECKING, Any

from gastown.sim.target import MAIN, Landing
from gastown.states import MERGING, TERMINAL

if TYPE_CHECKING:
    from gastown.sim.oracles import Oracles

Row = dict[str, Any]
MAY_BE_LEFT_OUT = (*TERMINAL, "open", "in_progress")  # of a partial landing: it waits for one that failed


def check(oracles: "Oracles") -> None:
    """What is landed has all that its members made, and nothing of a convoy ends while they are under way."""
    now, before, world = oracles.now.tables, oracles.before.tables["beads"], oracles.world
    landings = [key for key, bead in now["beads"].items() if bead["purpose"] == "landing"]
    requests: dict[str, list[Row]] = {}
    for row in now["merge_requests"].values() if landings else ():
        requests.setdefault(row["bead_id"], []).append(row)
    for key in landings:
        bead = now["beads"][key]
        members = {each: row for each, row in now["beads"].items() if _is_member(row, bead)}
        ends = bead["resolution"] in ("no_changes", "done") and before.get(key, bead)["resolution"] is None
        if ends or any(row["status"] in MERGING for row in requests.get(key, ())):
            whole = now["convoys"][bead["convoy_id"]]["partial"] is None
            if any(row["status"] not in (TERMINAL if whole else MAY_BE_LEFT_OUT) for row in members.values()):
                oracles.fail("a landing while a member is under way", world.name_of(key))
        for row in requests.get(key, ()):
            made = [each for member in members for each in requests.get(member, ()) if each["merged_sha"]]
            target = None if row["merged_sha"] is None else world.targets.of(row["rig_id"], row["target"])
            if target is not None and not all(target.holds(each["head_sha"]) for each in made):
                oracles.fail("landed without what a member made", world.name_of_merge(row))


def _is_member(bead: Row, landing: Row) -> bool:
    same = (bead["convoy_id"], bead["rig_id"]) == (landing["convoy_id"], landing["rig_id"])
    return same and bead["purpose"] is None


def check_brought(oracles: "Oracles", landing: Landing) -> None:
    """What members made comes to the rig's own branch with their landing, or after it."""
    if landing.branch != MAIN:
        return
    now = oracles.now.tables
    requests = {row["head_sha"]: row for row in now["merge_requests"].values()}
    brought = [requests[head] for head in landing.merges if head in requests]
    convoys = {
        now["beads"][row["bead_id"]]["convoy_id"] for row in brought if row["target"] == MAIN and _lands(now, row)
    }
    for row in brought:
        if row["target"] != MAIN and now["beads"][row["bead_id"]]["convoy_id"] not in convoys:
            oracles.fail("a member's work on the target without its convoy", oracles.world.name_of_merge(row))


def _lands(now: dict[str, dict[Any, Row]], request: Row) -> bool:
    return bool(now["beads"][request["bead_id"]]["purpose"] == "landing")


def check_start(oracles: "Oracles", new: Row) -> None:
    """The branch that an attempt begins with has what its blockers made."""
    now, targets = oracles.now.tables, oracles.world.targets
    bead = now["beads"][new["bead_id"]]
    blockers = {blocker for waiting, blocker in now["bead_dependencies"] if waiting == bead["id"]}
    for row in now["merge_requests"].values():
        if row["bead_id"] not in blockers or row["merged_sha"] is None:
            continue
        together = bead["convoy_id"] is not None and now["beads"][row["bead_id"]]["convoy_id"] == bead["convoy_id"]
        branch = row["target"] if together else MAIN
        if not targets.of(row["rig_id"], branch).holds(row["head_sha"]):
            names = f"{oracles.world.name_of(new['id'])} without {oracles.world.name_of(row['bead_id'])}"
            oracles.fail("an attempt that begins without what it waited for", names)
