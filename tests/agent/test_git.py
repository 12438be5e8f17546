"""Git calls end, ask nothing, ignore what they inherit, and say what went wrong."""

import os
import threading
import time
from pathlib import Path

import pytest

from gastown.agent.git import GitError, git, succeeds


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git("init", "--quiet", str(tmp_path / "r"))
    return tmp_path / "r"


def alias(script: str) -> tuple[str, str, str]:
    return ("-c", f"alias.try=!{script}", "try")


def test_inherited_variables_do_not_reach_it(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    monkeypatch.setenv("GIT_TRACE", "1")
    monkeypatch.setenv("GIT_ASKPASS", "/bin/false")
    assert git("rev-parse", "--show-toplevel", cwd=repository).strip() == str(repository)
    shown = git(*alias("env"), cwd=repository).splitlines()
    assert "GIT_ASKPASS=" in shown
    assert "GIT_TERMINAL_PROMPT=0" in shown
    assert not any(line.startswith(("GIT_TRACE=", "GIT_INDEX_FILE=")) for line in shown)


def test_ways_to_reach_a_remote_are_kept(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_SSH_COMMAND", "ssh -i key")
    assert "GIT_SSH_COMMAND=ssh -i key" in git(*alias("env"), cwd=repository).splitlines()


def test_given_environment_wins(repository: Path, tmp_path: Path) -> None:
    (repository / "a").write_text("a")
    git("add", "a", cwd=repository, env={"GIT_INDEX_FILE": str(tmp_path / "index")})
    assert (tmp_path / "index").exists()
    assert git("ls-files", cwd=repository) == ""


def test_timeout_ends_the_whole_group(repository: Path, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    begun = time.monotonic()
    with pytest.raises(GitError) as caught:
        git(*alias(f"sleep 60 & echo $! > {pid_file}; wait"), cwd=repository, timeout_s=2)
    assert time.monotonic() - begun < 50
    assert caught.value.timed_out
    assert caught.value.unreachable
    pid = int(pid_file.read_text())
    deadline = time.monotonic() + 50
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]:
        assert time.monotonic() < deadline, "the child of git lives on"
        time.sleep(0.02)


def test_a_daemon_that_holds_the_output_does_not_make_us_wait(repository: Path, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    begun = time.monotonic()
    assert git(*alias(f"sleep 300 & echo $! > {pid_file}; echo done"), cwd=repository) == "done\n"
    assert time.monotonic() - begun < 200
    os.kill(int(pid_file.read_text()), 9)


def test_nothing_can_be_asked(repository: Path) -> None:
    with pytest.raises(GitError):
        git(*alias("cat > /dev/tty"), cwd=repository, timeout_s=60)
    assert git(*alias("cat"), cwd=repository, timeout_s=60) == ""


def test_bytes_survive(repository: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \xff\n")
    (repository / name).write_bytes(b"\x00\xff")
    git("add", "--", name, cwd=repository)
    assert git("ls-files", "-z", cwd=repository) == f"{name}\0"
    assert git("cat-file", "blob", git("hash-object", "--", name, cwd=repository).strip(), cwd=repository) == "\0\udcff"


def test_input_is_given_whole(repository: Path) -> None:
    data = b"x" * 1_000_000
    sha = git("hash-object", "-w", "--stdin", cwd=repository, stdin=data).strip()
    assert git("cat-file", "-s", sha, cwd=repository) == "1000000\n"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("ls-remote", "/nonexistent/repository"), "does not appear to be a git repository"),
        (("ls-remote", "ssh://localhost:1/x"), "Connection refused"),
        (("ls-remote", "http://127.0.0.1:1/x"), "unable to access"),
    ],
)
def test_unreachable(args: tuple[str, ...], words: str, repository: Path) -> None:
    with pytest.raises(GitError) as caught:
        git(*args, cwd=repository, timeout_s=60)
    assert caught.value.unreachable
    assert words in caught.value.reason


@pytest.mark.parametrize("login", ["me:hunter2", "hunter2", "hunter2:", ":hunter2"])
def test_passwords_and_tokens_are_not_shown(repository: Path, login: str) -> None:
    with pytest.raises(GitError) as caught:
        git("ls-remote", f"http://{login}@127.0.0.1:1/x", cwd=repository, timeout_s=60)
    assert "hunter2" not in f"{caught.value} {caught.value.command} {caught.value.output}"


def test_missing_directory_and_missing_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GitError, match="there is no directory"):
        git("status", cwd=tmp_path / "nowhere")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitError, match="git is not on PATH"):
        git("status", cwd=tmp_path)


def test_answers_by_exit_code(repository: Path) -> None:
    assert succeeds(*alias("true"), cwd=repository)
    assert not succeeds(*alias("false"), cwd=repository)
    with pytest.raises(GitError):
        succeeds(*alias("exit 3;:"), cwd=repository)


def test_hooks_of_a_person_do_not_run(repository: Path) -> None:
    hook = repository / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    who = {f"GIT_{role}_{part}": "t@example.com" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
    git("commit", "--quiet", "--allow-empty", "-m", "one", cwd=repository, env=who)


def test_many_at_once(repository: Path) -> None:
    """Waiting by file descriptor works in threads, and none gets another's answer."""
    answers: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda n=n: answers.update({n: git(*alias(f"echo {n};:"), cwd=repository)}))
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == {n: f"{n}\n" for n in range(12)}
