"""Git as a subprocess: never prompts, never hangs, never meddles with the user's set-up, and says why it failed.

Standard library only: the supervisor uses it, and the refinery imports it from here.
"""

import os
import re
import select
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import IO

from gastown.agent.credentials import lent

NETWORK_TIMEOUT_S = 600.0  # DESIGN 3: git network 10 min
KILL_GRACE_S = 2.0  # git removes its lock files on SIGTERM
ERROR_BYTES = 256 * 1024  # of what a failed command said, the end: a remote's hook may print without end

# Inherited GIT_* variables may point into another repository (a hook, an alias, an IDE), so all go but these, which
# say how to reach a remote or where the user's configuration is.
_KEPT = re.compile(
    r"GIT_(SSH|SSH_COMMAND|SSH_VARIANT|SSL_.*|PROXY_.*|HTTP_.*|ALLOW_PROTOCOL|EXEC_PATH|LFS_.*"
    r"|CONFIG_(GLOBAL|SYSTEM|NOSYSTEM|COUNT|KEY_\d+|VALUE_\d+))"
)

# Client hooks never run for our own commands, not even before a push: they were written for a person at a checkout,
# and a mirror has none. Hooks of the remote always run: git does not hand `-c` settings to the other side.
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.quotePath=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.detachedHead=false",
    "advice.pushUpdateRejected=false",
    "advice.mergeConflict=false",
    "advice.ignoredHook=false",
    "color.ui=false",
    "commit.gpgSign=false",
    "tag.gpgSign=false",
    "push.gpgSign=false",
    "push.followTags=false",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "push.recurseSubmodules=no",
    "fetch.prune=false",
    "rerere.enabled=false",
    "core.filesRefLockTimeout=2000",  # ms to wait for somebody else's ref update, instead of 100
    "core.packedRefsTimeout=5000",
    "init.templateDir=",
    "credential.interactive=false",
    "http.lowSpeedLimit=1000",  # bytes/s, for
    "http.lowSpeedTime=60",  # seconds, is a dead connection
)
_PREFIX = ("git", *(part for setting in _SETTINGS for part in ("-c", setting)))

_UNREACHABLE = re.compile(
    r"could not read from remote repository|unable to access|could not resolve host|remote end hung up|early eof"
    r"|does not appear to be a git repository|repository .* (not found|does not exist)|unexpected disconnect"
    r"|not a git repository|authentication failed|could not read (username|password)|terminal prompts disabled"
    r"|connection (refused|timed out|reset|closed)|host key verification failed|network is unreachable"
    r"|unable to connect|dubious ownership|rpc failed|operation timed out|too slow"
    r"|error downloading object",  # git-lfs
    re.IGNORECASE,
)
_LOGIN = re.compile(r"(https?://|\w+://[^\s/:@]*:)[^\s/@]+@", re.IGNORECASE)  # with http, a user may be a token


class GitError(Exception):
    """A git command failed. `exit_code` is None when it ran out of time."""

    def __init__(self, command: str, output: str, exit_code: int | None) -> None:
        self.command = _LOGIN.sub(r"\1***@", command)
        self.output = _LOGIN.sub(r"\1***@", output).strip()
        self.exit_code = exit_code
        ending = "ran out of time" if exit_code is None else f"failed ({exit_code})"
        super().__init__(f"git {self.command} {ending}: {self.output or 'no output'}")

    @property
    def timed_out(self) -> bool:
        return self.exit_code is None

    @property
    def unreachable(self) -> bool:
        """The repository gave no answer: network, name, credentials, permissions, gone, or out of time."""
        return self.timed_out or bool(_UNREACHABLE.search(self.output))

    @property
    def untrusted(self) -> bool:
        """Git will not read it, because it belongs to another user and is not in safe.directory."""
        return "dubious ownership" in self.output

    @property
    def stale(self) -> bool:
        """A push found another value on the remote than it was told to expect."""
        return bool(re.search(r"\((stale info|fetch first|non-fast-forward|remote ref updated.*)\)", self.output))

    @property
    def refused(self) -> bool:
        """The remote itself said no to a push: a hook, a protected branch, a checked-out branch."""
        return "[remote rejected]" in self.output or "hook declined" in self.output

    @property
    def disk_full(self) -> bool:
        return "No space left on device" in self.output or "Disk quota exceeded" in self.output

    @property
    def reason(self) -> str:
        """The line that says most, for people: the first `fatal:` or `error:`, or of git-lfs, else the last line."""
        if self.timed_out:
            return f"git {self.command.split(' ', 1)[0]} ran out of time"
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        if len(lines) > 1 and "Could not read from remote repository" in lines[1]:
            return lines[0]  # what ssh said
        telling = [
            line for line in lines if line.startswith(("fatal:", "error:", "remote: error:", "Error downloading"))
        ]
        return (telling or lines[-1:] or [f"git exited with {self.exit_code} and said nothing"])[0]


