"""Faults put into the product on purpose, one at a time, to see that the simulation notices each."""

from gastown.sim.moods import Theme
from gastown.sim.planting import Mutant


def _of(
    name: str,
    *changes: tuple[str, str, str],
    theme: Theme = Theme.MIXED,
    begin: int = 1000,
    playing: str = "",
    elsewhere: str = "",
) -> Mutant:
    return Mutant(name, changes, theme, begin, playing=playing, elsewhere=elsewhere)


ATTEMPTS, ENDINGS, CLAIMS = "gastown.store.attempts", "gastown.store.endings", "gastown.store.claims"
MERGES, WORK, REPORTS = "gastown.store.merges", "gastown.commands.work", "gastown.commands.attempt"
WAIT_FOR = "gastown.reconcile.rules.dispatching"
NEWER = "return session.scalar(newer.limit(1)) is not None or not _wanted(session, dispatch)"
UNGUARDED = "    if not moved:\n        return moved\n    rows = session.execute(_ended(moved)).all()"
FENCED = "if dispatch is None or not is_fenced(session, dispatch):"
EDGES, OTHER = "gastown.commands.edges", 'head_sha="0" * 40'
WHOEVER = "Dispatch.id.in_(list(dispatch_ids))"

BATCHES, REQUESTS, REWORK = "gastown.store.batches", "gastown.store.requests", "gastown.store.rework"
MENDED = "**LIFTED, head_sha=head_sha, head_ref=None, dispatch_id=dispatch_id, review_id=None)"
OF_MENDING = (  # from where on agents mend merges, and some are batched
    _of(
        "members that are not free when their leader's lease is over",
        (f"{MERGES}:reclaim", "    batches.release(session, request)\n", ""),
        theme=Theme.MERGING,
        begin=10_008,
    ),
    _of(
        "a rework that does not move the head",
        (f"{REWORK}:finish", MENDED, "**LIFTED, head_ref=None, dispatch_id=dispatch_id, review_id=None)"),
        theme=Theme.MERGING,
        begin=10_008,
    ),
    _of(
        "a rework that does not lift the hold",
        (f"{REWORK}:finish", MENDED, MENDED.removeprefix("**LIFTED, ")),
        theme=Theme.MERGING,
        begin=10_008,
    ),
)

LANDINGS, REVIEWS, SAID = "gastown.store.landings", "gastown.store.reviews", "gastown.commands.reviews"
REWORKING = "gastown.reconcile.rules.reworking"
LANDING_RULES = "gastown.reconcile.rules.landing"
OF_CONVOYS = (
    _of(
        "a landing that does not wait for all members",
        (f"{LANDING_RULES}:await_members", "landing.waiting == 0 and", "True and"),
        begin=10_020,
        playing="convoys",
    ),
    _of(
        "who waits for a member of a convoy, and not for its landing",
        ("gastown.store.beads:wait_for_landings", "add_edges(session, [", "str(["),
        begin=10_044,
        playing="convoys",
    ),
    _of(
        "a landing that does not stand on the last merge",
        (
            "gastown.store.branches:note_tip",
            ".values(head_sha=tip_sha)",
            ".values(head_sha=func.coalesce(ConvoyBranch.head_sha, tip_sha))",
        ),
        begin=10_092,
        playing="convoys",
    ),
    _of(
        "a convoy whose start wakes nobody",
        (
            "gastown.store.convoys:start",
            "wake(session, *member_ids(session, convoy.id), *landing_ids(session, convoy.id))",
            "pass",
        ),
        begin=10_068,
        playing="convoys",
    ),
)
OF_REVIEWS = (
    _of(
        "a merge that does not wait for its approval",
        (f"{REVIEWS}:hold_for_review", "or not awaits_review(session, request)", "or True"),
        (f"{REWORKING}:ask_review", "or merge.reviewed or", "or True or"),
        begin=10_044,
        playing="reviews",
    ),
    _of(
        "a batch that takes what nobody approved",
        (f"{BATCHES}:take", "if rig.review_agent is not None:", "if False:"),
        theme=Theme.MERGING,
        begin=10_034,
        playing="reviews",
    ),
)

