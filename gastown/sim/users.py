"""What people ask for. Each is a label, `user cancel B3`, so that a history can be read and replayed."""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from gastown.commands import edges, nodes, reviews, towns, work
from gastown.db import in_transaction
from gastown.errors import GastownError
from gastown.models import Rig, Town
from gastown.settings import get_settings
from gastown.sim.actors import Actor
from gastown.sim.convoys import Convoys
from gastown.sim.moods import ASKED_MORE, Theme
from gastown.states import ADOPTABLE, PRIORITIES
from gastown.tasks.base import poke, publish

if TYPE_CHECKING:
    from gastown.sim.world import World

AT_ONCE = 10  # beads that are not over; more of them only take turns
POLICIES = {"max_running": (1, 2, 3, 4), "rig_max_running": (1, 2, 3)}
BATCHES = (1, 2, 3, 4)
OF_REVIEWS = {"approve": 0.6, "reject": 0.4, "reviews": 0.2}
WISHES = {
    "sling": 5.0,
    "cancel": 0.8,
    "retry": 1.2,
    "again": 0.4,
    "hold": 0.5,
    "release": 1.0,
    "force": 0.6,
    "block": 0.3,
    "unblock": 0.7,
    "pause": 0.2,
    "resume": 0.6,
    "drain": 0.15,
    "close": 0.15,  # drains a node by hand
    "open": 0.5,
    "policy": 0.3,
}


