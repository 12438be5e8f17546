"""The outcome matrix of a start: what the runtime answers, what is true, and what the broker does to the message.

`EXPECTED` is the matrix. directing.py plays its cells on one stack, oracles.py says which promises one of them broke.
"""

import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from gastown.models import Bead, DecisionRow, Dispatch
from gastown.reconcile.policy import Policy
from gastown.states import TERMINAL

ACCEPTED, REFUSED, RAISES, LOST = "accepted", "refused", "raises", "answer lost"
EXPIRED, SUPERSEDED = "answer after the lease", "answer after a newer epoch"
YES, NO, LATE = "yes", "no", "late"
ONCE, TWICE, NEVER = "once", "twice", "never"

# The numbers of the product, but for leases and pauses that a test can wait for, and for breakers, which are not its
# subject. The API has to be there for a heartbeat lease before any lease counts: so this one is short for all.
TOWN_POLICY: dict[str, Any] = {
    "max_running": 60,
    "rig_max_running": 60,
    "node_max_running": 60,
    "republish_s": [2, 4, 8],
    "heartbeat_s": 2,
    "heartbeat_lease_s": 12,
    "node_breaker_failures": 10_000,
    "town_breaker_failures": 10_000,
    "infra_failing_after": 10_000,
}
POLICIES: dict[str, dict[str, Any]] = {
    EXPIRED: {"start_timeout_s": 6, "unknown_start_delay_s": 6},
    SUPERSEDED: {"start_timeout_s": 6, "unknown_start_delay_s": 0},
}


class Cell(NamedTuple):
    outcome: str
    started: str
    message: str

    def __str__(self) -> str:
        return f"{self.outcome}, started: {self.started}, message: {self.message}"

    @property
    def held(self) -> bool:
        """Whether the start's answer waits for a cue."""
        return self.outcome in POLICIES

    @property
    def file(self) -> str:
        return "-".join((*self.outcome.split(), self.started, self.message)) + ".txt"

    @property
    def policy(self) -> Policy:
        return Policy.of(TOWN_POLICY, POLICIES.get(self.outcome, {}))


# What settles how the start went. A definite failure is known from the answer; an unknown one is asked about.
FIRST_CALL, ANSWER, INSPECTION, LEASE = "its first call", "the answer", "an inspection", "a lease"
FENCED, ENDED = "fenced", "ended"


class Expected(NamedTuple):
    """How the attempts of a cell end, in order, what settles the first one, and what becomes of its late process."""

    ends: tuple[str, ...]  # "succeeded", "adopted" (and then succeeded), or the code of its failure
    settled_by: str
    late: str = ""  # FENCED: it is told 409 and exits 75; ENDED: or its successor is first, and kills it


GOES_ON = Expected(("succeeded",), FIRST_CALL)
ADOPTED = Expected(("adopted",), FIRST_CALL)

# (answer, really started) -> what must come of it. Several: the runtime lies, and a race decides which; all are sound.
EXPECTED: dict[tuple[str, str], tuple[Expected, ...]] = {
    (ACCEPTED, YES): (GOES_ON,),
    (ACCEPTED, NO): (Expected(("start_error", "succeeded"), INSPECTION),),  # a lie: nothing is there
    (ACCEPTED, LATE): (Expected(("start_error", "succeeded"), INSPECTION, FENCED),),
    # a lie: it calls before the refusal is noted, before its successor is made, or after that
    (REFUSED, YES): (GOES_ON, ADOPTED, Expected(("start_refused", "succeeded"), ANSWER, ENDED)),
    (REFUSED, NO): (Expected(("start_refused", "succeeded"), ANSWER),),
    (REFUSED, LATE): (Expected(("start_refused", "succeeded"), ANSWER, FENCED),),
    (RAISES, YES): (GOES_ON,),
    (RAISES, NO): (Expected(("start_error", "succeeded"), ANSWER),),
    (RAISES, LATE): (Expected(("start_error", "succeeded"), ANSWER, FENCED),),
    (LOST, YES): (GOES_ON,),
    (LOST, NO): (Expected(("start_error", "succeeded"), INSPECTION),),
    (LOST, LATE): (Expected(("start_error", "succeeded"), INSPECTION, FENCED),),
    (EXPIRED, YES): (GOES_ON, ADOPTED),  # on a busy machine it calls after the lease
    (EXPIRED, NO): (Expected(("start_timeout", "succeeded"), LEASE),),
    (EXPIRED, LATE): (ADOPTED,),  # it comes up while its bead waits for the next attempt
    (SUPERSEDED, YES): (Expected(("heartbeat_lost", "succeeded"), LEASE),),  # frozen at work, ended by its successor
    (SUPERSEDED, NO): (Expected(("start_timeout", "succeeded"), LEASE),),
    (SUPERSEDED, LATE): (Expected(("start_timeout", "succeeded"), LEASE, FENCED),),
}
# The message changes none of these, only when the start is claimed, and how many copies find nothing to claim:
COPIES_REFUSED = {
    ONCE: 0,
    TWICE: 2,  # one delivered together with the first, one more when the work is under way, perhaps by a newer epoch
    NEVER: 0,  # the first is lost, and the rows publish it again
}
CELLS = [Cell(*pair, message) for message in COPIES_REFUSED for pair in EXPECTED]
CELL_TIMEOUT_S = 150.0  # usual are 3 to 20 s


@dataclass
class Gap:
    """A time without a process while an agent was `working`, in one state of its attempt."""

    state: str
    began: float
    ended: float


@dataclass
class Played:
    """A cell that was or is being played, and everything that was seen of it."""

    cell: Cell
    bead: str
    began: float
    attempts: list[Dispatch] = field(default_factory=list)
    decisions: list[DecisionRow] = field(default_factory=list)
    bead_row: Bead | None = None
    frozen: bool = False
    copied: bool = False  # a further copy of the first start's message was sent when the work was under way
    gaps: list[Gap] = field(default_factory=list)
    answered_at: datetime | None = None
    came_up_at: datetime | None = None  # when a late one was let up
    late_exit: int | None = None
    merges: int = 0
    content: str = ""
    not_ours: int = 0  # copies of the first start's message that found nothing to claim
    story: str = ""

    @property
    def over(self) -> bool:
        return self.bead_row is not None and self.bead_row.status in TERMINAL

    @property
    def overdue(self) -> bool:
        return time.monotonic() - self.began > CELL_TIMEOUT_S
