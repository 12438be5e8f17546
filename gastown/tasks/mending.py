"""Whose agent may mend what holds a merge."""

from gastown.presets import reads
from gastown.settings import get_settings
from gastown.states import REWORKED, HoldCode
from gastown.store.orders import MergeOrder


def mender_for(order: MergeOrder, code: HoldCode) -> str | None:
    """The preset, for `merges.hold`. None: a person has to, because no agent can, or its agents read no prompt."""
    return order.mender if code in REWORKED and reads(order.mender, get_settings().home) else None
