"""What an attempt may ask for: the agent API's side of the protocol. Each call passes one gate, `attempts.admit`."""

import base64
import binascii
import re
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from gastown.agent.protocol import CHUNK_BYTES, COST_USD, LOG_BYTES, Assignment, Checkpoint, Done, Heartbeat, LogChunk
from gastown.commands import reviews
from gastown.containers import layered
from gastown.db import gastown_now
from gastown.errors import Refused, UsageError
from gastown.models import Agent, ApiToken, Bead, Dispatch, Event, Node, Rig
from gastown.models import LogChunk as LogChunkRow
from gastown.presets import Preset, load_preset
from gastown.presets.environment import portable
from gastown.states import (
    AgentStatus,
    BeadStatus,
    DispatchStatus,
    FailureCode,
    Purpose,
    Resolution,
    StopCode,
    stop_code_of,
)
from gastown.store import agents, attempts, beads, branches, heartbeats, limits, requests, rework
from gastown.store.escalations import asked_cause, raise_once
from gastown.store.heartbeats import Beaten
from gastown.store.moves import lock_bead, lock_with_dependants, move, record, set_bead, wake
from gastown.store.policies import environment_of, policy_of

STATUS_CHARACTERS = 500
PHASE = re.compile(r"[a-z_]{1,50}")
ESCALATIONS = 20  # of one attempt: a person reads each
REPORTED = "reported"  # the phase of an attempt that has said how it ended
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # never a branch, which moves, nor an option of git's


def authenticate(session: Session, token: str) -> UUID | None:
    """The attempt that this bearer token speaks for."""
    statement = select(ApiToken.dispatch_id).where(ApiToken.token_hash == attempts.digest(token))
    return session.scalar(statement)


def assignment(session: Session, dispatch_id: UUID, home: Path) -> Assignment:
    """The work, and all that the supervisor needs to know of it."""
    bead, dispatch = attempts.admit(session, dispatch_id)
    rig, agent = session.get_one(Rig, bead.rig_id), session.get_one(Agent, dispatch.agent_id)
    preset = load_preset(dispatch.preset, home)
    earlier = select(Dispatch.epoch).where(Dispatch.bead_id == bead.id, Dispatch.epoch < dispatch.epoch)
    feature, feature_sha = branches.start_of(session, bead)
    return Assignment(
        dispatch_id=str(dispatch_id),
        bead_id=bead.id,
        epoch=dispatch.epoch,
        title=bead.title,
        body=bead.body,
        agent=agent.name,
        rig_id=rig.id,
        repository=rig.repository,
        branch=rig.branch,
        setup=rig.setup,
        environment=_environment(session, rig, dispatch, preset),
        argv=preset.argv,
        prompt_on_stdin=preset.stdin,
        preset=preset.name,
        previous_epochs=sorted(session.scalars(earlier)),
        base=bead.base_sha,
        base_epoch=dispatch.epoch if bead.purpose == Purpose.REVIEW else bead.attempts_from,  # no WIP of a reader's
        base_ref=bead.base_ref,
        feature=feature,
        feature_sha=feature_sha,
        notes=bead.failure_message or "",
        heartbeat_s=min(policy_of(session, rig.id).heartbeat_s, dispatch.lease_s / 3),  # of its lease, two may be late
    )


def _environment(session: Session, rig: Rig, dispatch: Dispatch, preset: Preset) -> dict[str, str]:
    """The rig's, as captured on a person's machine; in a container without that machine's paths, and with its own."""
    captured = environment_of(rig)
    if session.get_one(Node, dispatch.node_id).runtime != "docker":
        return captured | preset.environment
    return portable(captured) | preset.environment | layered(preset.layer, rig.container).environment


