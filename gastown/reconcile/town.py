"""A town's own gates: what holds a bead about which nothing else is missing, and how much may be started. Pure.

`room` says what a tick may start, `hold_of` tells one bead why it is not started: both by the same gates. A bead for
which `hold_of` says ready is one that `placement.place` would place if it were alone.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from gastown.reconcile.fitting import fitting_nodes, misfit, refusals, restrictions
from gastown.reconcile.placement import NodeRoom, Room
from gastown.reconcile.policy import Policy
from gastown.reconcile.views import SPEND_WINDOW, NodeView, RigView, TownView
from gastown.states import Verdict


class BreakerMove(NamedTuple):
    """What has to become of the stored state of the town's breaker."""

    opens: bool  # False: it closes
    reason: str


def breaker_move(view: TownView, now: datetime, policy: Policy) -> BreakerMove | None:
    """Open it after so many failures of class infra within the window, with no start since the first of them.

    The first call of any attempt since then closes it, also one that was made while it opened. None: it stays as it is.
    """
    opened, started, first = view.breaker_opened_at, view.last_started_at, view.infra_since
    if opened is not None:
        if started is None or (started <= opened and (first is None or started <= first)):
            return None
        return BreakerMove(False, f"an attempt made its first call at {started:%H:%M:%S} UTC")
    if first is None or view.infra_failures < policy.town_breaker_failures or (started is not None and started > first):
        return None
    return BreakerMove(
        True,
        f"{view.infra_failures} attempts failed since {first:%H:%M:%S} UTC and none made a first call; the last: "
        f"{view.infra_failure}",
    )


class Breaker(NamedTuple):
    """The town's breaker, open. One attempt at a time may try whether it works again."""

    opened_at: datetime
    reason: str
    probe_at: datetime
    probing: bool  # an attempt is on its way, and its first call would close the breaker

    def shut(self, now: datetime) -> bool:
        """Not even a probe may start now."""
        return self.probing or now < self.probe_at


def open_breaker(view: TownView, now: datetime, policy: Policy) -> Breaker | None:
    """The breaker as it is once the move that is due is made. None: closed.

    After `town_breaker_probe_s`, counted from its opening or from the end of the last probe, one attempt may try.
    """
    move = breaker_move(view, now, policy)
    opened_at, reason, from_ = view.breaker_opened_at, view.breaker_reason, view.breaker_opened_at
    if move is not None:
        opened_at, reason, from_ = (now, move.reason, now) if move.opens else (None, "", None)
    if opened_at is None or from_ is None:
        return None
    if view.probe_ended_at is not None:
        from_ = max(from_, view.probe_ended_at)
    probe_at = from_ + timedelta(seconds=policy.town_breaker_probe_s)
    return Breaker(opened_at, reason, probe_at, probing=view.starting > 0)


def node_rests_until(node: NodeView, policy: Policy) -> datetime | None:
    """When a node whose starts failed in a row may have its next one, as a probe. None: its breaker is closed."""
    beyond = node.failures - policy.node_breaker_failures
    if beyond < 0 or node.failed_at is None:
        return None
    waits = policy.node_breaker_s
    return node.failed_at + timedelta(seconds=waits[min(beyond, len(waits) - 1)])


def node_is_resting(node: NodeView, now: datetime, policy: Policy) -> bool:
    """Its breaker is open, and not even a probe may start: too early, or one is on its way."""
    until = node_rests_until(node, policy)
    return until is not None and (now < until or node.starting > 0)


def free_on(node: NodeView, now: datetime, policy: Policy) -> int:
    """How many attempts may be started on it now."""
    if not node.alive or node.draining or node_is_resting(node, now, policy):
        return 0
    free = max(0, node.capacity - node.used)
    return free if node_rests_until(node, policy) is None else min(free, 1)


def budget_left_usd(view: TownView, policy: Policy) -> float | None:
    """What no attempt has used in the last 24 h, or reserved. None: there is no budget."""
    if policy.budget_usd_per_day == 0:
        return None
    return policy.budget_usd_per_day - view.spent_usd - view.reserved_usd


