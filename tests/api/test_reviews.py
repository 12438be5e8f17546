"""POST /agent/v1/reviews: what a review's agent says, and what it is told."""

from typing import Any

import httpx

from gastown.db import in_transaction, transaction
from gastown.models import Bead, MergeRequest
from gastown.store import reviews
from tests.api.conftest import TOKEN
from tests.api.test_agents import an_attempt_that_calls, is_problem, post
from tests.builders import HEAD, a_rig, an_attempt
from tests.races import committed
from tests.store.merging import make
from tests.ticks import take_messages


def test_a_review_is_answered_once(client: httpx.Client) -> None:
    with transaction() as session:
        a_rig(session, review_agent="reader")
    request = make()
    in_transaction(lambda session: reviews.create_review(session, request.id, "reader"))
    with transaction() as session:
        request = session.get_one(MergeRequest, request.id)
    committed(lambda session: an_attempt(session, bead=session.get_one(Bead, request.review_id), token=TOKEN))
    take_messages("control")
    answer = post(client, "reviews", {"verdict": "approve", "comment": "fine"})
    assert answer.json() == {"counted": True, "message": f"{request.bead_id} may be merged at {HEAD[:12]}"}
    assert ("gastown.reconcile", []) in take_messages("control")
    assert refusal(post(client, "reviews", {"verdict": "changes", "comment": "no"})) == "Refused"
    assert refusal(post(client, "reviews", {"verdict": "perhaps"})) == "UsageError"
    with transaction() as session:
        assert session.get_one(MergeRequest, request.id).reviewed_sha == HEAD


def test_only_a_review_answers(client: httpx.Client) -> None:
    an_attempt_that_calls()
    assert refusal(post(client, "reviews", {"verdict": "approve"})) == "Refused"
    assert refusal(post(client, "reviews", {"comment": "no verdict"})) == "unreadable"


def refusal(answer: Any) -> str:
    assert is_problem(answer, 422)
    return str(answer.json()["title"])