def usual_heartbeats(connection: Connection | Session, said: list[tuple[str, Heartbeat]]) -> list[Beaten | None]:
    """Of these tokens, in one statement. None: the usual did not happen, and `heartbeat` has to say what did."""
    hashes = [attempts.digest(token) for token, _ in said]
    beaten = heartbeats.beat(connection, [(key, each) for key, (_, each) in zip(hashes, said, strict=True)])
    return [beaten.get(key) for key in hashes]


def heartbeat(session: Session, dispatch_id: UUID, said: Heartbeat) -> Beaten:
    """A heartbeat that may be a first call or an adoption. Raises Fenced, UsageError."""
    check_heartbeat(said)
    _bead, dispatch = attempts.admit(session, dispatch_id)
    cost = max(dispatch.cost_usd, said.cost_usd)
    values: dict[str, Any] = {"phase": said.phase, "tool_running": said.tool_running, "cost_usd": cost}
    if said.progressed:
        values["progress_at"] = gastown_now()
    _update(session, dispatch_id, **values)
    over_cap = dispatch.stop_code is None and dispatch.cap_usd is not None and cost > dispatch.cap_usd
    if over_cap:
        wake(session, dispatch.bead_id)
    return Beaten(dispatch.stop_code, dispatch.stop_reason, over_cap)


def check_heartbeat(said: Heartbeat) -> None:
    """Raises UsageError for what no supervisor says. The statement of the usual ones must not fail for one of them."""
    _check_cost(said.cost_usd)
    if not PHASE.fullmatch(said.phase):
        raise UsageError("a phase is a word: workspace, setup, agent or saving")


def _check_cost(cost_usd: float) -> None:
    if not 0 <= cost_usd <= COST_USD:  # false for NaN too
        raise UsageError(f"a cost of {cost_usd} USD", hint=f"a number from 0 to {COST_USD:.0f}")


def take_logs(session: Session, dispatch_id: UUID, chunks: list[LogChunk]) -> None:
    """Stored once each, however often they are sent. Taken also after `done`, not from one that was superseded."""
    _bead, dispatch = _admit_reporter(session, dispatch_id)
    room = LOG_BYTES + 2 * CHUNK_BYTES - dispatch.log_bytes
    rows, stored = [], 0
    for chunk in chunks:
        data = _decode(chunk)
        if not data:
            continue  # nothing would bound how many there are
        if stored + len(data) > room:
            break
        stored += len(data)
        rows.append({"day": dispatch.queued_at.date(), "dispatch_id": dispatch_id, "seq": chunk.seq, "data": data})
    if not rows:
        return
    statement = insert(LogChunkRow).values(rows).on_conflict_do_nothing().returning(func.octet_length(LogChunkRow.data))
    added = sum(session.scalars(statement))
    if added:
        values = {"log_bytes": Dispatch.log_bytes + added}
        if dispatch.status == DispatchStatus.RUNNING:
            values["progress_at"] = gastown_now()
        _update(session, dispatch_id, **values)


def _decode(chunk: LogChunk) -> bytes:
    try:
        data = base64.b64decode(chunk.data, validate=True)
    except binascii.Error as error:
        raise UsageError(f"log chunk {chunk.seq} is not base64") from error
    if len(data) > CHUNK_BYTES or chunk.seq < 0:
        raise UsageError(f"log chunk {chunk.seq} has {len(data)} bytes, at most {CHUNK_BYTES} fit")
    return data


def checkpoint(session: Session, dispatch_id: UUID, saved: Checkpoint) -> None:
    _check_commits(saved.wip_sha)
    attempts.admit(session, dispatch_id)
    _update(session, dispatch_id, wip_sha=saved.wip_sha, progress_at=gastown_now())


def set_status(session: Session, dispatch_id: UUID, text: str) -> None:
    """What the agent says it is doing."""
    attempts.admit(session, dispatch_id)
    _update(session, dispatch_id, status_text=text.replace("\x00", "")[:STATUS_CHARACTERS])


