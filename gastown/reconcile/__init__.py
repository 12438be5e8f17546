"""Decisions. Pure: no clock, database, network or log. `decide` is asked about one bead at a time.

The rules stand in one order; the first that has something to say decides.
"""

from dataclasses import replace
from datetime import datetime

from gastown.reconcile.decision import Decision
from gastown.reconcile.policy import Policy
from gastown.reconcile.rules import RULES
from gastown.reconcile.views import BeadView


def decide(view: BeadView, now: datetime, policy: Policy) -> Decision:
    """The decision for this bead. The same view, time and policy give the same decision."""
    for rule in RULES:
        decision = rule(view, now, policy)
        if decision is not None:
            return replace(decision, rule=rule.__name__)
    raise AssertionError(f"no rule speaks of {view.id}, which is {view.status}")