MUTANTS = (
    *OF_MENDING,
    *OF_CONVOYS,
    *OF_REVIEWS,
    _of("a fence that forgets newer epochs", (f"{ATTEMPTS}:is_fenced", NEWER, "return not _wanted(session, dispatch)")),
    _of(
        "a roll-back that touches the bead though it hit nothing",
        (f"{ENDINGS}:end", UNGUARDED, "    rows = session.execute(_ended(set(ids))).all()"),
        theme=Theme.OUTAGES,
        begin=1014,
    ),
    _of(
        "a roll-back of what runs",
        (f"{ATTEMPTS}:roll_back", "STARTABLE", "(*STARTABLE, DispatchStatus.RUNNING)"),
    ),
    _of("dependants are not woken", ("gastown.store.beads:wake_dependants", "wake(session, *waiting)", "pass")),
    _of(
        "messages leave before the commit",
        (
            "gastown.tasks.reconcile:_batch",
            "return Batch(bool(due or slots), effects, now)",
            "publish_all(effects)\n    return Batch(bool(due or slots), [], now)",
        ),
    ),
    _of(
        "a sweep that ends what lives",
        ("gastown.store.reads:fenced_among", "Dispatch.id.in_(list(dispatch_ids)), not_(served)", WHOEVER),
        ("gastown.store.reads:runtime_of_fenced", FENCED, "if dispatch is None:"),
    ),
    _of(
        "a done that cannot be repeated",
        (f"{REPORTS}:_reported", "return dispatch.status if own or asked else None", "return None"),
    ),
    _of("no backoff", (f"{ENDINGS}:_delay", "return delay or None", "return None")),
    _of(
        "work that is forgotten with the report",
        (f"{REPORTS}:finish", "done.wip_sha or dispatch.wip_sha", "done.wip_sha"),
    ),
    _of("a hold that holds nothing", (f"{WAIT_FOR}:hold", "return None if", "return None if True or")),
    _of(
        "a dependant that starts when its blocker is done, not merged",
        (
            f"{WAIT_FOR}:wait_for_blockers",
            "if not blocker.released]",
            "if blocker.status != 'in_review' and not blocker.released]",
        ),
    ),
    _of(
        "a release that wakes nobody",
        (f"{WORK}:release", '"held_reason": None, "wake_at": gastown_now()}', '"held_reason": None}'),
    ),
    _of(
        "a bead that waits no more and is not woken",
        (f"{EDGES}:unblock", "wake(session, bead_id)", "pass"),
        theme=Theme.CONTENTION,
    ),
    _of(
        "a hold that leaves the attempt",
        (f"{WORK}:hold", 'attempts.stop_live(session, bead, StopCode.HELD, f"held by {actor}: {reason}")', "None"),
    ),
    _of("a merge of another commit than the reported one", (f"{REQUESTS}:open_request", "head_sha=head_sha", OTHER)),
    _of(
        "a retry that forgets where attempts count from",
        ("gastown.store.beads:reopen", '"attempts_from": last_epoch(session, bead.id)', '"attempts_from": 0'),
    ),
    _of(
        "node slots counted without the lock",
        (f"{CLAIMS}:_lock_nodes", ".with_for_update(key_share=True)", ""),
        theme=Theme.CONTENTION,
    ),
    _of(
        "two reconcilers decide for one town at a time",
        (f"{CLAIMS}:try_lock_town", "return asked.now if asked.ours else None", "return asked.now"),
        (f"{CLAIMS}:_lock_nodes", ".with_for_update(key_share=True)", ""),
        theme=Theme.CONTENTION,
    ),
    _of(
        "no lock on the bead's row",
        ("gastown.store.moves:lock_bead", ".with_for_update(key_share=True)", ""),
        theme=Theme.CONTENTION,
    ),
    _of(
        "a start that is claimed twice",
        (f"{ATTEMPTS}:claim_start", "if not move(", "if dispatch.status != DispatchStatus.STARTING and not move("),
    ),
    _of(
        "an adoption that does not look at the hook",
        (f"{ATTEMPTS}:_wanted", "return session.scalar(statement) is not None", "return True"),
        theme=Theme.OUTAGES,
        begin=2007,
    ),
    _of(
        "leases that run while the API is away",
        ("gastown.store.views:_is_outage", "return silent or", "return False and"),
        theme=Theme.OUTAGES,
        begin=1017,
    ),
    _of(
        "a push that does not ask whether it is wanted",
        (
            "gastown.tasks.merge:_may_push",
            "if in_transaction(lambda session: merges.begin_push(session, order, sha, onto, along)):",
            "if in_transaction(lambda session: merges.begin_push(session, order, sha, onto, along)) or True:",
        ),
        theme=Theme.MERGING,
    ),
    _of(
        "a merge claim that takes what is being pushed",
        (f"{MERGES}:claim_merge", "request.lease_expires_at is None or request.lease_expires_at > now", "False"),
        theme=Theme.MERGING,
    ),
    _of("a done that keeps the hook", (f"{REPORTS}:_succeed", "agents.unhook(session, bead.id)", "pass")),
    _of(
        "a breaker that lets several try",
        ("gastown.reconcile.town:open_breaker", "probing=view.starting > 0", "probing=False"),
        ("gastown.reconcile.town:room", "else min(town, 1)", "else town"),
        theme=Theme.FAILING,
    ),
    _of(
        "a breaker that asks nobody to wait",
        ("gastown.reconcile.town:room", "0 if breaker.shut(now) else min(town, 1)", "min(town, 1)"),
        theme=Theme.FAILING,
    ),
    _of(
        "a budget without what is reserved",
        ("gastown.reconcile.town:budget_left_usd", " - view.reserved_usd", ""),
        theme=Theme.SLOW,
    ),
    _of("a drained node that takes starts", ("gastown.reconcile.town:free_on", "or node.draining ", ""), begin=1008),
    _of(
        "requests to people that are never settled",
        ("gastown.store.escalations:settle_gone", "len(session.execute", "0 and len(session.execute"),
        (
            "gastown.store.escalations:settle_bead",
            "_settle(session, Escalation.town_id == bead.town_id, or_(",
            "str(or_(",
        ),
        begin=1008,
    ),
)