def escalate(session: Session, dispatch_id: UUID, text: str) -> None:
    """The agent asks for a human; the same words from the same attempt are one request. Raises Refused after many."""
    bead, dispatch = attempts.admit(session, dispatch_id)
    agent = session.get_one(Agent, dispatch.agent_id)
    message = text.replace("\x00", "")[: attempts.MESSAGE_CHARACTERS].strip()
    if not message:
        raise UsageError("it does not say what is needed", hint='gastown self escalate "which database?"')
    own = select(Event.message).where(Event.bead_id == bead.id, Event.dispatch_id == dispatch_id)
    asked = list(session.scalars(own.where(Event.kind == "escalation")))
    if message in asked:
        return
    if len(asked) >= ESCALATIONS:
        raise Refused(f"this attempt has asked for a person {len(asked)} times", hint="end it, with an exit code not 0")
    cause = asked_cause(dispatch_id, message)
    raise_once(session, bead.town_id, cause, message, bead_id=bead.id, actor=agent.name, dispatch_id=dispatch_id)


def finish(session: Session, dispatch_id: UUID, done: Done) -> str:
    """How the attempt ended: dispatch, bead, agent and merge request in one transaction. The dispatch's status.

    A repeated report gets the answer of the first (S27). One that was stopped before it reported is told so, and what
    it cost and saved is kept. Raises Fenced from one that was superseded or canceled.
    """
    done = replace(done, message=done.message.replace("\x00", ""))
    if done.outcome == "succeeded":
        _lock_who_waits(session, dispatch_id, done)
    reported = _reported(session, dispatch_id)
    if reported is not None:
        return reported
    _check_commits(done.base_sha, done.head_sha, done.wip_sha)
    _check_cost(done.cost_usd)
    stopped = _stopped_before(session, dispatch_id)
    if stopped is not None:
        return _take_late(session, stopped, done)
    bead, dispatch = attempts.admit(session, dispatch_id)
    _update(
        session,
        dispatch_id,
        base_sha=done.base_sha,
        head_sha=done.head_sha,
        wip_sha=done.wip_sha or dispatch.wip_sha,
        cost_usd=func.greatest(Dispatch.cost_usd, done.cost_usd),
        tool_running=False,
        phase=REPORTED,
    )
    if bead.purpose == Purpose.REVIEW and (ended := reviews.finish(session, bead, dispatch, done)) is not None:
        return ended
    if done.outcome == "succeeded":
        return _succeed(session, bead, dispatch, done)
    if done.outcome == "stopped":
        return _stop(session, bead, dispatch, done)
    if done.outcome != "failed":
        raise UsageError(f"there is no outcome {done.outcome!r}", hint="succeeded, failed or stopped")
    return _fail(session, bead, dispatch, done)


def _lock_who_waits(session: Session, dispatch_id: UUID, done: Done) -> None:
    """When it closes the bead, and so wakes who waits for it: all of them at once, in order."""
    of_attempt = select(Bead.id, Bead.mr_id).join(Dispatch, Dispatch.bead_id == Bead.id)
    bead = session.execute(of_attempt.where(Dispatch.id == dispatch_id)).first()
    if bead is not None and (done.head_sha == done.base_sha or bead.mr_id is not None):
        lock_with_dependants(session, bead.id)


def _fail(session: Session, bead: Bead, dispatch: Dispatch, done: Done) -> str:
    """By the code that it says. One that cost more than it may is not tried again by itself, whatever its code."""
    if dispatch.stop_code == StopCode.OVER_CAP or _over_cap(dispatch, done):
        return _end_over_cap(session, dispatch, done, "failed")
    code = FailureCode(done.code) if done.code in list(FailureCode) else FailureCode.AGENT_FAILED
    until = _end_of_pause(session, done) if code is FailureCode.RATE_LIMITED else None
    attempts.fail(session, bead, dispatch, code, done.message or str(code), done.exit_code)
    if code is FailureCode.RATE_LIMITED:
        until = limits.rest(session, bead.town_id, dispatch.preset, until, done.message)
        message = f"nothing is started with {dispatch.preset} before {until:%H:%M:%S} UTC"
        record(session, bead.town_id, "rests", message, actor="gastown", bead_id=bead.id, dispatch_id=dispatch.id)
    return DispatchStatus.FAILED


