"""gastown logs: bounded, safe, and from attempt to attempt (S72)."""

import json
import subprocess
import sys

import pytest
from sqlalchemy.orm import Session

from gastown.cli import logs as module
from gastown.db import gastown_now, transaction
from gastown.models import Bead, Dispatch, LogChunk
from gastown.states import DispatchStatus
from gastown.store.upkeep import make_partitions
from tests.builders import a_bead, an_attempt
from tests.cli.conftest import Gastown


def print_chunks(session: Session, attempt: Dispatch, *chunks: bytes, first: int = 0) -> None:
    session.refresh(attempt)
    for seq, data in enumerate(chunks, first):
        session.add(LogChunk(day=attempt.queued_at.date(), dispatch_id=attempt.id, seq=seq, data=data))


@pytest.fixture
def bead_id(database: str) -> str:
    """A bead with one failed attempt and a live one, both with output."""
    with transaction() as session:
        make_partitions(session)
        failed = an_attempt(session, DispatchStatus.FAILED)
        print_chunks(session, failed, b"first ", b"try\n")
        live = an_attempt(session, bead=session.get_one(Bead, failed.bead_id))
        print_chunks(session, live, b"\x1b[31msecond\x1b[0m \x1b[2J", b"caf\xc3", b"\xa9\xff\n")
        return failed.bead_id


def test_the_last_attempt(gastown: Gastown, bead_id: str) -> None:
    said = gastown("logs", bead_id)
    assert said.out == "second café\N{REPLACEMENT CHARACTER}\n"


def test_one_or_all_attempts(gastown: Gastown, bead_id: str) -> None:
    assert gastown("logs", bead_id, "--attempt", "1").out == "first try\n"
    said = gastown("logs", bead_id, "--all")
    assert said.out.splitlines()[0] == "first try"
    assert "second" in said.out
    assert "-- attempt 1 by" in said.err
    assert "-- attempt 2 by" in said.err


def test_json_lines(gastown: Gastown, bead_id: str) -> None:
    lines = [json.loads(line) for line in gastown("logs", bead_id, "--all", "--json").out.splitlines()]
    assert [(line["attempt"], line["seq"]) for line in lines] == [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
    assert lines[0]["text"] == "first "


def test_raw_bytes(bead_id: str) -> None:
    argv = [sys.executable, "-P", "-m", "gastown.cli", "logs", bead_id, "--raw"]
    said = subprocess.run(argv, capture_output=True, timeout=120)
    assert said.stdout == b"\x1b[31msecond\x1b[0m \x1b[2Jcaf\xc3\xa9\xff\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["gt-none"], 3, "there is no bead gt-none"),
        (["{bead}", "--attempt", "9"], 3, "there is no attempt 9 on {bead}"),
        (["{bead}", "--attempt", "0"], 2, "attempt"),
        (["{bead}", "--attempt", "1", "--all"], 2, "--attempt names one"),
        (["{bead}", "--attempt", "1", "-f"], 2, "--attempt names one"),
        (["{bead}", "--raw", "--json"], 2, "contradict"),
    ],
)
def test_bad_input(gastown: Gastown, bead_id: str, arguments: list[str], code: int, words: str) -> None:
    said = gastown("logs", *(each.format(bead=bead_id) for each in arguments))
    assert said.code == code
    assert words.format(bead=bead_id) in said.err.splitlines()[0]
    assert len(said.err.splitlines()) == 2


def test_no_attempt_yet(gastown: Gastown) -> None:
    with transaction() as session:
        bead_id = a_bead(session).id
    said = gastown("logs", bead_id)
    assert (said.code, said.out) == (0, "")
    assert f"next: gastown why {bead_id}" in said.err


def test_follow_goes_on_to_the_next_attempt_and_ends_with_the_bead(
    gastown: Gastown, bead_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = iter(["more", "lost", "third", "closed", "late", "quiet", "quiet", "quiet"])

    def go_on(seconds: float) -> None:
        step = next(steps)
        with transaction() as session:
            bead = session.get_one(Bead, bead_id)
            newest = session.query(Dispatch).filter_by(bead_id=bead_id).order_by(Dispatch.epoch.desc()).first()
            assert newest is not None
            if step == "more":
                print_chunks(session, newest, b"and more", first=3)
            elif step == "lost":
                newest.status, newest.code, newest.ended_at = "lost", "vanished", gastown_now()
            elif step == "third":
                print_chunks(session, an_attempt(session, bead=bead), b"third\n")
            elif step == "closed":
                newest.status, newest.ended_at = "succeeded", gastown_now()
                bead.status, bead.resolution, bead.closed_at = "closed", "no_changes", gastown_now()
            elif step == "late":
                print_chunks(session, newest, b"last words\n", first=1)

    monkeypatch.setattr(module.time, "sleep", go_on)
    said = gastown("logs", "-f", bead_id)
    assert said.code == 0
    assert said.out.splitlines()[1:] == ["and more", "third", "last words"]
    assert "-- attempt 3 by" in said.err
    assert said.err.splitlines()[-1] == f"-- {bead_id} no changes"


def test_ctrl_c_ends_following(gastown: Gastown, bead_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.time, "sleep", interrupt)
    assert gastown("logs", "-f", bead_id).code == 130


def test_eight_megabytes_come_in_order(gastown: Gastown) -> None:
    with transaction() as session:
        make_partitions(session)
        attempt = an_attempt(session)
        print_chunks(session, attempt, *(b"%06d %s\n" % (number, b"x" * 8000) for number in range(1000)))
    said = gastown("logs", attempt.bead_id)
    assert [line[:6] for line in said.out.splitlines()] == [f"{number:06}" for number in range(1000)]
