"""What a look at a bead comes to."""

from dataclasses import dataclass
from datetime import datetime

from gastown.reconcile.actions import Action
from gastown.states import Verdict


@dataclass(frozen=True)
class Decision:
    """A verdict, the values behind it, what is to be done, and when to look again. `next_look` None: when woken."""

    verdict: Verdict
    reason: str
    actions: tuple[Action, ...] = ()
    next_look: datetime | None = None
    rule: str = ""