def _over_cap(dispatch: Dispatch, done: Done) -> bool:
    return dispatch.cap_usd is not None and max(dispatch.cost_usd, done.cost_usd) > dispatch.cap_usd


def _end_over_cap(session: Session, dispatch: Dispatch, done: Done, how: str) -> str:
    cost, cap = max(dispatch.cost_usd, done.cost_usd), dispatch.cap_usd or 0
    message = f"it {how} after {cost:g} USD of at most {cap:g}: {done.message}"
    attempts.stop_attempt(session, dispatch.id, StopCode.OVER_CAP, message, done.exit_code)
    return DispatchStatus.STOPPED


def _end_of_pause(session: Session, done: Done) -> datetime | None:
    """As the provider says it, by the database's clock. Raises UsageError for what is no time."""
    try:
        if done.retry_after_s is not None:
            seconds = min(max(done.retry_after_s, 0.0), limits.LONGEST.total_seconds())
            now: datetime = session.scalars(select(gastown_now())).one()
            return now + timedelta(seconds=seconds)
        at = None if done.retry_at is None else datetime.fromisoformat(done.retry_at)
    except ValueError as error:
        raise UsageError(f"the end of the pause is no time: {error}") from error
    if at is not None and at.tzinfo is None:
        raise UsageError(f"the end of the pause, {done.retry_at}, names no zone", hint="2030-01-31T12:00:00+00:00")
    return at


def _stop(session: Session, bead: Bead, dispatch: Dispatch, done: Done) -> str:
    """As it was asked to, with what that costs. Free of charge when its node drains, if it kept to its cap.

    Else somebody killed it, and that must not go on if it may have been its own agent.
    """
    if dispatch.stop_code != StopCode.OVER_CAP and _over_cap(dispatch, done):
        return _end_over_cap(session, dispatch, done, "stopped")
    if dispatch.stop_code is not None:
        message = dispatch.stop_reason or done.message or dispatch.stop_code
        attempts.stop_attempt(session, dispatch.id, stop_code_of(dispatch.stop_code), message, done.exit_code)
        return DispatchStatus.STOPPED
    node = session.get_one(Node, dispatch.node_id)
    if node.draining_at is None and node.closed_at is None:
        message = "its supervisor was told to stop, and Gastown had not asked for that"
        code = FailureCode.STOPPED_UNASKED
        if done.code == FailureCode.STOPPED_OUTSIDE:
            code = FailureCode.STOPPED_OUTSIDE
            message += ": its engine or machine was restarted, or somebody stopped it by hand"
        attempts.fail(session, bead, dispatch, code, message, done.exit_code)
        return DispatchStatus.FAILED
    attempts.stop_live(session, bead, StopCode.DRAINED, done.message or "its node was told to stop")
    set_bead(session, bead.id, wake_at=gastown_now())
    return DispatchStatus.STOPPED


def _check_commits(*shas: str | None) -> None:
    for sha in shas:
        if sha is not None and not COMMIT.fullmatch(sha):
            raise UsageError(f"{sha[:100]!r} is no commit", hint="40 or 64 hexadecimal digits")


