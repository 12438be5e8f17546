"""What an agent says from its shell: the real command, the real supervisor's socket, and a town that writes it down."""

import json
import os
import socket
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from gastown.agent import line, relay
from gastown.agent.announced import Announced
from gastown.agent.client import Client
from tests.agent.town import Attempt, Town, eventually

FILED = {"id": "gt-new", "created": True}


def waiting(town: Town, script: str, **changes: Any) -> tuple[Attempt, Path]:
    """An attempt at work, whose agent then waits for the file that is returned."""
    go = town.home / "go"
    attempt = town.sling(f"{script}\nuntil test -e {go}; do sleep 0.05; done", **changes)
    town.start(attempt)
    town.wait_phase(attempt)
    eventually(lambda: town.files(attempt).socket.exists())
    return attempt, go


def released(town: Town, attempt: Attempt, go: Path) -> dict[str, Any]:
    go.touch()
    assert town.wait_gone(attempt) == 0
    assert attempt.done is not None
    return attempt.done


def test_status_escalate_and_new_work_reach_the_town(town: Town) -> None:
    attempt = town.sling(
        """set -e
        gastown self show
        gastown self status running the tests
        gastown self escalate "which database?"
        printf 'two\\nlines' | gastown self bead "More of it" -F - --after self --after gt-9 -p high -a mine --key k1
        gastown self bead "Other" --body true --json"""
    )
    attempt.answers["beads"] = (200, FILED)
    town.start(attempt)
    assert town.wait_gone(attempt) == 0
    assert attempt.done is not None
    assert attempt.done["outcome"] == "succeeded", attempt.output
    assert attempt.of("status") == [{"text": "running the tests"}]
    assert attempt.of("escalate") == [{"text": "which database?"}]
    first = {"title": "More of it", "body": "two\nlines", "priority": "high", "after": ["gt-1", "gt-9"]}
    second = {"title": "Other", "body": "true", "priority": "medium", "after": []}
    assert attempt.of("beads") == [first | {"agent": "mine", "key": "k1"}, second | {"agent": None, "key": ""}]
    said = attempt.output.decode()
    assert said.startswith("gt-1, attempt 1, agent toast\n")
    assert "\ngt-new More of it\n" in said
    assert json.loads(said[said.index("{") :]) == FILED


def test_the_token_stays_with_the_supervisor(town: Town) -> None:
    attempt = town.run("env; cat /proc/self/environ; cat $GASTOWN_SELF; ls -A $(dirname $GASTOWN_SELF)")
    assert attempt.token.encode() not in attempt.output
    assert b"GASTOWN_SELF=" in attempt.output


def test_only_its_owner_reaches_the_socket_and_it_goes_with_the_attempt(town: Town) -> None:
    attempt, go = waiting(town, "true")
    path = town.files(attempt).socket
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    released(town, attempt, go)
    assert not path.exists()


def test_the_command_hides_nothing_of_the_agents_own(town: Town, tmp_path: Path) -> None:
    """It comes last on PATH, and runs whatever the agent's environment says of Python."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "typer.py").write_text("raise SystemExit(9)\n")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path / "own"), "PYTHONHOME": "/nowhere"}
    script = (
        "echo $PATH; command -v gastown; cp $PYTHONPATH/typer.py .; gastown self status hello; echo $?; rm typer.py"
    )
    attempt = town.run(script, environment=environment)
    folder = town.home / "bin"
    assert attempt.output.decode().splitlines() == [f"/usr/bin:/bin:{folder}", f"{folder}/gastown", "0"]
    assert attempt.of("status") == [{"text": "hello"}]


def test_a_home_with_a_long_path(tmp_path: Path, repository: Path) -> None:
    """A socket's path holds 107 bytes."""
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    town = Town(folder, repository)
    try:
        attempt = town.run("gastown self status deep; echo $?")
        assert len(str(town.files(attempt).socket)) > 107
        assert (attempt.output, attempt.of("status")) == (b"0\n", [{"text": "deep"}])
    finally:
        town.close()


def test_an_agent_of_a_superseded_attempt_is_told_and_stopped(town: Town) -> None:
    said = town.home / "said"
    script = f"until test -e {town.home}/go; do sleep 0.05; done; gastown self status x 2> {said}.part"
    attempt = town.sling(f"{script}; echo $? >> {said}.part; mv {said}.part {said}; exec sleep 60", heartbeat_s=60)
    town.start(attempt)
    town.wait_phase(attempt, "workspace")
    eventually(lambda: town.files(attempt).script.exists() and town.files(attempt).socket.exists())
    attempt.fenced = True
    (town.home / "go").touch()
    assert town.wait_gone(attempt) == 75
    assert attempt.done is None


