"""A town of the product as small as a world of the specification, and how each of its steps is brought about there.

The specification leaves open when a wait is over; here the clock is moved, and the API is away or there, so that the
product decides what the history says. Other beads' rows are locked meanwhile: another transaction is at them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from gastown.agent.protocol import Checkpoint, Done, Heartbeat
from gastown.commands import attempt, work
from gastown.db import transaction
from gastown.models import Agent, Bead, Dispatch, MergeRequest, Node, Service, Town
from gastown.reconcile.actions import Effect
from gastown.states import LIVE, BeadStatus, DispatchStatus, MergeStatus
from gastown.store import attempts
from gastown.store.attempts import Fenced
from gastown.store.moves import wake
from gastown.store.resync import find_violations
from gastown.tasks import containers
from gastown.tasks import reconcile as ticking
from gastown.tasks.base import publish_all
from tests.builders import BASE, HEAD, a_bead, a_node, a_rig, a_town, an_agent
from tests.conftest import Clock
from tests.model.outside import Outside

World = dict[str, int]
GIVEN_UP = (DispatchStatus.FAILED, DispatchStatus.ROLLED_BACK, DispatchStatus.LOST)
NEVER = 9_999_999.0  # a limit that no history reaches
# What the specification does not speak of is out of the way: breakers, stalls, and a queue that nobody serves.
POLICY: dict[str, Any] = {
    "queued_timeout_s": NEVER,
    "infra_failing_after": int(NEVER),
    "town_breaker_failures": int(NEVER),
    "node_breaker_failures": int(NEVER),
    "max_agent_failures": int(NEVER),
    "stall_nudge_s": NEVER,
    "stall_escalate_s": NEVER,
    "stall_stop_s": NEVER,
    "max_runtime_s": NEVER,
}


def _limit(live: Dispatch) -> datetime:
    """When the lease of a running attempt is over, or the time that a start may take."""
    if live.status == DispatchStatus.RUNNING and live.lease_expires_at is not None:
        return live.lease_expires_at
    assert live.starting_at is not None
    return live.starting_at + timedelta(seconds=120)


class ModelTown:
    """`beads`, `agents` and dispatches by number, in order of their making."""

    def __init__(self, name: str, world: World, clock: Clock, home: Path, outside: Outside) -> None:
        self.clock, self.home, self.outside = clock, home, outside
        self.policy = POLICY | {"max_running": world["capacity"], "rig_max_running": world["capacity"]}
        with transaction() as session:
            session.execute(update(Node).values(heartbeat_at=clock.now - timedelta(days=1)))  # of earlier towns
            town = a_town(session, name=name, policy=self.policy)
            rig = a_rig(session, town_id=town.id)
            self.id, self.node = town.id, a_node(session, name, capacity=10 * world["capacity"]).name
            self.agents = [an_agent(session, rig).id for _ in range(world["agents"])]
            self.beads = [a_bead(session, rig).id for _ in range(world["beads"])]

    # --- time

    def until(self, moment: Any) -> None:
        if moment is not None and moment > self.clock.now:
            self.clock.now = moment

    def set_api(self, session: Session, away: bool) -> None:
        """Away, or there for an hour: leases run."""
        long_ago = self.clock.now - timedelta(hours=1)
        session.merge(Service(name="api", alive_at=long_ago if away else self.clock.now, back_at=long_ago))
        session.execute(update(Node).where(Node.name == self.node).values(heartbeat_at=self.clock.now))

    # --- the reconciler

    def decide(self, number: int, verb: str, rest: list[str], variant: str | None, publish: bool) -> None:
        """One tick at which only this bead can be looked at. Time is what it has to be for the verdict."""
        bead_id, away, agent = self.beads[number], False, None
        bead, live = self._look_at(bead_id)
        if verb == "republish":
            self.until(live.queued_at + timedelta(seconds=10))
            self._wake(bead_id)
        elif verb == "look_later":
            if variant == "the API is away":
                self.until(_limit(live))
            away = _limit(live) <= self.clock.now
            self._wake(bead_id)
        elif variant == "seen to be gone":
            self._inspect()
        elif verb in ("expire", "expire_live"):
            self.until(_limit(live))
            self.until(bead.wake_at)
        else:
            self.until(bead.wake_at)
            self.until(bead.not_before)
        if verb == "create":
            agent = self.agents[int(rest[0])]
        if verb == "exhausted":
            self._count_failures(bead_id)
        self.tick(bead_id, agent, away, publish)
        if verb == "exhausted":
            self._set_policy({})

    def _inspect(self) -> None:
        """Workers that died in a start come back, and the node is looked at: what is gone is seen to be gone."""
        with transaction() as session:
            attempts.doubt_starts_of(session, "/" + "0" * 12)  # a later life of the same worker
        self.clock.advance(1)
        self.outside.can_be_inspected = True
        containers.inspect_containers(self.node)
        self.outside.can_be_inspected = False

    def tick(
        self,
        bead_id: str,
        agent: int | None = None,
        away: bool = False,
        publish: bool = True,
        merging: bool = False,
    ) -> None:
        with transaction() as session:
            self.set_api(session, away)
        with self._others_locked(bead_id, agent, merging), transaction() as session:
            result = ticking._batch(session, self.id)
        assert result is not None
        if publish:
            publish_all(result.effects)

    @contextmanager
    def _others_locked(self, bead_id: str, agent: int | None, merging: bool) -> Iterator[None]:
        """`merging`: not those in review, since the end of a merge wakes the next one."""
        beads = select(Bead.id).where(Bead.town_id == self.id, Bead.id != bead_id).with_for_update(key_share=True)
        if merging:
            beads = beads.where(Bead.status != BeadStatus.IN_REVIEW)
        others = select(Agent.id).where(Agent.town_id == self.id, Agent.id != agent, Agent.bead_id.is_(None))
        with transaction() as session:
            session.execute(beads)
            if agent is not None:
                session.execute(others.with_for_update())
            yield

    def _look_at(self, bead_id: str) -> tuple[Bead, Any]:
        live = select(Dispatch).where(Dispatch.bead_id == bead_id, Dispatch.status.in_(LIVE))
        with transaction() as session:
            return session.get_one(Bead, bead_id), session.scalar(live)

    def _wake(self, bead_id: str) -> None:
        """A needless wake-up, which is allowed at any time."""
        with transaction() as session:
            wake(session, bead_id)

    def _count_failures(self, bead_id: str) -> None:
        """The specification counts every failed attempt, the product those of class `agent`: so they are."""
        with transaction() as session:
            counted = session.get_one(Bead, bead_id).attempts_from
            mine = update(Dispatch).where(Dispatch.bead_id == bead_id, Dispatch.epoch > counted)
            found = session.execute(mine.where(Dispatch.status.in_(GIVEN_UP)).values(failure_class="agent"))
            session.execute(update(Bead).where(Bead.id == bead_id).values(failure_class="agent"))
        self._set_policy({"max_agent_failures": max(1, found.rowcount)})  # type: ignore[attr-defined]

    def _set_policy(self, more: dict[str, Any]) -> None:
        with transaction() as session:
            session.execute(update(Town).where(Town.id == self.id).values(policy=self.policy | more))

    # --- agents

    def dispatch(self, number: int) -> UUID:
        return UUID(next(name for name, known in self.outside.numbers.items() if known == number))

    def call(self, number: int, what: str) -> str:
        """One call of the agent API: its answer, as the specification words it."""
        key = self.dispatch(number)
        with transaction() as session:
            before = session.get_one(Dispatch, key).status
        try:
            with transaction() as session:
                self._call(session, key, what)
        except Fenced:
            return "409"
        return "ok again" if what == "done" and before == DispatchStatus.SUCCEEDED else "ok"

    def _call(self, session: Session, key: UUID, what: str) -> None:
        match what:
            case "assignment":
                attempt.assignment(session, key, self.home)
            case "heartbeat":
                attempt.heartbeat(session, key, Heartbeat(phase="agent", progressed=True))
            case "permit":  # there is none; any other call passes the same gate
                attempt.checkpoint(session, key, Checkpoint(wip_sha=HEAD))
            case "done":
                attempt.finish(session, key, Done(outcome="succeeded", base_sha=BASE, head_sha=HEAD, exit_code=0))
            case "failed":
                attempt.finish(session, key, Done(outcome="failed", base_sha=BASE, exit_code=1, message="no"))
            case _:
                raise AssertionError(what)

    # --- people

    def cancel(self, number: int) -> None:
        effects: list[Effect] = []
        with transaction() as session:
            effects.extend(work.cancel(session, self.id, self.beads[number]))
        publish_all(effects)

    def retry(self, number: int) -> None:
        with transaction() as session:
            work.retry(session, self.id, self.beads[number])

    # --- merges

    def request_of(self, number: int) -> MergeRequest:
        """Of the dispatch. A claim whose worker is dead is given back first, when its lease is over."""
        key, merging = self.dispatch(number), MergeRequest.status == MergeStatus.IN_PROGRESS
        mine = select(MergeRequest).where(MergeRequest.dispatch_id == key)
        with transaction() as session:
            left = session.scalars(select(MergeRequest).where(MergeRequest.town_id == self.id, merging)).all()
            request = session.scalars(mine).one()
        for each in left:
            self.until(each.lease_expires_at)
            self._wake(each.bead_id)
            self.tick(each.bead_id, merging=True)
        if request.status == MergeStatus.PUSHING:
            self.until(request.lease_expires_at)
        return request

    def violations(self) -> list[str]:
        with transaction() as session:
            return list(find_violations(session))
