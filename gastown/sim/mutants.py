"""Faults put into the product on purpose, one at a time, to see that the simulation notices each.

A mutant is a function of the product with some of its text replaced, in every module that knows it, for as long as the
simulation runs. Text that is no longer there means that the mutant has to be written anew.
"""

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from typing import Any

from gastown.sim.moods import THEMES, Theme


@dataclass(frozen=True)
class Mutant:
    """`changes`: in `module:function`, what is replaced by what."""

    name: str
    changes: tuple[tuple[str, str, str], ...]
    theme: Theme  # of the histories in which it shows soonest
    begin: int  # the first of them is the next one from here
    within: int = 20_000  # steps

    @property
    def seeds(self) -> Iterator[int]:
        """Seeds of its theme, without end."""
        first = self.begin + (THEMES.index(self.theme) - self.begin) % len(THEMES)
        return count(first, len(THEMES))

    @contextmanager
    def installed(self) -> Iterator[None]:
        places: list[tuple[Any, str, Any]] = []
        try:
            for where, old, new in self.changes:
                for owner, name, before, after in self._replacements(where, old, new):
                    places.append((owner, name, before))
                    setattr(owner, name, after)
            yield
        finally:
            for owner, name, before in reversed(places):
                setattr(owner, name, before)

    def _replacements(self, where: str, old: str, new: str) -> list[tuple[Any, str, Any, Any]]:
        module_name, _, path = where.partition(":")
        module = import_module(module_name)
        original = getattr(module, path)
        function = getattr(original, "run", original)  # a Celery task's body
        mutated = self._mutated(inspect.unwrap(function), module, old, new)
        if function is not original:
            return [(original, "run", function, mutated)]
        return list(_places(function, mutated))

    def _mutated(self, function: Callable[..., Any], module: Any, old: str, new: str) -> Any:
        source = textwrap.dedent(inspect.getsource(function))
        source = source[source.index("def ") :]
        if source.count(old) != 1:
            raise LookupError(f"mutant {self.name!r}: {old!r} is {source.count(old)} times in {function.__name__}")
        scope: dict[str, Any] = {}
        code = compile(source.replace(old, new), f"<mutant {self.name}>", "exec", dont_inherit=True)
        exec(code, module.__dict__, scope)
        return scope[function.__name__]


def _places(function: Any, mutated: Any) -> Iterator[tuple[Any, str, Any, Any]]:
    """Every name in the product that means this function, by itself or as a member of RULES."""
    for module_name, module in list(sys.modules.items()):
        if not module_name.startswith("gastown."):
            continue
        for name, value in list(vars(module).items()):
            if value is function:
                yield module, name, value, mutated
            elif isinstance(value, tuple) and any(each is function for each in value):
                yield module, name, value, tuple(mutated if each is function else each for each in value)


def _of(name: str, *changes: tuple[str, str, str], theme: Theme = Theme.MIXED, begin: int = 1000) -> Mutant:
    return Mutant(name, changes, theme, begin)


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

MUTANTS = (
    *OF_MENDING,
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
        (f"{CLAIMS}:try_lock_town", "return bool(", "return True or bool("),
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
        begin=1011,
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

# Not noticed in 5,000 steps of their theme: each needs two or more things at once, most of them within one push.
UNNOTICED = (
    _of(
        "a member of a batch that is canceled, and lands",
        (
            f"{BATCHES}:begin_push",
            "if any(wanted.get(each.order.id) != each.order.head_sha for each in along):",
            "if 0:",
        ),
        theme=Theme.MERGING,
        begin=10_008,
    ),
    _of(
        "rework without end",
        ("gastown.reconcile.rules.reworking:give_up_merge", "merge.rounds < policy.rework_rounds", "True"),
        theme=Theme.MERGING,
        begin=10_008,
    ),
    _of(
        "a rework that goes on after its merge is canceled",
        (
            f"{WORK}:cancel_locked",
            'made = rework.cancel_for(session, bead.id, actor, f"canceled with {bead.id}")',
            "made = []",
        ),
        theme=Theme.MERGING,
        begin=10_008,
    ),
    _of(
        "a merge record that does not look at the epoch",
        ("gastown.store.closing:lock_ours", "found[1].merge_epoch == order.merge_epoch", "True"),
        theme=Theme.MERGING,
    ),
    _of(
        "a cancel that does not wait for the push",
        (f"{REQUESTS}:close_request", "if batches.is_being_pushed(session, bead.id) or", "if"),
        theme=Theme.MERGING,
    ),
)
