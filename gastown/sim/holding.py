"""What must hold of rights, to a hook, a merge, a probe, money: they are given once, and used by whoever has them."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from gastown.reconcile.policy import Policy
from gastown.reconcile.views import SPEND_WINDOW
from gastown.sim.actors import Actor
from gastown.states import LIVE, MERGING

if TYPE_CHECKING:
    from gastown.sim.oracles import Oracles

Row = dict[str, Any]
CENT = 0.01


def check(oracles: "Oracles", actor: Actor | None) -> None:
    _check_hooks(oracles)
    _check_held(oracles)
    _check_merge_rights(oracles, actor)


def _check_hooks(oracles: "Oracles") -> None:
    """An agent is let go with its report: the bead that it is hooked to is not in review."""
    beads = oracles.now.tables["beads"]
    for agent_id, bead_id in oracles.now.hooked:
        if beads[bead_id]["status"] == "in_review":
            oracles.fail("an agent hooked to a bead in review", f"{oracles.world.name_of(bead_id)}, agent {agent_id}")


def _check_held(oracles: "Oracles") -> None:
    beads = oracles.now.tables["beads"]
    for key, row in oracles.now.tables["dispatches"].items():
        if row["status"] in LIVE and beads[row["bead_id"]]["held"]:
            oracles.fail("a bead that is held has a live attempt", oracles.world.name_of(key))


def _check_merge_rights(oracles: "Oracles", actor: Actor | None) -> None:
    """A merge is claimed when nobody has it, and ended by whoever claimed it last."""
    for key, row in oracles.now.tables["merge_requests"].items():
        was = oracles.before.tables["merge_requests"].get(key)
        if was is None:
            continue
        name = oracles.world.name_of_merge(row)
        if row["merge_epoch"] != was["merge_epoch"]:
            leased = was["lease_expires_at"]
            if was["status"] in MERGING and leased and datetime.fromisoformat(leased) > oracles.world.now:
                oracles.fail("a merge claimed while somebody has it", name)
            oracles.at_merge[key] = actor
            continue
        merged = was["status"] != row["status"] and actor is not None and actor.name.startswith("merge ")
        if actor is not None and merged and oracles.at_merge.get(was["batch_of"] or key) is not actor:
            oracles.fail("a merge written by a worker that has it no more", f"{name} by {actor.name}")


def check_breaker(oracles: "Oracles", new: Row, live: list[Row]) -> None:
    """While the town's breaker is open, one attempt at a time may try, and not at once."""
    was = oracles.before.tables["towns"].get(new["town_id"], {}).get("breaker_opened_at")
    opened = oracles.now.tables["towns"][new["town_id"]]["breaker_opened_at"]
    if opened is None or was != opened:
        return
    name = oracles.world.name_of(new["id"])
    before = oracles.before.tables["dispatches"]
    others = [row for row in live if row["town_id"] == new["town_id"] and row is not new]
    trying = [row for row in others if row["status"] != "running" and before.get(row["id"], row)["status"] != "running"]
    if trying:
        names = ", ".join(oracles.world.name_of(row["id"]) for row in trying)
        oracles.fail("more than one attempt while the breaker is open", f"{name} beside {names}")
    policy = Policy.of(oracles.now.tables["towns"][new["town_id"]]["policy"])
    since = datetime.fromisoformat(new["queued_at"]) - datetime.fromisoformat(opened)
    if since < timedelta(seconds=policy.town_breaker_probe_s):
        oracles.fail("an attempt while the breaker is open, before its time", f"{name} after {since}")


def check_budget(oracles: "Oracles", new: Row, live: list[Row], since: int) -> None:
    """What was spent in a day and the caps of all that runs fit into the budget; what goes above a cap counts later."""
    budget = oracles.world.budget_since(since, new["town_id"])
    if budget is None:
        return
    day_ago = datetime.fromisoformat(new["queued_at"]) - SPEND_WINDOW
    spent = sum(
        row["cost_usd"]
        for key, row in oracles.now.tables["dispatches"].items()
        if row["town_id"] == new["town_id"]
        and row["ended_at"] is not None
        and datetime.fromisoformat(row["ended_at"]) > day_ago
        and oracles.before.tables["dispatches"].get(key, row)["ended_at"] is not None
    )
    reserved = sum(row["cap_usd"] or 0.0 for row in live if row["town_id"] == new["town_id"])
    if spent + reserved > budget + CENT:
        name = oracles.world.name_of(new["id"])
        oracles.fail("an attempt above the budget", f"{name}: {spent} spent, {reserved} reserved, {budget} in all")