def git(
    *args: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = NETWORK_TIMEOUT_S,
    stdin: bytes | None = None,
    login: Sequence[str] = (),
) -> str:
    """Run git and return its standard output; bytes that are no UTF-8 come as surrogates (`surrogateescape`).

    `env` is laid over the scrubbed environment of this process; `login` is what `credentials.options` gave, for a git
    that reaches a remote and runs nothing that an agent wrote. Raises GitError, also when git or `cwd` is missing.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, _input(stdin) as source:
        # Files, not pipes: a daemon that git leaves behind (a credential cache, an ssh master) cannot make us wait.
        try:
            process = subprocess.Popen(
                [*_PREFIX, *login, *args],
                cwd=cwd,
                env=_environment(env or {}),
                stdin=source,
                stdout=out,
                stderr=err,
                start_new_session=True,  # a group to kill; and no terminal, so nothing below can ask for anything
            )
        except OSError as error:
            raise GitError(_shown(args), _why_not_started(error, cwd), 127) from error
        with lent(process.pid) if login else nullcontext():
            exit_code = _wait(process, timeout_s)
        if exit_code != 0:
            raise GitError(_shown(args), f"{_text(err, ERROR_BYTES)}\n{_text(out, ERROR_BYTES)}", exit_code)
        return _text(out)


def succeeds(*args: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> bool:
    """For commands that answer by exit code: 0 is yes, 1 is no. Raises GitError for any other."""
    try:
        git(*args, cwd=cwd, env=env)
    except GitError as error:
        if error.exit_code == 1:
            return False
        raise
    return True


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("GIT_") or _KEPT.fullmatch(name)
    }
    return {
        **inherited,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",  # empty also overrules core.askPass and SSH_ASKPASS
        "SSH_ASKPASS_REQUIRE": "never",  # without a terminal: ssh's BatchMode, and core.sshCommand stays the user's
        "GIT_EDITOR": ":",
        "GIT_PAGER": "cat",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_MERGE_AUTOEDIT": "no",
        "GIT_DEFAULT_REF_FORMAT": "files",
        "LC_ALL": "C",
        "LANGUAGE": "",
        **given,
    }


def _input(data: bytes | None) -> IO[bytes]:
    if data is None:
        return open(os.devnull, "rb")
    source = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    source.write(data)
    source.seek(0)
    return source


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> int | None:
    """The exit code, or None when it had to be ended. It is ended too when the caller is interrupted."""
    try:
        if hasattr(os, "pidfd_open"):  # Popen.wait polls, which costs a short command more than its own run time
            descriptor = os.pidfd_open(process.pid)
            try:
                poll = select.poll()
                poll.register(descriptor, select.POLLIN)
                if not poll.poll(timeout_s * 1000):
                    raise subprocess.TimeoutExpired("git", timeout_s)
            finally:
                os.close(descriptor)
            return process.wait()
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        _end(process)
        return None
    except BaseException:
        _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(KILL_GRACE_S)
    with suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _text(file: IO[bytes], at_most: int | None = None) -> str:
    """All of it, or its end."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0 if at_most is None else max(0, size - at_most))
    return file.read().decode("utf-8", "surrogateescape")


def _shown(args: tuple[str, ...]) -> str:
    return " ".join(args)[:500]


def _why_not_started(error: OSError, cwd: Path | None) -> str:
    if cwd is not None and not cwd.is_dir():
        return f"fatal: there is no directory {cwd}"
    if isinstance(error, FileNotFoundError):
        return "fatal: git is not on PATH; install it"
    return f"fatal: git cannot be started: {error}"
