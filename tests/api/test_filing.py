"""POST /agent/v1/beads: work that an agent files, once each and never without end."""

import json
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from gastown.commands import filing
from gastown.db import transaction
from gastown.models import Bead, BeadDependency, Event
from gastown.states import FailureCode
from gastown.store import attempts
from tests.api.conftest import TOKEN
from tests.api.test_agents import an_attempt_that_calls, is_problem, post
from tests.builders import a_bead, a_rig, a_town, agent_of, an_attempt
from tests.checks import check_invariants
from tests.races import committed, together
from tests.ticks import take_messages

WORK = {"title": "and the tests of it", "body": "true"}


def file(client: httpx.Client, **more: Any) -> Any:
    answer = post(client, "beads", WORK | more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def filed_beads() -> list[Bead]:
    with transaction() as session:
        check_invariants(session)
        return list(session.scalars(select(Bead).where(Bead.title == WORK["title"]).order_by(Bead.created_at)))


def count(model: type[Any]) -> int:
    with transaction() as session:
        return session.scalar(select(func.count()).select_from(model)) or 0


def test_new_work_on_the_attempts_own_rig(client: httpx.Client) -> None:
    dispatch = an_attempt_that_calls()
    answer = file(client, priority="high", after=[dispatch.bead_id])
    [bead] = filed_beads()
    assert answer == {"id": bead.id, "created": True}
    assert (bead.rig_id, bead.body, bead.agent, bead.priority, bead.status) == (
        dispatch.rig_id,
        "true",
        "shell",
        1,
        "open",
    )
    assert ("gastown.reconcile", []) in take_messages("control")
    name = agent_of(dispatch).name
    with transaction() as session:
        assert session.get_one(BeadDependency, (bead.id, dispatch.bead_id))
        created = session.scalars(select(Event).where(Event.bead_id == bead.id)).one()
        told = session.scalars(select(Event).where(Event.kind == "filed")).one()
    assert (created.kind, created.actor) == ("created", name)
    assert (told.actor, told.bead_id, told.dispatch_id) == (name, dispatch.bead_id, dispatch.id)
    assert told.message == f"{bead.id}: {WORK['title']}"


def test_the_same_again_is_the_same_bead(client: httpx.Client) -> None:
    """S27 for new work: an answer may be lost, and the agent, or the next attempt on its bead, says it again."""
    first = an_attempt_that_calls()
    content, keyed = file(client), file(client, key="docs")
    assert content["id"] != keyed["id"]
    assert file(client) == {"id": content["id"], "created": False}
    assert file(client, title="worded anew", key="docs") == {"id": keyed["id"], "created": False}
    with transaction() as session:
        bead = session.get_one(Bead, first.bead_id)
        attempts.lose(session, first.id, FailureCode.HEARTBEAT_LOST, "silent")
        session.expire_all()
        an_attempt(session, bead=bead, token="the next one's")
    again = file(client_of(client, "the next one's"), key="docs")
    assert again == {"id": keyed["id"], "created": False}
    assert len(filed_beads()) == 2


def client_of(client: httpx.Client, token: str) -> httpx.Client:
    client.headers["Authorization"] = f"Bearer {token}"
    return client


def test_the_same_from_several_calls_at_once(client: httpx.Client) -> None:
    an_attempt_that_calls()
    answers = together(*[lambda: file(client, key="one")] * 3)
    assert len({answer["id"] for answer in answers}) == 1
    assert sorted(answer["created"] for answer in answers) == [False, False, True]
    assert len(filed_beads()) == 1


def test_two_beads_that_wait_for_each_others_do_not_deadlock(client: httpx.Client) -> None:
    mine = an_attempt_that_calls()
    theirs = committed(lambda session: an_attempt(session, bead=a_bead(session), token="theirs"))
    file_theirs = {"Authorization": "Bearer theirs"}

    def both(number: int) -> list[int]:
        said = {"key": f"k{number}"}
        after = {"after": [mine.bead_id, theirs.bead_id]}
        results = together(
            lambda: post(client, "beads", WORK | said | after),
            lambda: post(client, "beads", WORK | said | after, headers=file_theirs),
        )
        return [answer.status_code for answer in results]

    assert [both(number) for number in range(5)] == [[200, 200]] * 5


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        ({"title": " "}, 422, "needs a title"),
        ({"title": "x" * 501}, 422, "at most 500"),
        ({"title": "a\x00b"}, 422, "NUL"),
        ({"body": "\ud800"}, 422, "UTF-8"),
        ({"body": ""}, 422, "has none"),
        ({"priority": "soon"}, 422, "no priority soon"),
        ({"agent": "nobody"}, 404, "no agent preset nobody"),
        ({"agent": "../../etc"}, 422, "not a preset's name"),
        ({"after": ["gt-nope"]}, 404, "no bead gt-nope"),
        ({"after": [f"gt-{n}" for n in range(51)]}, 422, "at most 50"),
        ({"after": ["\x00"]}, 422, ""),
        ({"after": "gt-1"}, 422, "after"),
        ({"key": "a b"}, 422, "cannot be a key"),
        ({"key": "k" * 65}, 422, "cannot be a key"),
        ({"title": None}, 422, "title"),
    ],
)
def test_what_makes_no_sense_files_nothing(client: httpx.Client, more: Any, status: int, words: str) -> None:
    dispatch = an_attempt_that_calls()
    before = count(Event)
    headers = {"Content-Type": "application/json"}
    answer = client.post("/agent/v1/beads", content=json.dumps(WORK | more).encode(), headers=headers)
    assert is_problem(answer, status), answer.text
    assert words in answer.json()["detail"]
    assert (count(Bead), count(Event)) == (1, before)
    assert file(client, after=[dispatch.bead_id])["created"]


