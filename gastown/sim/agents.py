"""Agents: each started container is one. It calls the API as the supervisor does, and may be slow, hang, die, lose
answers, be cut off, and come back from the dead. Told that it is fenced, it saves its work and leaves."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from gastown.agent.protocol import Checkpoint, Done, Heartbeat, LogChunk, Review
from gastown.commands import attempt, reviews
from gastown.db import in_transaction
from gastown.errors import Refused, TemporaryError
from gastown.runtimes import RunSpec
from gastown.settings import get_settings
from gastown.sim import reviewed
from gastown.sim.actors import Actor
from gastown.sim.moods import ENDED_MORE
from gastown.sim.nodes import Node
from gastown.sim.target import sha
from gastown.states import FailureCode
from gastown.store.attempts import Fenced
from gastown.store.heartbeats import Beaten
from gastown.tasks.base import poke

if TYPE_CHECKING:
    from gastown.sim.world import World

BEAT_S = 10.0
ENDINGS = {
    "succeeds": 1.6,
    "changes nothing": 0.2,
    "fails": 0.4,
    "fails: workspace_failed": 0.15,
    "fails: setup_failed": 0.05,
    "fails: command_not_found": 0.03,
    "fails: auth_failed": 0.02,
    "fails: rate_limited": 0.05,
}
VERDICTS = {"approves": reviews.APPROVE, "asks for changes": reviews.CHANGES}
FAULTS = {"dies": 0.06, "hangs": 0.05, "falls silent": 0.4}


class SimAgent:
    """The supervisor of one attempt, and the agent below it."""

    def __init__(self, world: "World", node: Node, spec: RunSpec) -> None:
        self.world, self.node = world, node
        self.id, self.token = spec.name, spec.token
        self.bead = world.name_of(spec.bead_id)
        self.name = f"{self.bead}/{spec.epoch}"
        self.epoch = spec.epoch
        self.assigned = self.told_to_stop = self.silent = self.hanging = self.calling = self.gone = False
        self.next_beat_at: datetime = world.now
        self.work = self.saved = self.chunks = 0
        self.report: Done | None = None
        self.answer: str | None = None
        self.mends: str | None = None  # the head of the merge request that it is to mend
        self.reads: str | None = None  # ... or to approve
        self.answered = False

    # ---- what it may do next ------------------------------------------------------------------------

    def choices(self) -> list[tuple[float, str]]:
        """With weights; those of faults are 0 while faults are off."""
        if self.gone:
            return []
        faults = self.world.chances.mood.agents if self.world.faults_on else 0.0
        if self.silent:
            return [(self.world.chances.mood.waking if self.world.faults_on else 5.0, "wakes up"), (0.03, "dies")]
        ways = [(weight * faults, what) for what, weight in FAULTS.items()]
        if self.calling or not self.reachable:
            return ways
        if self.report is not None:
            return [*ways, (4, "reports"), (0.4 * faults, "reports, answer lost")]
        if self.told_to_stop:
            return [*ways, (4, "winds down")]
        if not self.assigned:
            return [*ways, (4, "assignment"), (0.3, "heartbeat"), (0.3 * faults, "assignment, answer lost")]
        if self.world.now >= self.next_beat_at:
            ways.append((5, "heartbeat"))
        if self.hanging:
            return [*ways, (0.3 if self.world.faults_on else 5.0, "wakes up")]
        ways += [(0.6, "logs"), (0.6, "checkpoint"), (0.2, "status"), (0.8, "works")]
        if self.reads is not None and not self.answered:
            haste = self.world.chances.mood.haste if self.world.faults_on else 3.0
            ways += [(2.0 * haste, "approves"), (haste, "asks for changes"), (0.3 * faults, "approves, answer lost")]
        if not self.world.faults_on:
            enough = self.reads is None or self.answered
            return [*ways, (3, "succeeds"), (0.5, "changes nothing")] if enough else ways
        if self.answered:
            ways += [(0.1, what) for what in VERDICTS]
        endings = ENDINGS | ENDED_MORE.get(self.world.theme, {})
        return ways + [(weight * self.world.chances.mood.haste, what) for what, weight in endings.items()]

    @property
    def reachable(self) -> bool:
        return self.world.api_up and self.node.connected and self.node.up

    # ---- doing it -----------------------------------------------------------------------------------

    def perform(self, what: str) -> None:
        if what == "dies":
            self.leave()
        elif what == "hangs":
            self.hanging = True
        elif what == "falls silent":
            self.silent = True
        elif what == "wakes up":
            self.silent = self.hanging = False
        elif what == "works":
            self.work += 1
        elif what in ENDINGS or what == "winds down":
            self.report = self._report(what)
        else:
            plain = what.removesuffix(", answer lost")
            self._call(plain, self._calls(plain), lost=plain != what)

    def leave(self) -> None:
        """Its process is gone, and its work is where the next attempt finds it."""
        self.gone = True
        self.node.agents.pop(self.id, None)

    def _report(self, what: str) -> Done:
        base = sha("base", self.bead)
        self.saved = self.work
        if what in ("succeeds", "changes nothing"):
            head = (self.mends or base) if what == "changes nothing" else sha("head", self.name, self.work)
            if head not in (self.mends, base):
                self.world.targets.make(self.rig_id, head, self.world.stands[self.bead])
            return Done(outcome="succeeded", base_sha=base, head_sha=head, exit_code=0)
        wip = sha("wip", self.name, self.work)
        if what == "winds down":
            return Done(outcome="stopped", base_sha=base, wip_sha=wip, message="told to stop")
        code = what.partition(": ")[2] or str(FailureCode.AGENT_FAILED)
        again_s = 600.0 if code == FailureCode.RATE_LIMITED and self.work % 2 else None
        said: dict[str, Any] = {"base_sha": base, "wip_sha": wip, "code": code, "message": "it failed", "exit_code": 1}
        return Done(outcome="failed", cost_usd=self.work / 4, retry_after_s=again_s, **said)

    def _calls(self, what: str) -> Callable[[Any], Any]:
        key = UUID(self.id)
        if what == "assignment":
            return lambda session: attempt.assignment(session, key, get_settings().home)
        if what == "heartbeat":
            beat = Heartbeat(phase="agent", progressed=not self.hanging, cost_usd=self.work / 4)
            return lambda session: attempt.heartbeat(session, key, beat)
        if what == "logs":
            chunk = LogChunk(seq=self.chunks, data="aGVsbG8=")
            return lambda session: attempt.take_logs(session, key, [chunk])
        if what == "status":
            return lambda session: attempt.set_status(session, key, "reading")
        if what == "checkpoint":
            saved = Checkpoint(wip_sha=sha("wip", self.name, self.work))
            return lambda session: attempt.checkpoint(session, key, saved)
        if what in VERDICTS:
            said = Review(verdict=VERDICTS[what], comment="because")
            return lambda session: reviews.answer(session, key, said, get_settings().home)
        assert what == "reports"
        assert self.report is not None
        report = self.report
        return lambda session: attempt.finish(session, key, report)

    def _usual_beat(self) -> Beaten | None:
        """The API's quick way, for those that run and are wanted."""
        beat = Heartbeat(phase="agent", progressed=not self.hanging, cost_usd=self.work / 4)
        [answer] = in_transaction(lambda session: attempt.usual_heartbeats(session, [(self.token, beat)]))
        return answer

    def _call(self, what: str, transact: Callable[[Any], Any], *, lost: bool = False) -> None:
        self.calling = True

        def call() -> Any:
            answer: Any = self._usual_beat() if what == "heartbeat" and self.assigned else None
            if answer is None:
                answer = in_transaction(transact)
            self.world.oracles.note_accepted(self, what)
            if what in VERDICTS and answer.counted:
                reviewed.note(self.world.oracles, self, what)
            if what == "reports":
                poke()
            return answer

        actor = self.world.stage.add(f"api {self.name} {what}", call, home=self.world.api)
        actor.on_end = lambda ended: self._answered(ended, what, lost)
        self.world.advance(actor)

    def _answered(self, actor: Actor, what: str, lost: bool) -> None:
        self.calling = False
        error = actor.error
        if isinstance(error, Fenced):
            self.world.oracles.note_fenced(self, what)
            if not lost:
                self.saved = self.work
                self.leave()
            return
        if actor.killed or isinstance(error, TemporaryError) or lost:
            return
        if isinstance(error, Refused) and what in VERDICTS:
            return  # it said something else before
        if error is not None:
            self.world.fail("an agent's call raised", f"{self.name} {what}: {type(error).__name__}: {error}")
            return
        self._served(what, actor.result)

    def _served(self, what: str, answer: Any) -> None:
        self.next_beat_at = self.world.now + timedelta(seconds=BEAT_S)
        if what == "assignment":
            self.assigned = True
            bead = self.world.oracles.now.tables["beads"][answer.bead_id]
            self.rig_id = answer.rig_id
            self.mends = answer.base if bead["purpose"] in ("conflict", "rework") else None
            self.reads = answer.base if bead["purpose"] == "review" else None
            below = self.world.targets.below(answer.rig_id, answer.base or answer.feature_sha)
            self.world.stands[self.bead] = self.world.stands.get(self.bead, frozenset()) | below
        elif what in VERDICTS:
            self.answered = True
        elif what == "logs":
            self.chunks += 1
        elif what == "checkpoint":
            self.saved = self.work
        elif what == "heartbeat":
            self.told_to_stop |= answer.stop_code is not None
        elif what == "reports":
            self.leave()