def room(view: TownView, now: datetime, policy: Policy) -> Room:
    """What may be started now: of the town, its rigs, the nodes and the budget, and with which presets not."""
    breaker = open_breaker(view, now, policy)
    town = max(0, policy.max_running - view.used)
    if view.wrong is not None or view.paused_at is not None:
        town = 0
    elif breaker is not None:
        town = 0 if breaker.shut(now) else min(town, 1)
    usable = [rig for rig in view.rigs.values() if rig.wrong is None and rig.paused_at is None]
    return Room(
        town=town,
        rigs={rig.id: max(0, rig.limit - rig.used) for rig in usable},
        nodes=tuple(_node_room(node, now, policy) for node in view.nodes),
        used={rig.id: rig.used for rig in usable},
        resting=frozenset(preset for preset, rest in view.rests.items() if rest.until > now),
        budget_usd=budget_left_usd(view, policy),
        caps_usd={rig.id: rig.cap_usd for rig in usable},
        probing=breaker is not None,
        failed_rigs=view.infra_rigs,
        only=restrictions(view),
    )


def _node_room(node: NodeView, now: datetime, policy: Policy) -> NodeRoom:
    return NodeRoom(
        node_id=node.id,
        name=node.name,
        free=free_on(node, now, policy),
        probing=node_rests_until(node, policy) is not None,
        failed_rigs=node.failed_rigs,
    )


class Hold(NamedTuple):
    """What keeps a ready bead from being started: the verdict with its values, and when that is known to change."""

    verdict: Verdict
    reason: str
    opens_at: datetime | None = None
    gate: str = ""


Gate = Callable[[TownView, RigView, str, datetime, Policy], Hold | None]


def misconfigured(view: TownView, rig: RigView, preset: str, now: datetime, policy: Policy) -> Hold | None:
    """The policy of the town or of the rig makes no sense, or the rig's environment is none: nothing is started until
    somebody has put that right."""
    if view.wrong is not None:
        return Hold(Verdict.MISCONFIGURED, view.wrong)
    return None if rig.wrong is None else Hold(Verdict.MISCONFIGURED, rig.wrong)


def paused(view: TownView, rig: RigView, preset: str, now: datetime, policy: Policy) -> Hold | None:
    """Somebody paused the town or the rig: nothing is started until somebody resumes it."""
    if view.paused_at is not None:
        return Hold(Verdict.PAUSED, f"the town is paused since {view.paused_at:%H:%M:%S} UTC")
    if rig.paused_at is not None:
        return Hold(Verdict.PAUSED, f"rig {rig.name} is paused since {rig.paused_at:%H:%M:%S} UTC")
    return None


def town_breaker(view: TownView, rig: RigView, preset: str, now: datetime, policy: Policy) -> Hold | None:
    """Attempts of the town failed in a row by the machine's fault: now and then one tries whether it works again."""
    breaker = open_breaker(view, now, policy)
    if breaker is None or not breaker.shut(now):
        return None
    why = f"the breaker is open since {breaker.opened_at:%H:%M:%S} UTC: {breaker.reason}"
    if breaker.probing:
        return Hold(Verdict.BREAKER_OPEN, f"{why}; one attempt tries now whether it works again")
    next_try = f"one attempt may try at {breaker.probe_at:%H:%M:%S} UTC"
    return Hold(Verdict.BREAKER_OPEN, f"{why}; {next_try}", breaker.probe_at)


def budget(view: TownView, rig: RigView, preset: str, now: datetime, policy: Policy) -> Hold | None:
    """What was spent in the last 24 h and what live attempts reserve leave no room for the cap of one more."""
    room_left = room(view, now, policy)
    if room_left.affords(rig.id):
        return None
    reason = (
        f"{view.spent_usd:.2f} USD spent in 24 h and {view.reserved_usd:.2f} reserved by running attempts: "
        f"{rig.cap_usd:.2f} more do not fit into {policy.budget_usd_per_day:.2f} (policy budget_usd_per_day)"
    )
    return Hold(Verdict.OVER_BUDGET, reason, None if view.spent_since is None else view.spent_since + SPEND_WINDOW)


def preset_at_rest(view: TownView, rig: RigView, preset: str, now: datetime, policy: Policy) -> Hold | None:
    """The provider behind the bead's preset asked for a pause: nothing is started with that preset until then."""
    rest = view.rests.get(preset)
    if rest is None or rest.until <= now:
        return None
    return Hold(Verdict.RATE_LIMITED, f"{preset} rests until {rest.until:%H:%M:%S} UTC: {rest.reason}", rest.until)


