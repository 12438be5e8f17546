"""What people ask for with convoys: `user convoy make C1 land B3 B4`."""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from gastown.commands import convoys
from gastown.states import TERMINAL, ConvoyMode

if TYPE_CHECKING:
    from gastown.sim.world import World

MODES = {"land": ConvoyMode.REVIEW_THEN_LAND, "each": ConvoyMode.REVIEW_AND_MERGE}
STAGED, BEGUN, OVER = ("staged",), ("open", "landing"), ("failed", "closed")
WISHES = {  # with what convoys it is mostly asked of
    "make": (2.0, ()),
    "start": (2.0, STAGED),
    "add": (1.5, (*STAGED, *BEGUN)),
    "remove": (0.4, (*STAGED, *BEGUN)),
    "land": (0.4, (*BEGUN, "failed")),
    "partial": (0.5, BEGUN),
    "close": (0.1, (*BEGUN, *OVER)),
}
AT_ONCE = 3  # that are not over
WHEN = ("now", "now", "now", "later")
ANYTHING = 0.15  # how often people ask it of any, whether it makes sense or not


class Convoys:
    def __init__(self, world: "World") -> None:
        self.world = world
        self._made: set[str] = set()

    def draw(self, rng: Random) -> str | None:
        """None: there is nothing to ask it of."""
        now = self.world.oracles.now.tables
        wish = rng.choices(list(WISHES), [weight for weight, _ in WISHES.values()])[0]
        convoys = sorted(now["convoys"].values(), key=lambda row: str(row["name"]))
        beads = {name: now["beads"][key] for name, (key, _) in self.world.beads.items()}
        plain = [name for name, row in beads.items() if row["purpose"] is None]
        free = [name for name in plain if beads[name]["status"] not in (*TERMINAL, "in_review")]
        free = [name for name in free if beads[name]["convoy_id"] is None]
        if wish == "make":
            if sum(row["status"] not in OVER for row in convoys) >= AT_ONCE:
                return None
            words = [f"C{len(self._made) + 1}", rng.choice(("land", "land", "each")), rng.choice(WHEN)]
            return f"user convoy make {' '.join([*words, *rng.sample(free, min(len(free), rng.choice((2, 3, 4))))])}"
        likely = [row["name"] for row in convoys if row["status"] in WISHES[wish][1]]
        if rng.random() < ANYTHING:
            likely, free = [row["name"] for row in convoys], plain
        members = [name for name in plain if beads[name]["convoy_id"] is not None]
        if not likely:
            return None
        convoy = rng.choice(likely)
        chosen = [name for name in free if self.world.beads[name][1] == self._town_of(convoy)]
        chosen = members if wish == "remove" else chosen
        if wish not in ("add", "remove"):
            return f"user convoy {wish} {convoy}"
        return f"user convoy {wish} {convoy} {rng.choice(chosen)}" if chosen else None

    def wish(self, wish: str, name: str, *rest: str) -> Callable[[Session], Any] | None:
        if wish == "make":
            return self._make(name, *rest)
        town_id = self._town_of(name)
        if town_id is None or any(each not in self.world.beads for each in rest):
            return None
        keys = [self.world.beads[each][0] for each in rest]
        match wish:
            case "start":
                return lambda session: convoys.start(session, town_id, name)
            case "add":
                return lambda session: convoys.add(session, town_id, name, keys)
            case "remove":
                return lambda session: convoys.remove(session, town_id, name, keys[0])
            case "land" | "partial":
                return lambda session: convoys.land(session, town_id, name, partial=wish == "partial")
            case _:
                return lambda session: convoys.close(session, town_id, name)

    def _make(self, name: str, mode: str, when: str, *beads: str) -> Callable[[Session], Any] | None:
        if name in self._made or any(each not in self.world.beads for each in beads):
            return None
        self._made.add(name)
        known = [self.world.beads[each] for each in beads]
        town_id = known[0][1] if known else self.world.towns["town"]
        keys = [key for key, town in known if town == town_id]
        now = when == "now"
        return lambda session: convoys.create(session, town_id, name, mode=MODES[mode], bead_ids=keys, start=now)

    def _town_of(self, name: str) -> int | None:
        rows = self.world.oracles.now.tables["convoys"].values()
        return next((row["town_id"] for row in rows if row["name"] == name), None)
