"""A token for https remotes reaches git when it is to talk to a rig's host, and nothing and nobody else."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gastown.agent import credentials, processes
from gastown.agent.git import GitError, git
from gastown.agent.mirror import Mirror
from gastown.errors import RepositoryUnavailable
from gastown.refinery.repository import probe
from tests.agent.containers import Foreground, home_of
from tests.agent.smart_http import SmartHttp
from tests.agent.town import Town, make_repository

TOKEN = "s3cret-of-git"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SmartHttp]:
    folder = tmp_path / "served"
    folder.mkdir()
    git("config", "http.receivepack", "true", cwd=make_repository(folder / "rig.git"))
    made = SmartHttp(folder, TOKEN)
    yield made
    made.close()


@pytest.fixture
def token_file(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    credentials.use_file(file)
    yield file
    credentials.use_file(None)


def test_a_worker_reaches_a_repository_behind_a_login(server: SmartHttp, token_file: Path, tmp_path: Path) -> None:
    assert probe(server.url("rig.git")).branch == "main"
    mirror = Mirror.open(tmp_path / "home", 1, server.url("rig.git"))
    mirror.fetch()
    mirror.push("refs/remotes/origin/main:refs/heads/other")
    assert [ref for _, ref in mirror.list_remote("refs/heads/other")] == ["refs/heads/other"]
    assert set(server.users) == {"x-access-token"}
    assert TOKEN not in (mirror.path / "config").read_text()
    token_file.write_text(f"robot:{TOKEN}")
    mirror.fetch()
    assert server.users[-1] == "robot"


def test_it_is_for_the_host_of_the_rig_alone(server: SmartHttp, token_file: Path, tmp_path: Path) -> None:
    """A submodule may be anywhere: whoever writes its address must not get the token sent there."""
    mirror = Mirror.open(tmp_path / "home", 1, server.url("rig.git"))
    mirror.module(server.url("rig.git")).fetch()
    there = mirror.module(server.url("rig.git", host="localhost"))
    with pytest.raises(GitError) as caught:
        there.fetch()
    assert caught.value.unreachable
    assert server.turned_away == 0


@pytest.mark.parametrize(
    "repository",
    ["http://example.com/r.git", "ssh://git@example.com/r.git", "git@example.com:r.git", "/r", "http://[", ""],
)
def test_elsewhere_it_is_never_sent(token_file: Path, repository: str) -> None:
    assert credentials.options(repository) == ()
    assert "credential.https://example.com:8443.helper=" in credentials.options("https://me@example.com:8443/r.git")
    credentials.use_file(None)
    assert credentials.options("https://example.com/r.git") == ()


def test_a_token_that_is_wrong_or_not_there_is_a_login_that_fails(
    server: SmartHttp, token_file: Path, tmp_path: Path
) -> None:
    token_file.write_text("another")
    with pytest.raises(RepositoryUnavailable) as caught:
        probe(server.url("rig.git"))
    assert "another" not in str(caught.value)
    assert token_file.read_text() == "another", "git tells its helpers to forget what did not work"
    token_file.unlink()
    with pytest.raises(RepositoryUnavailable, match="Username"):
        probe(server.url("rig.git"))
    for content in ("", "\n", "\0\n"):
        token_file.write_text(content)
        with pytest.raises(ValueError, match="no token"):
            credentials.token_in(token_file)


def test_an_attempt_clones_and_pushes_and_its_agent_sees_no_token(server: SmartHttp, town: Town) -> None:
    """S75. Neither in an environment, a command line or a file, nor in what git writes down."""
    ask = f'{sys.executable} -I -S "$ASKPASS" --socket "$LOGIN" get < /dev/null; echo "asked $?"'
    script = f"echo mine > work.txt; env; git config --list --show-origin; {ask}; echo up; sleep 300"
    attempt = town.sling(script, repository=server.url("rig.git"))
    login = home_of(town, attempt) / "runs" / attempt.name / "login"
    attempt.assignment.environment.update(ASKPASS=str(credentials._ASKPASS), LOGIN=str(login))
    with Foreground(town, attempt, git_token=TOKEN) as supervisor:
        town.wait_output(attempt, b"up\n")
        token = TOKEN.encode()
        for process in (supervisor.process.pid, *processes.descendants(supervisor.process.pid)):
            for name in ("environ", "cmdline"):
                assert token not in Path(f"/proc/{process}/{name}").read_bytes()
        attempt.fenced = True
        assert supervisor.wait()[0] == 75
    assert b"asked 0\n" in attempt.output, "it was answered, with nothing"
    assert token not in attempt.output
    assert git("rev-parse", "refs/gastown/wip/gt-1/1", cwd=server.folder / "rig.git")
    for folder, _, files in os.walk(town.home):
        for path in (Path(folder, file) for file in files):
            assert path.is_socket() or token not in path.read_bytes(), path


def test_only_a_git_of_ours_is_told(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "_source", ())
    monkeypatch.setattr(credentials, "NOTED_S", 0.0)
    path = short_dir / "login"
    keeper = credentials.Keeper(path, f"robot:{TOKEN}")
    keeper.start()
    asking = f"import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect({str(path)!r}); print(s.recv(99))"

    def ask(**options: bool) -> str:
        done = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]
        return str(done.stdout)

    assert ask() == "b''\n"
    assert ask(start_new_session=True) == "b''\n"
    with credentials.lent(os.getsid(0)):
        assert ask(start_new_session=True) == "b''\n"
        assert ask() == f"b'robot:{TOKEN}'\n"
    assert ask() == "b''\n"