def _succeed(session: Session, bead: Bead, dispatch: Dispatch, done: Done) -> str:
    if done.head_sha is None:
        raise UsageError("a done that succeeded names its head_sha")
    values = {"ended_at": gastown_now(), "exit_code": done.exit_code}
    move(session, Dispatch, dispatch.id, DispatchStatus.RUNNING, DispatchStatus.SUCCEEDED, **values)
    agent = session.get_one(Agent, dispatch.agent_id)
    if bead.purpose in rework.REWORK:
        made = None if done.head_sha == done.base_sha else done.head_sha
        rework.finish(session, bead, dispatch.id, made, agent.name)
    elif done.head_sha == done.base_sha:
        beads.close_bead(session, bead, Resolution.NO_CHANGES, agent.name, "done, and nothing had to change")
    else:
        values = {"wake_at": gastown_now(), "failure_class": None, "failure_code": None, "failure_message": None}
        move(session, Bead, bead.id, BeadStatus.IN_PROGRESS, BeadStatus.IN_REVIEW, ready_at=None, **values)
        requests.open_request(session, bead, dispatch, done.head_sha)
        message = f"attempt {dispatch.epoch} is done: {done.head_sha[:12]}"
        record(session, bead.town_id, "done", message, actor=agent.name, bead_id=bead.id, dispatch_id=dispatch.id)
    move(session, Agent, agent.id, AgentStatus.WORKING, AgentStatus.IDLE, idle_since=gastown_now())
    agents.unhook(session, bead.id)
    limits.note_success(session, bead.town_id, dispatch.preset)
    return DispatchStatus.SUCCEEDED


def _reported(session: Session, dispatch_id: UUID) -> str | None:
    """The attempt's status if it ended by its own report, so that the report can be sent again. The bead is locked."""
    dispatch = session.get(Dispatch, dispatch_id)
    if dispatch is None or lock_bead(session, dispatch.bead_id) is None:
        return None
    session.refresh(dispatch)
    own = dispatch.status in (DispatchStatus.SUCCEEDED, DispatchStatus.FAILED)
    asked = dispatch.phase == REPORTED and _is_stopped(dispatch)
    return dispatch.status if own or asked else None


def _is_stopped(dispatch: Dispatch) -> bool:
    """In a way in which it is heard to its end: one that was canceled or held is not."""
    how = (StopCode.DRAINED, StopCode.OVER_CAP, dispatch.stop_code)
    return dispatch.status == DispatchStatus.STOPPED and dispatch.code in how


def _stopped_before(session: Session, dispatch_id: UUID) -> Dispatch | None:
    """The attempt, if it was asked to stop and ended before it said anything, and nothing replaced it. It is locked."""
    dispatch = session.get(Dispatch, dispatch_id)
    if dispatch is None or not _is_stopped(dispatch):
        return None
    newer = select(Dispatch.id).where(Dispatch.bead_id == dispatch.bead_id, Dispatch.epoch > dispatch.epoch)
    return None if session.scalar(newer.limit(1)) is not None else dispatch


def _take_late(session: Session, dispatch: Dispatch, done: Done) -> str:
    """What it spent counts and what it saved is known, but its end stays as it is; people are told what it said."""
    cost = func.greatest(Dispatch.cost_usd, done.cost_usd)
    _update(session, dispatch.id, wip_sha=done.wip_sha or dispatch.wip_sha, cost_usd=cost, phase=REPORTED)
    message = f"attempt {dispatch.epoch} reported {done.outcome} after it was stopped ({dispatch.code}): not counted"
    town_id, bead_id = dispatch.town_id, dispatch.bead_id
    record(session, town_id, "reported_late", message, actor="agent", bead_id=bead_id, dispatch_id=dispatch.id)
    return DispatchStatus.STOPPED


def _admit_reporter(session: Session, dispatch_id: UUID) -> tuple[Bead, Dispatch]:
    """Also one that has ended by its own report, or was stopped and not replaced. Raises Fenced."""
    if _reported(session, dispatch_id) is None and _stopped_before(session, dispatch_id) is None:
        return attempts.admit(session, dispatch_id)
    dispatch = session.get_one(Dispatch, dispatch_id)
    return session.get_one(Bead, dispatch.bead_id), dispatch


def _update(session: Session, dispatch_id: UUID, **values: Any) -> None:
    statement = update(Dispatch).where(Dispatch.id == dispatch_id).values(**values)
    session.execute(statement.execution_options(synchronize_session=False))
