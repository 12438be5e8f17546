"""gastown mr: the merge queue on the screen, and a person's reviews."""

from pathlib import Path
from typing import Any

import pytest

from gastown.db import gastown_now, in_transaction, transaction
from gastown.models import Bead, MergeRequest
from gastown.states import HoldCode
from gastown.store import reviews
from tests.builders import BASE, HEAD, a_bead, a_rig, an_attempt, now
from tests.cli.conftest import Gastown
from tests.races import committed
from tests.store.merging import make

ONTO = "e" * 40


@pytest.fixture
def rig(gastown: Gastown) -> None:
    with transaction() as session:
        a_rig(session, review_agent="reader", gates=["make test"])


def held(code: HoldCode = HoldCode.CONFLICT, **values: Any) -> MergeRequest:
    return make(held_code=code, held_reason="both changed app.py", held_output="<<<<<<< app.py", **values)


def review_of(request: MergeRequest) -> str:
    in_transaction(lambda session: reviews.create_review(session, request.id, "reader"))
    review_id = now(request).review_id
    assert review_id is not None
    return review_id


def test_the_queue_in_the_order_in_which_it_is_merged(gastown: Gastown, rig: None) -> None:
    later = make(reviewed_sha=HEAD)
    unread, conflict = make(), held(rounds=2)
    first = make(reviewed_sha=HEAD, priority=0)
    merging = make(
        reviewed_sha=HEAD, status="in_progress", step="gate 1 of 1: make test", lease_expires_at=gastown_now()
    )
    along = make(reviewed_sha=HEAD, batch_of=merging.id)
    over = make(status="closed", merged_sha=ONTO, merged_at=gastown_now())
    review_id = review_of(unread)
    rows = gastown("mr", "list", "--json").json
    order = [merging, along, first, later, unread, conflict]
    assert [row["bead_id"] for row in rows] == [each.bead_id for each in order]
    assert [row["place"] for row in rows] == [1, 2, 3, 4, None, None]
    assert [row["state"] for row in rows] == ["in_progress", "in a batch", "queued", "queued", "in review", "held"]
    assert [row["reviewed"] for row in rows] == [True, True, True, True, False, False]
    assert (rows[4]["review_id"], rows[1]["batch"], rows[5]["rounds"]) == (review_id, merging.bead_id, 2)
    shown = gastown("mr", "list").out
    lines = {line.split()[1]: line for line in shown.splitlines()[1:]}
    assert "gate 1 of 1: make test" in lines[merging.bead_id]
    assert f"together with {merging.bead_id}" in lines[along.bead_id]
    assert f"{review_id} reads it" in lines[unread.bead_id]
    assert "both changed app.py" in lines[conflict.bead_id]
    assert over.bead_id not in shown
    everything = gastown("mr", "list", "--all", "--json").json
    assert [row["bead_id"] for row in everything][-1] == over.bead_id
    assert f"as {ONTO[:12]}" in gastown("mr", "list", "--all").out
    assert "only the first 2" in gastown("mr", "list", "--limit", "2").err


def test_nothing_is_to_be_merged(gastown: Gastown, rig: None) -> None:
    assert gastown("mr", "list").out == "nothing is to be merged\n"
    assert gastown("mr", "list", "--all").out == "no merge requests yet\n"
    assert gastown("mr", "list", "--json").json == []
    assert gastown("mr", "list", "--rig", "none").code == 3


def test_several_rigs(gastown: Gastown, rig: None) -> None:
    one = make(reviewed_sha=HEAD)

    def elsewhere(session: Any) -> str:
        return an_attempt(session, status="succeeded", rig=a_rig(session, name="web")).bead_id  # type: ignore[arg-type]

    other = committed(elsewhere)
    assert [row["place"] for row in gastown("mr", "list", "--json").json] == [1, 1]
    assert [row["bead_id"] for row in gastown("mr", "list", "--rig", "web", "--json").json] == [other]
    shown = gastown("mr", "list").out
    assert one.bead_id in shown
    assert "web" in shown


def test_all_about_one(gastown: Gastown, rig: None, own_home: Path) -> None:
    run = {"name": "make test", "command": "make test", "tries": 1, "allowed": 1, "duration_s": 2.0, "output": "ok"}
    request = held(gate_runs=[run], look_at=gastown_now(), merge_sha=ONTO, expected_sha=BASE, rounds=1)
    assert gastown("mr", "reject", request.bead_id, "--comment", "app.py:3\noff by one").code == 0
    shown = gastown("mr", "show", request.bead_id).out
    for words in (
        f"{request.bead_id} do it",
        f"head      {HEAD} by shell",
        f"ref       refs/gastown/head/{request.bead_id}/1",
        "rounds    1 of rework",
        "review    reader has to approve it",
        "held      changes_requested: user asks for changes: app.py:3",
        "mended by a person",
        "| off by one",
        "gate make test: passed in 2.0 s",
        f"merge     {ONTO} onto {BASE}",
        f"next: gastown why {request.bead_id}",
    ):
        assert words in shown, shown
    told = gastown("mr", "show", request.bead_id, "--json").json
    assert (told["review_notes"], told["merge"]["state"]) == ("app.py:3\noff by one", "held")
    assert [said["comment"] for said in told["said"]] == ["app.py:3\noff by one"]


def test_one_that_is_over_and_those_that_are_none(gastown: Gastown, rig: None) -> None:
    over = make(status="closed", merged_sha=ONTO, merged_at=gastown_now())
    shown = gastown("mr", "show", over.bead_id).out
    assert f"merged    {ONTO} at " in shown
    assert "next:" not in shown
    bead = committed(lambda session: a_bead(session))
    for call in ("show", "approve"):
        said = gastown("mr", call, bead.id)
        assert said.code == (3 if call == "show" else 1)
        assert f"gastown why {bead.id}" in said.err
        assert gastown("mr", call, "gt-none").code == 3


def test_a_person_approves(gastown: Gastown, rig: None) -> None:
    request = make()
    review_id = review_of(request)
    attempt = committed(lambda session: an_attempt(session, bead=session.get_one(Bead, review_id)))
    said = gastown("mr", "approve", request.bead_id, "-m", "read it myself")
    assert said.out == f"{request.bead_id} may be merged at {HEAD[:12]}\nnext: gastown why {request.bead_id}\n"
    assert (now(request).reviewed_sha, now(attempt).status) == (HEAD, "stopped")
    shown = gastown("mr", "show", request.bead_id).out
    assert "review    approved" in shown
    assert f"user: user approves {HEAD[:12]}: read it myself" in shown
    assert f"{review_id} canceled: Review {request.bead_id}: do it" in shown


def test_a_person_rejects(gastown: Gastown, rig: None) -> None:
    request = make()
    assert gastown("mr", "reject", request.bead_id).code == 2
    said = gastown("mr", "reject", request.bead_id, "--comment", " ")
    assert (said.code, "does not say what has to change" in said.err) == (2, True)
    said = gastown("mr", "reject", request.bead_id, "--comment", "no tests")
    assert said.out.startswith(f"{request.bead_id} is held until that has changed, by a person: gastown bead retry")
    assert now(request).held_reason == "user asks for changes: no tests"
    assert "merge held: user asks for changes: no tests" in gastown("why", request.bead_id).out
