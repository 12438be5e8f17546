"""gastown bead, attempts, why, events: look at beads, and steer them (S70)."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.commands import convoys
from gastown.db import gastown_now, transaction
from gastown.models import Bead, BeadDependency, Dispatch, MergeRequest, Town
from gastown.states import BeadStatus, DispatchStatus, HoldCode, Purpose, Resolution, Verdict
from gastown.store import advice
from gastown.store.moves import record
from tests.builders import HEAD, a_bead, a_node, a_rig, a_town, an_attempt, the_api_is_there
from tests.cli.conftest import Gastown


def live_town(session: Session) -> Town:
    """Everything is there: the API, and a node."""
    the_api_is_there(session)
    a_node(session)
    return a_town(session)


def test_list_leaves_closed_ones_out(gastown: Gastown) -> None:
    assert "nothing is open" in gastown("bead", "list").out
    with transaction() as session:
        first = a_bead(session, title="first").id
        closed = a_bead(session, title="closed", status=BeadStatus.CLOSED, resolution=Resolution.MERGED).id
        failed = a_bead(session, title="broken", status=BeadStatus.FAILED, failure_message="it broke").id
    shown = gastown("bead", "list")
    assert first in shown.out
    assert failed in shown.out
    assert "it broke" in shown.out
    assert closed not in shown.out
    assert "--all shows them" in shown.err
    assert {row["id"] for row in gastown("bead", "list", "--all", "--json").json} == {first, closed, failed}
    assert [row["id"] for row in gastown("bead", "list", "--status", "merged,canceled", "--json").json] == [closed]
    assert [row["id"] for row in gastown("bead", "list", "-s", "failed", "-s", "open", "--json").json] == [
        failed,
        first,
    ]


def test_list_is_bounded_and_says_so(gastown: Gastown) -> None:
    with transaction() as session:
        for _ in range(3):
            a_bead(session)
    shown = gastown("bead", "list", "--limit", "2")
    assert "only the newest 2" in shown.err
    assert len(gastown("bead", "list", "--limit", "2", "--json").json) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["list", "--status", "lost"], 2, "there is no status lost"),
        (["list", "--rig", "none"], 3, "there is no rig none"),
        (["list", "--limit", "0"], 2, "limit"),
        (["show", "gt-none"], 3, "there is no bead gt-none"),
        (["cancel", "gt-none"], 3, "there is no bead gt-none"),
        (["retry", "gt-none"], 3, "there is no bead gt-none"),
        (["hold", "gt-none", "--reason", "x"], 3, "there is no bead gt-none"),
        (["hold", "gt-none", "--reason", " "], 2, "a hold needs a reason"),
        (["hold", "gt-none"], 2, "missing option"),
        (["release", "gt-none"], 3, "there is no bead gt-none"),
        (["dispatch", "gt-none"], 3, "there is no bead gt-none"),
    ],
)
def test_bad_input(gastown: Gastown, arguments: list[str], code: int, words: str) -> None:
    said = gastown("bead", *arguments)
    assert said.code == code
    assert words in said.err.splitlines()[0].lower()
    assert len(said.err.splitlines()) == 2


def test_show_has_everything(gastown: Gastown) -> None:
    with transaction() as session:
        lost = an_attempt(session, DispatchStatus.LOST)
        bead = session.get_one(Bead, lost.bead_id)
        bead.title, bead.body = "Do it", "line one\nline two"
        done = an_attempt(session, DispatchStatus.SUCCEEDED, bead=bead)
        record(session, bead.town_id, "done", "attempt 2 is done", actor="ace", bead_id=bead.id)
        hold(session, done, HoldCode.GATE_FAILED, "gate `pytest` failed", "E   assert 1 == 2\n" * 60)
        bead_id = bead.id
    shown = gastown("bead", "show", bead_id).out
    assert "merge held" in shown
    assert "  | line one\n  | line two" in shown
    assert "held (gate_failed): gate `pytest` failed" in shown
    assert "... 30 lines before" in shown
    assert "attempt 2 is done" in shown
    assert "heartbeat_lost" in shown
    detail = gastown("bead", "show", bead_id, "--json").json
    assert [each["status"] for each in detail["attempts"]] == ["lost", "succeeded"]
    assert detail["merge"]["held_code"] == "gate_failed"
    assert {"bead", "body", "attempts", "merge", "blockers", "dependants", "events"} <= detail.keys()
    assert detail["attempts"][0]["queued_at"].endswith("+00:00")
    assert len(gastown("attempts", bead_id, "--json").json) == 2
    assert "heartbeat_lost" in gastown("attempts", bead_id).out


def test_attempts_of_a_fresh_bead(gastown: Gastown) -> None:
    with transaction() as session:
        bead_id = a_bead(session).id
    assert "no attempt" in gastown("attempts", bead_id).out
    assert gastown("attempts", "gt-none").code == 3


def hold(session: Session, done: Dispatch, code: HoldCode, reason: str, output: str | None = None) -> MergeRequest:
    request = session.query(MergeRequest).filter_by(dispatch_id=done.id).one()
    request.held_code, request.held_reason, request.held_output = code, reason, output
    session.flush()
    return request


def test_cancel_retry_hold_release_dispatch(gastown: Gastown) -> None:
    with transaction() as session:
        bead_id = a_bead(session).id
    assert "is first in order" in gastown("bead", "dispatch", bead_id).out
    assert "is held: not now" in gastown("bead", "hold", bead_id, "--reason", "not\nnow").out
    assert gastown("why", bead_id, "--json").json["verdict"] == "held"
    assert "  held: not" in gastown("why", bead_id).out
    assert "goes on" in gastown("bead", "release", bead_id).out
    assert gastown("bead", "release", bead_id).code == 1
    assert f"{bead_id} is canceled\n" in gastown("bead", "cancel", bead_id).out
    said = gastown("bead", "cancel", bead_id)
    assert (said.code, said.err.splitlines()[0]) == (1, f"gastown: {bead_id} is canceled already")
    assert "it is open again" in gastown("bead", "retry", bead_id).out
    kinds = [event["kind"] for event in gastown("events", bead_id, "--json").json]
    assert gastown("events", "--bead", bead_id, "--json").json == gastown("events", bead_id, "--json").json
    assert gastown("events", bead_id, "--bead", "gt-other").code == 2
    assert kinds == ["forced", "held", "released", "canceled", "retried"]


def test_cancel_stops_the_attempt(gastown: Gastown) -> None:
    with transaction() as session:
        bead_id = an_attempt(session).bead_id
    assert "its attempt is stopped" in gastown("bead", "cancel", bead_id).out
    assert gastown("attempts", bead_id, "--json").json[0]["status"] == "stopped"


def test_done_by_other_means(gastown: Gastown) -> None:
    with transaction() as session:
        bead_id, other = an_attempt(session).bead_id, a_bead(session).id
        session.add(BeadDependency(bead_id=other, blocker_id=bead_id, kind="blocks"))
    assert gastown("bead", "done", bead_id).code == 2
    assert gastown("bead", "done", bead_id, "--note", " \n").code == 2
    assert f"{bead_id} is done, and its attempt is stopped\n" in gastown("bead", "done", bead_id, "-m", "by\nhand").out
    shown = gastown("bead", "show", bead_id, "--json").json
    assert (shown["bead"]["resolution"], shown["attempts"][0]["status"]) == ("done", "stopped")
    assert shown["events"][-1]["message"] == "said to be done by user"
    assert "done by other means: by hand" in [event["message"] for event in shown["events"]]
    assert gastown("why", other, "--json").json["verdict"] == "ready"
    said = gastown("bead", "done", bead_id, "--note", "again")
    assert (said.code, said.err.splitlines()[0]) == (1, f"gastown: {bead_id} is done already")


def test_why_takes_a_bead_or_all(gastown: Gastown) -> None:
    assert "nothing is open" in gastown("why").out
    assert gastown("why", "gt-x", "--all").code == 2
    assert gastown("why", "gt-none").code == 3
    assert "nothing is open" in gastown("why", "--all").out


def test_why_says_first_that_nothing_runs(gastown: Gastown) -> None:
    with transaction() as session:
        bead_id = a_bead(session).id
    shown = gastown("why", bead_id)
    assert shown.out.startswith("nothing happens: the stack is not up\nnext: gastown up\n")
    assert gastown("why", bead_id, "--json").json["down"] is True
    assert gastown("why", "--all").out.startswith("nothing happens")


def why(gastown: Gastown, bead_id: str) -> dict[str, str]:
    found: dict[str, str] = gastown("why", bead_id, "--json").json
    assert found["gate"]
    assert found["meaning"].endswith(".")
    assert found["opens"]
    assert found["command"].startswith(("gastown ", "git "))
    assert "{" not in found["command"]
    assert "None" not in found["command"]
    shown = gastown("why", bead_id).out
    assert found["opens"] in shown
    assert f"next: {found['command']}" in shown
    return found


def test_why_ready(gastown: Gastown) -> None:
    with transaction() as session:
        live_town(session)
        bead_id = a_bead(session).id
    found = why(gastown, bead_id)
    assert (found["verdict"], found["gate"]) == ("ready", "queue_ready")
    assert found["reason"] == "a slot is free: the next tick starts it"


def test_why_paused(gastown: Gastown) -> None:
    with transaction() as session:
        live_town(session)
        rig = a_rig(session)
        rig.paused_at = gastown_now()
        bead_id = a_bead(session, rig).id
    found = why(gastown, bead_id)
    assert (found["verdict"], found["command"]) == ("paused", "gastown resume --rig rig")
    gastown("pause")
    found = why(gastown, bead_id)
    assert (found["verdict"], found["command"]) == ("paused", "gastown resume")
    assert "the town is paused since" in found["reason"]


def test_why_no_node(gastown: Gastown) -> None:
    with transaction() as session:
        the_api_is_there(session)
        bead_id = a_bead(session).id
    assert why(gastown, bead_id)["reason"] == "no worker has ever shown itself"
    with transaction() as session:
        a_node(session, heartbeat_at=gastown_now() - timedelta(minutes=2))
    found = why(gastown, bead_id)
    assert found["verdict"] == "no_node"
    assert "the last one was here, seen at" in found["reason"]


@pytest.mark.parametrize(
    ("town", "rig", "capacity", "words"),
    [
        ({"max_running": 1}, {}, 8, "the town runs 1 of at most 1 attempts"),
        ({}, {"rig_max_running": 1}, 8, "rig rig runs 1 of at most 1 attempts"),
        ({}, {}, 1, "every node is full: here 1 of 1"),
    ],
)
def test_why_at_capacity(
    gastown: Gastown, town: dict[str, int], rig: dict[str, int], capacity: int, words: str
) -> None:
    with transaction() as session:
        the_api_is_there(session)
        a_town(session, policy=town)
        a_node(session, capacity=capacity)
        an_attempt(session, rig=a_rig(session, policy=rig))
        bead_id = a_bead(session, title="second").id
    found = why(gastown, bead_id)
    assert found["verdict"] == "at_capacity"
    assert words in found["reason"]


def test_why_blocked_and_blocker_failed(gastown: Gastown) -> None:
    with transaction() as session:
        live_town(session)
        blocker, bead = a_bead(session, title="first"), a_bead(session, title="second")
        session.add(BeadDependency(bead_id=bead.id, blocker_id=blocker.id))
    found = why(gastown, bead.id)
    assert found["verdict"] == "blocked"
    assert found["reason"].startswith(f"waits for {blocker.id}")
    gastown("bead", "cancel", blocker.id)
    found = why(gastown, bead.id)
    assert (found["verdict"], found["command"]) == ("blocker_failed", f"gastown bead retry {blocker.id}")


def test_why_cooldown(gastown: Gastown) -> None:
    with transaction() as session:
        live_town(session)
        attempt = an_attempt(session, DispatchStatus.FAILED)
        bead = session.get_one(Bead, attempt.bead_id)
        bead.not_before = gastown_now() + timedelta(minutes=1)
        bead.failure_class, bead.failure_code, bead.failure_message = "agent", "agent_failed", "exit 3\nbroke"
    found = why(gastown, attempt.bead_id)
    assert found["verdict"] == "cooldown"
    assert found["next_look"] is not None
    assert "exit 3 / broke" in gastown("why", attempt.bead_id).out


def test_why_at_work(gastown: Gastown) -> None:
    with transaction() as session:
        live_town(session)
        attempt = an_attempt(session)
    found = why(gastown, attempt.bead_id)
    assert (found["verdict"], found["gate"]) == ("awaiting_agent", "await_agent")
    assert found["command"] == f"gastown logs -f {attempt.bead_id}"


@pytest.mark.parametrize("code", list(HoldCode))
def test_why_merge_held(gastown: Gastown, code: HoldCode) -> None:
    with transaction() as session:
        live_town(session)
        done = an_attempt(session, DispatchStatus.SUCCEEDED)
        hold(session, done, code, "because")
    found = why(gastown, done.bead_id)
    verdict = "awaiting_approval" if code is HoldCode.AWAITING_APPROVAL else "merge_held"
    assert (found["verdict"], found["reason"]) == (verdict, "because")
    assert verdict in {row["verdict"] for row in gastown("why", "--all", "--json").json["beads"]}


def test_why_tells_what_the_agent_says_and_asks(gastown: Gastown) -> None:
    with transaction() as session:
        attempt = an_attempt(session, status_text="reading\x1b[2J the tests")
        for question in ("which branch?", "which database?"):
            record(
                session,
                attempt.town_id,
                "escalation",
                question,
                actor="toast",
                bead_id=attempt.bead_id,
                dispatch_id=attempt.id,
            )
        quiet = an_attempt(session, bead=a_bead(session))
        record(session, quiet.town_id, "escalation", "it failed", actor="reconciler", bead_id=quiet.bead_id)
    said = gastown("why", attempt.bead_id).out
    assert "  says       reading the tests\n" in said
    assert "  asks you   which database?\n" in said
    assert "which database?" in gastown("events").out
    row = gastown("why", quiet.bead_id, "--json").json
    assert (row["says"], row["asks"]) == (None, None)


def test_why_ended(gastown: Gastown) -> None:
    with transaction() as session:
        done = an_attempt(session, DispatchStatus.SUCCEEDED)
        request = session.query(MergeRequest).filter_by(dispatch_id=done.id).one()
        request.status, request.merged_sha, request.merged_at = "closed", HEAD, gastown_now()
        bead = session.get_one(Bead, done.bead_id)
        bead.status, bead.resolution, bead.closed_at = "closed", "merged", gastown_now()
        failed = a_bead(session, status=BeadStatus.FAILED, failure_message="5 attempts failed").id
    assert why(gastown, done.bead_id)["reason"] == f"merged into main as {HEAD[:12]}"
    found = why(gastown, failed)
    assert found["reason"] == "attempts_exhausted: 5 attempts failed"
    assert found["command"] == f"gastown bead retry {failed}"
    assert found["down"] is False


@pytest.mark.parametrize("verdict", [each for each in Verdict if each is not Verdict.TERMINAL])
def test_every_verdict_has_words_of_its_own(verdict: Verdict) -> None:
    found = advice.advise(
        "gt-1", BeadStatus.OPEN, verdict, held_code=HoldCode.CONFLICT, blocker="gt-2", repository="/r"
    )
    assert found.opens != "nothing: the next tick looks at it"
    assert found.command


def test_events_follow_what_comes(gastown: Gastown, capsys: pytest.CaptureFixture[str]) -> None:
    from gastown.cli import why as module

    with transaction() as session:
        town_id = a_town(session).id
        record(session, town_id, "first", "one", actor="me")
    looks = []

    def go_on(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) > 1:
            raise KeyboardInterrupt
        with transaction() as session:
            record(session, town_id, "second", "two\x1b[2J", actor="me")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.time, "sleep", go_on)
        said = gastown("events", "-f")
    assert said.code == 130
    assert [line.split(" ", 1)[1] for line in said.out.splitlines()] == [
        "-        first          me: one",
        "-        second         me: two",
    ]


def test_two_people_cancel_at_once(gastown: Gastown) -> None:
    from gastown import cli

    with transaction() as session:
        bead_id = a_bead(session).id
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(cli.run(["bead", "cancel", bead_id]))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [0, 1]


def test_block_and_unblock(gastown: Gastown) -> None:
    with transaction() as session:
        first, second, third = (a_bead(session).id for _ in range(3))
    said = gastown("bead", "block", first, "--by", second, "--by", third)
    assert (said.code, said.out.splitlines()[0]) == (0, f"{first} waits for {second}, {third}")
    assert why(gastown, first)["verdict"] == "blocked"
    said = gastown("bead", "block", third, "--by", first)
    assert said.code == 1
    assert first in said.err
    assert third in said.err
    assert gastown("bead", "unblock", first, "--by", second, "--by", "gt-none").code == 3
    assert second in why(gastown, first)["reason"]
    assert gastown("bead", "unblock", first, "--by", second).code == 0
    assert why(gastown, first)["reason"] == f"waits for {third}"
    assert gastown("bead", "unblock", first, "--by", second).code == 1
    with transaction() as session:
        convoys.create(session, a_town(session).id, "Two", bead_ids=[second, third])
    assert gastown("bead", "block", first, "--by", second).code == 0
    with transaction() as session:
        landing = session.scalars(select(Bead.id).where(Bead.purpose == Purpose.LANDING)).one()
    given = [each for blocker in sorted((second, third, landing)) for each in ("--by", blocker)]
    assert gastown("bead", "unblock", first, *given).code == 0
    assert gastown("bead", "block", first, "--by", second).code == 0
    said = gastown("bead", "unblock", first, "--by", second)
    assert f"{first} waits no more for {second}, nor for {landing}" in said.out