def no_node(view: TownView, rig: RigView, preset: str, now: datetime, policy: Policy) -> Hold | None:
    """No node has shown itself of late."""
    if any(node.alive for node in view.nodes):
        return None
    if not view.nodes:
        return Hold(Verdict.NO_NODE, "no worker has ever shown itself")
    last = max(view.nodes, key=lambda node: node.heartbeat_at)
    seen = f"the last one was {last.name}, seen at {last.heartbeat_at:%H:%M:%S} UTC"
    return Hold(Verdict.NO_NODE, f"no worker is alive; {seen}{refusals(view)}")


def unfit(view: TownView, rig: RigView, preset: str, now: datetime, policy: Policy) -> Hold | None:
    """Of the nodes that are alive none has all labels that the rig asks for, or an image for its containers."""
    words = [misfit(rig, preset, node) for node in view.nodes if node.alive]
    if None in words:
        return None
    return Hold(Verdict.NO_NODE, f"no live node fits: {'; '.join(each for each in words if each)}{refusals(view)}")


def draining(view: TownView, rig: RigView, preset: str, now: datetime, policy: Policy) -> Hold | None:
    """Each node that is alive drains: it takes no starts until a worker is started anew, or whoever drains it undoes
    that."""
    alive = fitting_nodes(view, rig, preset)
    if not all(node.draining for node in alive):
        return None
    return Hold(Verdict.DRAINING, f"draining: {', '.join(map(_drained, alive))}")


def _drained(node: NodeView) -> str:
    return node.name if node.closed_at is None else f"{node.name} (by hand since {node.closed_at:%H:%M:%S} UTC)"


def node_breaker(view: TownView, rig: RigView, preset: str, now: datetime, policy: Policy) -> Hold | None:
    """Starts on each usable node failed in a row: it rests, longer each time, then one start tries it again."""
    usable = [node for node in fitting_nodes(view, rig, preset) if not node.draining]
    if not all(node_is_resting(node, now, policy) for node in usable):
        return None
    words = "; ".join(_resting(node, now, policy) for node in usable)
    untils = [until for node in usable if (until := node_rests_until(node, policy)) is not None and until > now]
    return Hold(Verdict.NO_NODE, f"starts fail on every node: {words}", min(untils, default=None))


def _resting(node: NodeView, now: datetime, policy: Policy) -> str:
    until = node_rests_until(node, policy)
    assert until is not None
    then = f"rests until {until:%H:%M:%S} UTC" if now < until else "one start tries it now"
    return f"{node.name} failed {node.failures} in a row ({node.failure}) and {then}"


def capacity(view: TownView, rig: RigView, preset: str, now: datetime, policy: Policy) -> Hold | None:
    """As many attempts as the town, the rig or its nodes may run are live: one of them has to end."""
    if view.used >= policy.max_running:
        words = f"the town runs {view.used} of at most {policy.max_running} attempts (policy max_running)"
    elif rig.used >= rig.limit:
        words = f"rig {rig.name} runs {rig.used} of at most {rig.limit} attempts (policy rig_max_running)"
    elif not any(free_on(node, now, policy) for node in fitting_nodes(view, rig, preset)):
        fitting = fitting_nodes(view, rig, preset)
        usable = [node for node in fitting if not node.draining]
        words = "every node is full: " + ", ".join(
            _resting(node, now, policy)
            if node_is_resting(node, now, policy)
            else f"{node.name} {node.used} of {node.capacity}"
            for node in usable
        )
        words += "".join(f"; draining: {_drained(node)}" for node in fitting if node.closed_at is not None)
        words += refusals(view)
    else:
        return None
    return Hold(Verdict.AT_CAPACITY, words)


GATES: tuple[Gate, ...] = (
    misconfigured,
    paused,
    town_breaker,
    budget,
    preset_at_rest,
    no_node,
    unfit,
    draining,
    node_breaker,
    capacity,
)


def hold_of(view: TownView, rig_id: int, preset: str | None, now: datetime, policy: Policy) -> Hold:
    """Why a ready bead of this rig is not started: the first gate that is shut. READY: the next tick starts it.

    `preset` None is the rig's. `policy` is the town's; what the rig overrides stands in its view.
    """
    rig = view.rigs[rig_id]
    for gate in GATES:
        hold = gate(view, rig, rig.preset if preset is None else preset, now, policy)
        if hold is not None:
            return hold._replace(gate=gate.__name__)
    return Hold(Verdict.READY, "a slot is free: the next tick starts it")
