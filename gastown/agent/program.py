"""The agent itself: its environment, its command line, its process."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from gastown.agent import processes, runs
from gastown.agent.protocol import Assignment, Launch
from gastown.agent.snapshot import Person

TERM_GRACE_S = 10.0  # between SIGTERM and SIGKILL
GIT_GRACE_S = 2.0
EXEC_LOOKS, EXEC_LOOK_S, FORK_S = 5, 0.002, 2.0
_OURS = re.compile(r"(GASTOWN|CELERY|FLOWER)_")
_SUPERVISORS = {"PYTHONPATH", "HOME", "HOSTNAME", "PWD", "OLDPWD", "SHLVL", "_"}
_PLACEHOLDER = re.compile(r"\{(prompt_file|prompt|script_file)\}")


class CannotStart(Exception):
    """The agent's command is not there, or the system refuses to execute it."""


def person_of(assignment: Assignment) -> Person:
    name = " ".join(re.sub(r"[<>\0\n]", " ", assignment.agent).split()) or "agent"
    return Person(name, f"{re.sub(r'[^A-Za-z0-9._+-]', '-', name)}@gastown.localhost")


def environment_for(
    assignment: Assignment, launch: Launch, files: runs.RunFiles, commands: Path | None
) -> dict[str, str]:
    """The rig's environment without what is ours, plus what every attempt gets. It never holds the token.

    `commands`: a folder for the end of PATH, so that it hides no program of the rig's.
    """
    home = Path(launch.home) / "homes" / launch.bead_id
    for folder in (home, files.tmp):
        folder.mkdir(parents=True, exist_ok=True)
    given = {**_of_container(launch), **assignment.environment}
    kept = {name: value for name, value in given.items() if not _OURS.match(name) and launch.token not in value}
    path = kept.get("PATH", os.environ.get("PATH", os.defpath))
    if commands is not None and os.pathsep not in str(commands):
        path = f"{path}{os.pathsep}{commands}" if path else str(commands)
    return {
        **kept,
        "PATH": path,
        **person_of(assignment).environment,
        runs.DISPATCH: launch.dispatch_id,
        runs.BEAD: launch.bead_id,
        runs.EPOCH: str(launch.epoch),
        runs.NODE: runs.node_mark(Path(launch.home)),
        runs.AGENT: assignment.agent,
        "HOME": str(home),
        "TMPDIR": str(files.tmp),
        "GIT_TERMINAL_PROMPT": "0",
    }


def _of_container(launch: Launch) -> dict[str, str]:
    """What its image gives, and whoever made the container; but for what is there for the supervisor itself."""
    if launch.shared_home is None:
        return {}
    return {name: value for name, value in os.environ.items() if name not in _SUPERVISORS}


def prompt_text(assignment: Assignment) -> str:
    """What the agent is told: the title, the body, and what went wrong before."""
    parts = [f"# {assignment.title}", assignment.body.strip()]
    if assignment.notes.strip():
        parts += ["## What happened before", assignment.notes.strip()]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_prompt(assignment: Assignment, files: runs.RunFiles) -> str:
    """Outside the worktree, so that it is never in a commit."""
    prompt = prompt_text(assignment)
    files.prompt.write_text(prompt, encoding="utf-8", errors="replace")
    files.script.write_text(assignment.body, encoding="utf-8", errors="replace")
    return prompt


def command_line(assignment: Assignment, files: runs.RunFiles, prompt: str) -> list[str]:
    values = {"prompt_file": str(files.prompt), "script_file": str(files.script), "prompt": prompt}
    return [_PLACEHOLDER.sub(lambda found: values[found[1]], argument) for argument in assignment.argv]