def test_a_bead_of_another_town_is_none_to_wait_for(client: httpx.Client) -> None:
    def elsewhere(session: Any) -> Bead:
        return a_bead(session, a_rig(session, name="theirs", town_id=a_town(session, name="other").id))

    an_attempt_that_calls()
    foreign = committed(elsewhere)
    assert is_problem(post(client, "beads", WORK | {"after": [foreign.id]}), 404)


def test_one_bead_files_so_many_in_all_its_attempts(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """G6."""
    monkeypatch.setattr(filing, "BEADS_OF_ONE", 3)
    dispatch = an_attempt_that_calls()
    first = [file(client, key=f"k{number}") for number in range(3)]
    refused = post(client, "beads", WORK | {"key": "k3"})
    assert is_problem(refused, 422)
    assert refused.json()["title"] == "Refused"
    assert refused.json()["detail"] == f"{dispatch.bead_id} has filed 3 beads, and no bead may file more"
    assert file(client, key="k1") == {"id": first[1]["id"], "created": False}
    assert len(filed_beads()) == 3


def test_a_chain_of_beads_that_file_the_next_one_ends(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """G6: each files a single one, and no bead of it comes near its own bound."""
    monkeypatch.setattr(filing, "BEADS_OF_FAMILY", 4)
    root = an_attempt_that_calls().bead_id
    for number in range(4):
        bead_id = file(client)["id"]
        committed(
            lambda session, bead_id=bead_id, token=f"t{number}": an_attempt(  # type: ignore[misc]
                session, bead=session.get_one(Bead, bead_id), token=token
            )
        )
        client_of(client, f"t{number}")
    refused = post(client, "beads", WORK)
    assert is_problem(refused, 422)
    assert refused.json()["detail"] == f"4 beads follow from {root} already, and no more may"
    with transaction() as session:
        other = an_attempt(session, bead=a_bead(session), token="another family")
    assert file(client_of(client, "another family"), after=[other.bead_id])["created"]


def test_what_is_filed_belongs_to_the_run_of_its_parent(client: httpx.Client) -> None:
    with transaction() as session:
        bead = a_bead(session, labels=["run:abc", "mine"])
        an_attempt(session, bead=bead, token=TOKEN)
    file(client, key="one")
    [filed] = filed_beads()
    assert filed.labels == [f"from:{bead.id}:one", f"family:{bead.id}", "run:abc"]