class Users:
    """People at the command line. What they ask for may be refused; what must not happen is an error."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.convoys = Convoys(world)
        self._named: set[str] = set()  # also those whose sling is still under way, or was killed

    def draw(self, rng: Random) -> str | None:
        """Something that a person may want now. None: nothing to want it of."""
        if self.world.chances.mood.convoys and rng.random() < 0.25:
            return self.convoys.draw(rng)
        wishes = WISHES | ASKED_MORE.get(self.world.theme, {})
        if self.world.chances.mood.reviews:
            wishes |= OF_REVIEWS
        wish = rng.choices(list(wishes), list(wishes.values()))[0]
        beads, world = list(self.world.beads), self.world
        if wish == "sling":
            if world.oracles.unfinished >= AT_ONCE:
                return None
            after = rng.sample(beads, min(len(beads), rng.choice((0, 0, 0, 1, 2))))
            words = ["sling", f"B{len(self._named) + 1}", rng.choice(list(world.rigs)), rng.choice(PRIORITIES), *after]
        elif wish in ("pause", "resume"):
            words = [wish, rng.choice([*world.rigs, "town"])]
        elif wish == "reviews":
            words = [wish, rng.choice(list(world.rigs)), rng.choice(("on", "on", "off"))]
        elif wish in ("drain", "close", "open"):
            words = [wish, rng.choice(list(world.nodes))]
        elif wish == "policy":
            name = rng.choice(list(POLICIES))
            if world.chances.mood.mends and rng.random() < 0.5:
                name = "merge_batch"
            words = [wish, name, str(rng.choice(POLICIES.get(name, BATCHES)))]
        elif not beads:
            return None
        elif wish in ("block", "unblock"):
            words = [wish, rng.choice(beads), rng.choice(beads)]
        else:
            touched = self._touched() if rng.random() < world.chances.mood.aimed else []
            if world.theme is Theme.MERGING and wish == "cancel" and not touched:
                return None  # what is canceled before is never merged
            words = [wish, rng.choice(touched or self._likely(wish) or beads[-12:])]
        return f"user {' '.join(words)}"

    def _touched(self) -> list[str]:
        """The beads at which somebody is just now, or of which an agent was given up and is still there."""
        world = self.world
        merges = [name for name in world.stage.actors if name.startswith("merge ")]
        busy = merges if world.theme is Theme.MERGING else world.stage.actors
        words = {word.partition("/")[0] for name in busy for word in name.split(" ")}
        batched = [row for row in world.oracles.now.tables["merge_requests"].values() if row["batch_of"] is not None]
        words |= {world.name_of(row["bead_id"]) for row in batched}
        rows = world.oracles.now.tables["dispatches"]
        for node in world.nodes.values():
            words |= {agent.bead for key, agent in node.agents.items() if rows[key]["status"] in ADOPTABLE}
        return [name for name in world.beads if name in words]

    def _likely(self, wish: str) -> list[str]:
        """The beads of which it makes sense; now and then people ask it of any."""
        rows = self.world.oracles.now.tables["beads"]
        of = {name: rows[key] for name, (key, _town_id) in self.world.beads.items()}
        match wish:
            case "release":
                return [name for name, row in of.items() if row["held"]]
            case "retry":
                return [name for name, row in of.items() if row["resolution"] == "canceled" or row["not_before"]]
            case "again" | "approve" | "reject":
                return [name for name, row in of.items() if row["status"] == "in_review"]
            case "cancel":
                return [name for name, row in of.items() if row["status"] in ("in_progress", "in_review")]
            case _:
                return [name for name, row in of.items() if row["status"] == "in_progress"]

    def perform(self, label: str) -> bool:
        """False: it cannot be asked for now."""
        _user, wish, *rest = label.split(" ")
        ask = self._wish(wish, rest)
        if ask is None:
            return False

        def command() -> Any:
            effects = in_transaction(ask)
            if wish in ("force", "retry", "again", "release"):
                self.world.oracles.note_retry(self.world.beads[rest[0]][0])
            for effect in effects if isinstance(effects, list) else []:
                publish(effect)
            poke()
            return effects

        actor = self.world.stage.add(label, command, home=self.world.api)
        actor.on_end = self._ended
        self.world.advance(actor)
        return True

    def _ended(self, actor: Actor) -> None:
        if actor.error is not None and not actor.killed and not isinstance(actor.error, GastownError):
            self.world.fail("a command raised", f"{actor.name}: {type(actor.error).__name__}: {actor.error}")

    def _wish(self, wish: str, rest: list[str]) -> Callable[[Session], Any] | None:
        world = self.world
        if wish == "sling":
            return self._sling(*rest)
        if wish == "convoy":
            return self.convoys.wish(*rest)
        if wish in ("pause", "resume"):
            town_id = world.towns["town"] if rest[0] == "town" else world.rigs[rest[0]][0]
            rig = None if rest[0] == "town" else rest[0]
            return lambda session: towns.set_paused(session, town_id, wish == "pause", rig=rig)
        if wish == "reviews":
            review = "shell" if rest[1] == "on" else None
            rig_id = world.rigs[rest[0]][1]
            return lambda session: towns.update_rig(session, session.get_one(Rig, rig_id), review_agent=review) and []
        if wish == "drain":
            return lambda session: towns.drain_node(session, rest[0])
        if wish in ("close", "open"):
            if all(row["name"] != rest[0] for row in world.oracles.now.tables["nodes"].values()):
                return None
            ask = nodes.drain if wish == "close" else nodes.reopen
            return lambda session: ask(session, world.towns["town"], rest[0])
        if wish == "policy":
            return lambda session: self._set_policy(session, rest[0], int(rest[1]))
        if any(each not in world.beads for each in rest):
            return None
        key, town_id = world.beads[rest[0]]
        return self._wish_of_bead(wish, rest, key, town_id)

    def _wish_of_bead(self, wish: str, rest: list[str], key: str, town_id: int) -> Callable[[Session], Any]:
        match wish:
            case "cancel":
                return lambda session: work.cancel(session, town_id, key)
            case "retry":
                return lambda session: work.retry(session, town_id, key)
            case "again":
                return lambda session: work.retry(session, town_id, key, again=True)
            case "hold":
                return lambda session: work.hold(session, town_id, key, "not now")
            case "release":
                return lambda session: work.release(session, town_id, key)
            case "approve":
                return lambda session: reviews.approve(session, town_id, key, "fine")[1]
            case "reject":
                return lambda session: reviews.reject(session, town_id, key, "no", get_settings().home)[1]
            case "force":
                return lambda session: work.force_dispatch(session, key) and []
            case "block":
                other = self.world.beads[rest[1]][0]
                return lambda session: edges.block(session, town_id, key, other)
            case "unblock":
                other = self.world.beads[rest[1]][0]
                return lambda session: edges.unblock(session, town_id, key, other) and []
            case _:
                raise ValueError(f"nobody can wish for {wish}")

    def _sling(self, name: str, rig_name: str, priority: str, *after: str) -> Callable[[Session], Any] | None:
        world = self.world
        if name in self._named or any(each not in world.beads for each in after):
            return None
        self._named.add(name)
        town_id, rig_id = world.rigs[rig_name]
        blockers = [world.beads[each][0] for each in after if world.beads[each][1] == town_id]
        new = work.NewBead(title=f"do {name}", priority=priority, after=blockers)

        def sling(session: Session) -> Any:
            key = work.sling(session, town_id, session.get_one(Rig, rig_id), new)
            world.promise_bead(name, key, town_id)
            return key

        return sling

    def _set_policy(self, session: Session, name: str, value: int) -> None:
        town = session.get_one(Town, self.world.towns["town"])
        town.policy = town.policy | {name: value}