# Not noticed in 5,000 steps and more of their theme: another guard covers it, or it takes several things at once.
UNNOTICED = (
    _of(  # a cancel between the preparation of a batch and its push, which takes two transactions
        "a member of a batch that is canceled, and lands",
        (
            f"{BATCHES}:begin_push",
            "if any(wanted.get(each.order.id) != each.order.head_sha for each in along):",
            "if 0:",
        ),
        theme=Theme.MERGING,
        begin=10_008,
        elsewhere="test_a_cancel_before_the_push_has_the_rest_merged_anew",
    ),
    _of(  # four rounds within one history
        "rework without end",
        (f"{REWORKING}:give_up_merge", "merge.rounds < policy.rework_rounds", "True"),
        theme=Theme.MERGING,
        begin=10_008,
        elsewhere="test_three_rounds_then_it_fails_and_a_person_is_asked",
    ),
    _of(  # a cancel of just that bead in just that while
        "a rework that goes on after its merge is canceled",
        (
            f"{WORK}:_end_locked",
            'made = rework.cancel_for(session, bead.id, actor, f"canceled with {bead.id}")',
            "made = []",
        ),
        theme=Theme.MERGING,
        begin=10_008,
        elsewhere="test_cancel_of_the_source_ends_its_rework",
    ),
    _of(  # whoever lost the lease asks before each write; it has to run out between that and the transaction
        "a merge record that does not look at the epoch",
        ("gastown.store.closing:lock_ours", "found[1].merge_epoch == order.merge_epoch", "True"),
        theme=Theme.MERGING,
        elsewhere="test_a_worker_that_lost_its_claim_writes_nothing",
    ),
    _of(  # no effect on a cancel, which asks the same before; a landing's withdrawal then loses its move
        "a cancel that does not wait for the push",
        (f"{REQUESTS}:close_request", "if batches.is_being_pushed(session, bead.id) or", "if"),
        theme=Theme.MERGING,
        elsewhere="test_nobody_is_called_back_while_the_landing_is_pushed",
    ),
    _of(  # a member that was called off is retried while just that landing is in the queue
        "a landing that goes on while a member is worked on again",
        (f"{LANDINGS}:call_back", 'withdraw(session, landing, f"{member.id} is worked on again", actor)', "pass"),
        begin=10_020,
        playing="convoys",
        elsewhere="test_a_member_that_is_retried_withdraws_the_landing",
    ),
    _of(  # the rules ask for no merge before the approval: the claim matters when a head moves in between
        "a claim that does not ask for an approval",
        (f"{REVIEWS}:hold_for_review", "or not awaits_review(session, request)", "or True"),
        begin=10_020,
        playing="reviews",
        elsewhere="test_one_that_waited_for_the_outside_is_read_first",
    ),
    _of(  # whatever moves a head ends its reviews, and their attempts are fenced
        "an approval of whatever the head is by now",
        (
            f"{SAID}:answer",
            "request, sha = reviews.request_of(session, review), review.base_sha",
            "request = session.get_one(MergeRequest, review.mr_id, populate_existing=True)\n    sha = request.head_sha",
        ),
        begin=10_020,
        playing="reviews",
        elsewhere="test_an_answer_that_nobody_waits_for_changes_nothing",
    ),
)