class Program:
    """The agent's process and everything below it."""

    def __init__(
        self,
        argv: list[str],
        *,
        worktree: Path,
        environment: Mapping[str, str],
        prompt: Path | None,
        confine: Callable[[], None] | None = None,
    ) -> None:
        """Start it, from the main thread: it dies with the thread that starts it. Raises CannotStart."""
        if not argv or not argv[0]:
            raise CannotStart("the agent has no command")
        me = os.getpid()
        source = prompt.open("rb") if prompt else None
        try:
            self._child = subprocess.Popen(
                argv,
                cwd=worktree,
                env=dict(environment),
                stdin=source or subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: processes.die_with(me, confine),
            )
        except (OSError, ValueError) as error:
            raise CannotStart(_why(argv[0], error)) from error
        finally:
            if source:
                source.close()
        assert self._child.stdout is not None
        self.pipe = self._child.stdout.fileno()
        self.pid = self._child.pid

    def exit_code(self) -> int | None:
        """Negative: the signal that ended it. None: it runs."""
        return self._child.poll()

    def terminate(self) -> None:
        """SIGTERM to its group, then up to TERM_GRACE_S for it to end. Its tree is ended elsewhere."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(TERM_GRACE_S)

    def reap(self) -> int:
        return self._child.wait()


class Tree:
    """Everything below the supervisor but the git that the supervisor itself runs."""

    LOOK_EVERY_S = 5.0

    def __init__(self, dispatch_id: str) -> None:
        self._dispatch_id = dispatch_id
        self._zombies: set[int] = set()
        self._looked_at = 0.0
        self.look_again = False  # after LOOK_EVERY_S, whether or not a signal comes

    def end(self) -> bool:
        """SIGKILL all of it, sessions of its own or not. False: something does not die."""
        return processes.end_all(self._find)

    def reap_orphans(self, program: int | None = None) -> None:
        """Wait for children that were left to us. Ours are waited for at once, so one that is seen twice is no git."""
        now = time.monotonic()
        if now - self._looked_at < self.LOOK_EVERY_S:
            self.look_again = True
            return
        self._looked_at = now
        zombies = processes.zombie_children() - {program}
        for pid in zombies & self._zombies:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._zombies, self.look_again = zombies, bool(zombies)

    def end_everything(self) -> None:
        """At the very end: our own git too. It is asked first, so that it removes its lock files."""
        for pid in processes.descendants(os.getpid()):
            processes.send(pid, signal.SIGTERM)
        deadline = time.monotonic() + GIT_GRACE_S
        while processes.descendants(os.getpid()) and time.monotonic() < deadline:
            time.sleep(0.02)
        processes.end_all(lambda: processes.descendants(os.getpid()))

    def _find(self) -> set[int]:
        role = os.fsencode(runs.ROLE)
        marked = processes.marked(runs.DISPATCH, self._dispatch_id)
        below = {pid for pid in processes.descendants(os.getpid()) - set(marked) if role not in _environment_of(pid)}
        return below | {pid for pid, environment in marked.items() if role not in environment}


def _environment_of(pid: int) -> dict[bytes, bytes]:
    """In the middle of an exec a process has none for a moment; only one that still has none has cleared it.

    What a hidden process forked is hidden as well until it executes something: then it is a git of our own, on its way.
    """
    deadline, looks = time.monotonic() + FORK_S, 0
    while not (found := processes.environment_of(pid)):
        looks += 1
        process = processes.look(pid)
        if process is None or time.monotonic() > deadline:
            break
        if looks >= EXEC_LOOKS and (process.executed or process.parent != os.getpid()):
            break
        time.sleep(EXEC_LOOK_S)
    return found


def _why(program: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"the agent's command {program!r} was not found; install it, or correct the agent's command"
    if isinstance(error, PermissionError):
        return f"the agent's command {program!r} may not be executed: {error}"
    if isinstance(error, OSError) and error.errno == 7:  # E2BIG
        return "the prompt is too long for a command line; use {prompt_file} instead of {prompt} in the agent's command"
    return f"the agent's command {program!r} cannot be started: {error}"
