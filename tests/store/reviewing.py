"""Reviews, and agents that say what a test has them say."""

from pathlib import Path
from typing import Any

from sqlalchemy import select

from gastown.agent.protocol import Done, Review, Reviewed
from gastown.commands import attempt, reviews, towns
from gastown.db import transaction
from gastown.models import Bead, Dispatch, MergeRequest
from gastown.states import LIVE, Purpose
from gastown.store import attempts
from gastown.store.escalations import InboxRow, list_inbox
from tests.builders import BASE, HEAD, a_rig, an_attempt, attempts_on, now
from tests.races import committed
from tests.store.merging import make
from tests.ticks import tick

MENDED = "c" * 40
DONE = Done(outcome="succeeded", base_sha=BASE, head_sha=HEAD, exit_code=0)
FAILED = Done(outcome="failed", code="agent_failed", exit_code=1)


def prepare(home: Path) -> None:
    """The rig asks for reviews; whoever reads them can be told to mend what they find."""
    (home / "presets").mkdir(parents=True, exist_ok=True)
    for name in ("reader", "writer"):
        (home / "presets" / f"{name}.toml").write_text('argv = ["true", "{prompt}"]\n')
    change_rig(review_agent="reader")


def change_rig(**values: Any) -> None:
    with transaction() as session:
        towns.update_rig(session, a_rig(session), **values)


def under_review(**values: Any) -> tuple[MergeRequest, Bead]:
    """A merge request, and the bead that was made to read its head."""
    request = make(**values)
    tick()
    return now(request), review_of(request)


def review_of(request: MergeRequest) -> Bead:
    review_id = now(request).review_id
    assert review_id is not None
    with transaction() as session:
        return session.get_one(Bead, review_id)


def at_work(review: Bead) -> Dispatch:
    """Its attempt, which runs: the one that a tick has made, or else a new one."""
    made = next((each for each in attempts_on(review.id) if each.status in LIVE), None)
    if made is None:
        return committed(lambda session: an_attempt(session, bead=review, preset="reader"))
    committed(lambda session: attempts.claim_start(session, made.id, "worker@here"))
    committed(lambda session: attempts.admit(session, made.id))
    return now(made)


def say(dispatch: Dispatch, verdict: str, comment: str, home: Path) -> Reviewed:
    said = Review(verdict=verdict, comment=comment)
    return committed(lambda session: reviews.answer(session, dispatch.id, said, home))


def end(dispatch: Dispatch, done: Done = DONE) -> str:
    return committed(lambda session: attempt.finish(session, dispatch.id, done))


def reviews_of(request: MergeRequest) -> list[Bead]:
    with transaction() as session:
        return list(session.scalars(select(Bead).where(Bead.mr_id == request.id, Bead.purpose == Purpose.REVIEW)))


def bead_of_request(request: MergeRequest) -> Bead:
    with transaction() as session:
        return session.get_one(Bead, request.bead_id)


def inbox(town_id: int) -> list[InboxRow]:
    with transaction() as session:
        return list_inbox(session, town_id)
