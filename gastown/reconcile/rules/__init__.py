"""The rules, one module a subject, in the order in which they are asked."""

from collections.abc import Callable
from datetime import datetime

from gastown.reconcile.decision import Decision
from gastown.reconcile.policy import Policy
from gastown.reconcile.rules import dispatching, ending, landing, merging, reworking, running, stalling, starting
from gastown.reconcile.views import BeadView

Rule = Callable[[BeadView, datetime, Policy], Decision | None]

RULES: tuple[Rule, ...] = (
    ending.clean_up_terminal,
    landing.end_convoy,
    ending.rest_terminal,
    starting.give_up_unclaimed,
    starting.publish_queued,
    starting.roll_back_absent,
    starting.expire_start,
    starting.await_first_call,
    running.finish_stop,
    running.await_stop,
    running.end_over_cap,
    running.lose_vanished,
    running.lose_silent,
    running.stop_over_cap,
    running.stop_overtime,
    running.stop_stalled,
    stalling.escalate_stalled,
    stalling.nudge_stalled,
    running.await_agent,
    running.release_orphan,
    merging.await_merge,
    merging.reclaim_expired,
    merging.await_batch,
    reworking.await_rework,
    reworking.give_up_merge,
    reworking.rework,
    merging.await_approval,
    merging.hold_merge,
    reworking.await_review,
    reworking.ask_review,
    merging.queue_behind,
    merging.ask_merge,
    reworking.close_unasked,
    ending.fail_misconfigured,
    ending.hold_unauthorized,
    ending.hold_over_cap,
    ending.fail_exhausted,
    dispatching.hold,
    landing.stage,
    landing.hold_landing,
    landing.await_members,
    landing.close_empty,
    landing.give_up_landing,
    landing.land,
    dispatching.wait_for_failed_blocker,
    dispatching.wait_for_blockers,
    dispatching.wait_out_infra,
    dispatching.cool_down,
    dispatching.queue_ready,
    dispatching.dispatch,
)
