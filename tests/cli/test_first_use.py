"""What somebody sees who uses Gastown for the first time, on a terminal of 80 columns."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from gastown import db, settings
from gastown.cli import running, stack, townwide
from gastown.cli.running import Run
from gastown.db import gastown_now, transaction
from gastown.models import Bead, DecisionRow, Service
from gastown.states import BeadStatus, DispatchStatus, Resolution
from gastown.store.moves import record
from tests.builders import a_bead, a_node, a_rig, a_town, an_attempt, the_api_is_there
from tests.cli.conftest import Gastown

LONG = "waits for gt-00001, which has to be merged before anything else of this can be looked at by anybody"


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_why_all_has_the_whole_reason(gastown: Gastown) -> None:
    with transaction() as session:
        bead_id = a_bead(session, held_at=gastown_now(), held_reason=LONG).id
    said = gastown("why", "--all").out.splitlines()
    assert said[-1] == "gastown why ID says what opens each"
    head = next(number for number, line in enumerate(said) if line.split() == ["id", "state", "reason"])
    table = said[head + 1 : -1]
    assert table[0].split()[:2] == [bead_id, "held"]
    assert max(map(len, table)) <= 80
    assert LONG in " ".join(" ".join(table).split())


def test_a_list_gives_its_room_to_title_and_what(gastown: Gastown) -> None:
    with transaction() as session:
        rig = a_rig(session)
        a_bead(session, rig, title="the usual one", status=BeadStatus.FAILED, failure_message="it broke at line 12")
        a_bead(session, rig, title="another", priority=1)
    shown = gastown("bead", "list").out
    assert shown.splitlines()[0].split() == ["id", "state", "tries", "title", "what"]
    assert "the usual one" in shown
    assert "it broke at line 12" in shown
    assert "[high] another" in shown
    with transaction() as session:
        a_bead(session, a_rig(session, name="theirs", repository="/elsewhere"))
    assert "rig" in gastown("bead", "list").out.splitlines()[0].split()


def test_a_wide_list_has_all(gastown: Gastown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    with transaction() as session:
        a_bead(session)
    heads = gastown("bead", "list").out.splitlines()[0].split()
    assert heads == ["id", "state", "priority", "tries", "agent", "rig", "title", "what"]


def test_why_has_the_word_of_the_list_and_the_rule(gastown: Gastown) -> None:
    with transaction() as session:
        bead_id = an_attempt(session).bead_id
    shown = gastown("why", bead_id).out
    assert "\n  running: " in shown
    assert "\n  rule       await_agent: " in shown
    assert "running" in gastown("bead", "list").out


def test_why_shows_the_last_of_a_long_history(gastown: Gastown) -> None:
    with transaction() as session:
        bead = a_bead(session)
        for number in range(30):
            named = {"verdict": "held", "reason": f"reason {number:02}", "rule": "hold", "view": {}}
            session.add(DecisionRow(town_id=bead.town_id, bead_id=bead.id, **named))
            session.flush()
        bead_id = bead.id
    shown = gastown("why", bead_id).out
    assert shown.count("reason ") == 5
    assert "reason 29" in shown
    assert f"gastown why {bead_id} --history shows all" in shown
    assert gastown("why", bead_id, "--history").out.count("reason ") == 30
    assert len(gastown("why", bead_id, "--history", "--json").json["history"]) == 30


def test_a_question_stays_after_the_merge(gastown: Gastown) -> None:
    with transaction() as session:
        done = an_attempt(session, DispatchStatus.SUCCEEDED)
        record(
            session, done.town_id, "escalation", "which one?", actor="toast", bead_id=done.bead_id, dispatch_id=done.id
        )
        bead = session.get_one(Bead, done.bead_id)
        bead.status, bead.resolution, bead.closed_at = BeadStatus.CLOSED, Resolution.MERGED, gastown_now()
    assert "\n  asked you  which one?\n" in gastown("why", done.bead_id).out


def test_the_town_in_one_line(gastown: Gastown) -> None:
    with transaction() as session:
        the_api_is_there(session)
        a_node(session)
        an_attempt(session)
        ready = a_bead(session)
        ready.verdict, ready.verdict_reason, ready.verdict_rule = "ready", "ready", "queue_ready"
        a_bead(session)
        a_bead(session, status=BeadStatus.FAILED)
        a_bead(session, status=BeadStatus.CLOSED)
    assert townwide.read().words() == "not paused; 1 of 4 attempts run, 1 ready, 1 waiting, 1 needs you"
    gastown("pause")
    now = townwide.read()
    assert now.paused.startswith("paused since ")
    assert (now.ready, now.need_you) == (0, 2)
    gastown("resume")
    gastown("pause", "--rig", "rig")
    assert townwide.read().paused == "paused: rig rig"


def test_what_is_silent_shut_or_drained_is_said_with_the_status(
    gastown: Gastown, capsys: pytest.CaptureFixture[str]
) -> None:
    with transaction() as session:
        the_api_is_there(session)
        a_node(session)
    assert townwide.read().troubles == ()
    with transaction() as session:
        session.get_one(Service, "api").alive_at = gastown_now() - timedelta(minutes=1)
        town = a_town(session)
        town.breaker_opened_at, town.breaker_reason = gastown_now(), "8 starts failed"
        long_ago = gastown_now() - timedelta(days=3)
        a_node(session, "gone", heartbeat_at=long_ago)
        missed = a_node(session, "missed", heartbeat_at=long_ago)
        an_attempt(session, node=missed)
        an_attempt(session, node=a_node(session, "off", heartbeat_at=gastown_now() - timedelta(hours=1)))
        a_node(session, "shut", closed_at=gastown_now())
        for _ in range(3):
            an_attempt(session, DispatchStatus.ROLLED_BACK, node=a_node(session, "bad"))
    stack._print_town()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    said = [" ".join(words[1:]) for words in lines if words[0] == "trouble"]
    begins = ["the API is silent", "the breaker is open since", "node bad rests", "node missed is silent since"]
    begins += ["node off is silent since", "node shut is drained: gastown node drain shut --undo"]
    assert all(any(each.startswith(words) for each in said) for words in begins), said
    assert len(said) == len(begins)
    assert "with 1 of its attempts live" in next(each for each in said if "missed" in each)
    assert "8 starts failed" in said[1]


def test_a_town_whose_database_is_away_is_left_out(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GASTOWN_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    settings.get_settings.cache_clear()
    db._engine_of.cache_clear()
    stack._print_town()
    assert capsys.readouterr().out == ""
    db._engine_of.cache_clear()
    settings.get_settings.cache_clear()


@pytest.mark.parametrize(
    ("status", "values", "words"),
    [
        (DispatchStatus.RUNNING, {}, "no output yet"),
        (DispatchStatus.FAILED, {"exit_code": 3}, "no output; the agent exited with 3"),
        (DispatchStatus.LOST, {"exit_code": None, "code": "heartbeat_lost"}, "no output; it ended: heartbeat lost"),
    ],
)
def test_logs_without_output(gastown: Gastown, status: DispatchStatus, values: dict[str, object], words: str) -> None:
    with transaction() as session:
        bead_id = an_attempt(session, status, **values).bead_id
    said = gastown("logs", bead_id)
    assert (said.code, said.out, said.err) == (0, "", f"{words}\n")


@pytest.fixture
def presets(own_home: Path) -> Iterator[Path]:
    folder = own_home / "presets"
    folder.mkdir(parents=True)
    return folder


def test_a_wrong_key_of_a_preset_is_named(gastown: Gastown, presets: Path, repository: Path) -> None:
    bad = presets / "bad.toml"
    for text, words in (
        ('argvv = ["x"]', "it has no argv; there is no key argvv (did you mean argv?)"),
        ('argv = ["x"]\nzzz = 1', "there is no key zzz (known: name, argv, stdin, environment, image, container)"),
        ('argv = "x"', "argv: input should be a valid list"),
    ):
        bad.write_text(text)
        said = gastown("rig", "add", str(repository), "--agent", "bad")
        assert said.err.splitlines() == [f"gastown: the agent preset {bad} is wrong: {words}", f"next: mend {bad}"]


def test_a_preset_without_its_program_is_named(gastown: Gastown, presets: Path, repository: Path) -> None:
    gastown("rig", "add", str(repository), "--gate", "true")
    (presets / "mine.toml").write_text('argv = ["no-such-agent", "{prompt}"]')
    said = gastown("sling", "x")
    assert said.code == 2
    assert "the agent preset mine runs no-such-agent, which is not on the PATH" in said.err.splitlines()[0]


def test_a_rig_that_is_there_is_changed_by_rig_set(gastown: Gastown, repository: Path) -> None:
    gastown("rig", "add", str(repository))
    said = gastown("rig", "add", str(repository), "--gate", "./check.sh x", "--agent", "shell")
    assert said.code == 1
    assert said.err.splitlines()[1] == "next: gastown rig set project --agent shell --gate './check.sh x'"


@pytest.mark.parametrize(
    ("run", "resume", "ours", "words"),
    [
        (None, None, True, "stopped before any bead was made\n"),
        (None, "run:abcde", True, "stopped before run abcde went on; its beads are kept\n"),
        (Run("abcde", []), None, True, "stopped run abcde: what is done is kept, the rest waits\n"),
        (Run("abcde", []), None, False, "detached from run abcde: the beads go on without this terminal\n"),
    ],
)
def test_after_ctrl_c(
    capsys: pytest.CaptureFixture[str], run: Run | None, resume: str | None, ours: bool, words: str
) -> None:
    running.say_how_to_go_on(run, resume, ours)
    said = capsys.readouterr().err
    assert said.startswith(words)
    assert ("next: gastown run --resume abcde" in said) is (run is not None or resume is not None)