@pytest.mark.parametrize(
    ("status", "body", "code", "words"),
    [
        (
            422,
            {"title": "UsageError", "detail": "a bead needs a title", "hint": "say it"},
            2,
            "needs a title\nnext: say it",
        ),
        (422, {"title": "Refused", "detail": "has filed 50 beads"}, 1, "has filed 50 beads"),
        (404, {"title": "NotFound", "detail": "there is no bead gt-9"}, 3, "no bead gt-9"),
        (404, {"title": "refused", "detail": "Not Found"}, 1, "Not Found"),
        (503, {"title": "DatabaseUnavailable", "detail": "Postgres is away"}, 4, "Postgres is away\nnext: try again"),
        (500, {}, 4, "cannot take this now"),
    ],
)
def test_a_refusal_is_an_exit_code_and_a_line(
    town: Town, status: int, body: dict[str, Any], code: int, words: str
) -> None:
    attempt = town.sling("gastown self bead x; echo $?")
    attempt.answers["beads"] = (status, body)
    town.start(attempt)
    assert town.wait_gone(attempt) == 0
    assert attempt.output.decode().endswith(f"\n{code}\n")
    assert words in attempt.output.decode()
    assert b"Traceback" not in attempt.output


def test_with_the_api_away_the_agent_is_told_so_and_goes_on(town: Town) -> None:
    attempt, go = waiting(town, "")
    town.down = True
    reply = line.ask(town.files(attempt).socket, "status", {"text": "x"})
    assert (reply.ok, reply.exit_code, reply.hint) == (False, 4, "try again in a moment")
    town.down = False
    assert line.ask(town.files(attempt).socket, "status", {"text": "y"}).ok
    assert released(town, attempt, go)["outcome"] == "succeeded"


NONSENSE = [
    (b"\n", 2),
    (b"hello\n", 2),
    (b"[]\n", 2),
    (b"\xff\xfe\n", 2),
    (b'{"call": "done", "body": {"outcome": "succeeded"}}\n', 2),
    (b'{"call": "../done", "body": {}}\n', 2),
    (b'{"call": ["status"], "body": {}}\n', 2),
    (b'{"call": "status"}\n', 2),
    (b"[" * 500_000 + b"\n", 2),
    (b'{"call": "status", "body": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", 2),
    (b"x" * (line.LINE_BYTES + 2), 2),
]


def test_broken_clients_disturb_neither_the_attempt_nor_others(town: Town) -> None:
    attempt, go = waiting(town, "")
    path = town.files(attempt).socket

    def client() -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(20)
        with line.reaching(path) as name:
            made.connect(name)
        return made

    for data, code in NONSENSE:
        with client() as connection:
            connection.sendall(data)
            assert json.loads(line.receive(connection, 20))["exit_code"] == code, data[:60]
    for data in (b"", b'{"call": "sta', b'{"call": "status", "body": {"text": "gone"}}\n'):
        with client() as connection:
            connection.sendall(data)  # and is gone before the answer
    with client() as silent, client() as slow:
        slow.sendall(b"{")
        assert line.ask(path, "status", {"text": "the next one"}).ok  # after both have had their time
        assert silent.recv(1) == b""
        assert slow.recv(1) == b""
    assert attempt.of("done") == []
    assert {"text": "the next one"} in attempt.of("status")
    assert released(town, attempt, go)["outcome"] == "succeeded"


def test_what_is_too_long_is_not_sent(town: Town) -> None:
    with pytest.raises(line.TooLong):
        line.ask(town.home / "no socket", "status", {"text": "x" * line.LINE_BYTES})


def test_a_supervisor_that_cannot_listen_goes_on_without(tmp_path: Path) -> None:
    notes: list[str] = []
    made = relay.Relay(
        tmp_path / "no folder" / "self", Client("http://127.0.0.1:9", "t"), Announced(), lambda: None, notes.append
    )
    made.start()
    made.join(60)
    assert not made.listens
    assert not made.is_alive()
    assert "goes on without" in notes[0]
    made.close()


def test_a_closed_relay_ends_its_thread(tmp_path: Path) -> None:
    notes: list[str] = []
    made = relay.Relay(tmp_path / "self", Client("http://127.0.0.1:9", "t"), Announced(), lambda: None, notes.append)
    made.start()
    made.close()
    made.join(60)
    assert not made.is_alive()
    assert notes == []
    assert not (tmp_path / "self").exists()


def test_the_command_is_replaced_as_a_whole_and_only_by_another(tmp_path: Path) -> None:
    folder = relay.install_command(tmp_path)
    before = (folder / "gastown").stat().st_ino
    assert relay.install_command(tmp_path) == folder
    assert (folder / "gastown").stat().st_ino == before
    (folder / "gastown").write_text("of an older installation")
    threads = [threading.Thread(target=relay.install_command, args=(tmp_path,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.listdir(folder) == ["gastown"]
    assert "gastown.cli" in (folder / "gastown").read_text()
    assert os.access(folder / "gastown", os.X_OK)
