"""The agent API. A token speaks for its own attempt alone, so no route names one."""

import json
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Header, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, TypeAdapter, ValidationError

from gastown.agent.protocol import Checkpoint, Done, Heartbeat, HeartbeatAnswer, LogChunk, NewWork, Review
from gastown.commands import attempt, filing, reviews
from gastown.db import in_transaction, transaction
from gastown.settings import get_settings
from gastown.store.heartbeats import Beaten
from gastown.tasks.base import poke

router = APIRouter(prefix="/agent/v1")
_HEARTBEAT = TypeAdapter(Heartbeat)


def caller(authorization: Annotated[str, Header()] = "") -> UUID:
    """The attempt that calls. 401 without a known token."""
    token = _token(authorization)
    with transaction() as session:
        dispatch_id = None if token is None else attempt.authenticate(session, token)
    if dispatch_id is None:
        raise HTTPException(401, "a bearer token of a dispatch is needed", headers={"WWW-Authenticate": "Bearer"})
    return dispatch_id


def _token(authorization: str) -> str | None:
    scheme, _, token = authorization.partition(" ")
    return token if scheme.lower() == "bearer" and token else None


Caller = Annotated[UUID, Depends(caller)]


class Text(BaseModel):
    text: str


@router.get("/assignment")
def assignment(dispatch_id: Caller) -> dict[str, Any]:
    home = get_settings().home
    return in_transaction(lambda session: attempt.assignment(session, dispatch_id, home)).to_json()


@router.post("/heartbeat")
async def heartbeat(request: Request) -> Response:
    """By far the most frequent call: read here, with the token, and passed to a thread once (bench/heartbeats.py)."""
    try:
        said = _HEARTBEAT.validate_json(await request.body())
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from error
    attempt.check_heartbeat(said)
    authorization = request.headers.get("authorization", "")
    token = _token(authorization)
    beaten: Beaten | None = None if token is None else await request.app.state.gathered.beat(token, said)
    if beaten is None:
        beaten = await run_in_threadpool(_unusual_beat, authorization, said)
    answer = HeartbeatAnswer(stop=beaten.stop_code, reason=beaten.stop_reason or "")
    return Response(json.dumps(answer.to_json()), media_type="application/json")


def _unusual_beat(authorization: str, said: Heartbeat) -> Beaten:
    dispatch_id = caller(authorization)
    beaten = in_transaction(lambda session: attempt.heartbeat(session, dispatch_id, said))
    if beaten.over_cap:
        poke()
    return beaten


@router.post("/logs")
def logs(dispatch_id: Caller, chunks: LogChunk | list[LogChunk]) -> dict[str, str]:
    """One chunk, as supervisors send it, or several."""
    several = chunks if isinstance(chunks, list) else [chunks]
    in_transaction(lambda session: attempt.take_logs(session, dispatch_id, several))
    return {"status": "ok"}


@router.post("/checkpoint")
def checkpoint(dispatch_id: Caller, saved: Checkpoint) -> dict[str, str]:
    in_transaction(lambda session: attempt.checkpoint(session, dispatch_id, saved))
    return {"status": "ok"}


@router.post("/status")
def status(dispatch_id: Caller, said: Text) -> dict[str, str]:
    in_transaction(lambda session: attempt.set_status(session, dispatch_id, said.text))
    return {"status": "ok"}


@router.post("/escalate")
def escalate(dispatch_id: Caller, said: Text) -> dict[str, str]:
    in_transaction(lambda session: attempt.escalate(session, dispatch_id, said.text))
    return {"status": "ok"}


@router.post("/beads")
def beads(dispatch_id: Caller, work: NewWork) -> dict[str, Any]:
    home = get_settings().home
    filed = in_transaction(lambda session: filing.file_bead(session, dispatch_id, work, home))
    poke()
    return filed.to_json()


@router.post("/reviews")
def review(dispatch_id: Caller, said: Review) -> dict[str, Any]:
    home = get_settings().home
    answer = in_transaction(lambda session: reviews.answer(session, dispatch_id, said, home))
    poke()
    return answer.to_json()


@router.post("/done")
def done(dispatch_id: Caller, report: Done) -> dict[str, str]:
    outcome = in_transaction(lambda session: attempt.finish(session, dispatch_id, report))
    poke()
    return {"status": outcome}
