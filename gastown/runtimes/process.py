"""Attempts as processes of this machine: each a detached supervisor. It isolates nothing.

A supervisor is found again by its record (pid and start time) under home/runs/<name>, and what it started by
GASTOWN_DISPATCH in the environment, also when the supervisor itself was killed.
"""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gastown.agent import processes, runs
from gastown.agent.command import end_abandoned, run_command
from gastown.agent.protocol import Launch
from gastown.agent.runs import RunFiles, Supervisor
from gastown.errors import RuntimeUnavailable, StartRefused
from gastown.runtimes import CommandResult, CommandSpec, Handle, RunSpec, Status

START_TIMEOUT_S = 30.0  # DESIGN 3: runtime call
POLL_S = 0.02

# What a supervisor gets of the worker's environment: what git and TLS need to reach a remote as the user does.
_KEPT = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_.*|TZ|TMPDIR|LD_LIBRARY_PATH|XDG_.*|DBUS_SESSION_BUS_ADDRESS|GNUPGHOME"
    r"|(SSL_CERT|REQUESTS_CA|CURL_CA)_.*|SSH_(AUTH_SOCK|AGENT_PID)|GIT_(SSH|SSL|CONFIG|PROXY)\w*"
    r"|(?i:(http|https|all|no|ftp)_proxy)"
)


class ProcessRuntime:
    """`home` is GASTOWN_HOME; `command` starts a supervisor that reads a Launch from its standard input."""

    def __init__(self, home: Path, command: Sequence[str] = (sys.executable, "-P", "-m", "gastown.agent")) -> None:
        self._home, self._command = home.absolute(), list(command)

    def start(self, spec: RunSpec) -> Handle | None:
        files = self._files(spec.name)
        if files is None:
            raise StartRefused(f"{spec.name!r} is no name for an attempt")
        if taken := files.supervisor():
            return Handle(spec.name, taken.pid)
        launch = Launch(
            dispatch_id=spec.name,
            bead_id=spec.bead_id,
            epoch=spec.epoch,
            api_url=spec.api_url,
            home=str(self._home),
            token=spec.token,
            git_token=spec.git_token,
        )
        exit_code, said = self._spawn(json.dumps(launch.to_json()).encode(), self._environment(spec))
        supervisor = files.supervisor()
        if supervisor is not None:
            return Handle(spec.name, supervisor.pid)
        reason = said or f"the supervisor's first process exited with {exit_code}"
        if processes.marked(runs.DISPATCH, spec.name):
            raise RuntimeUnavailable(f"whether {spec.name} started is not known: {reason}")
        raise StartRefused(f"the supervisor did not start: {reason}", hint=f"look at {self._home}: space, permissions")

    def inspect(self, name: str) -> Status:
        files = self._files(name)
        if files is None:
            return Status(present=False)
        supervisor = files.supervisor()
        if supervisor is None:
            return Status(present=bool(processes.marked(runs.DISPATCH, name)))
        if supervisor.alive:
            return Status(present=True)
        if not processes.end_all(lambda: processes.marked(runs.DISPATCH, name)):
            raise RuntimeUnavailable(f"processes of {name} were killed and do not end")
        return Status(present=False, exit_code=files.exit_code())

    def stop(self, name: str, *, grace_s: float) -> None:
        files = self._files(name)
        if files is None:
            return
        supervisor = files.supervisor()
        if supervisor is not None and supervisor.alive:
            processes.send(supervisor.pid, signal.SIGTERM)
            _wait_for_end(supervisor, grace_s)

        def left() -> set[int]:
            found = set(processes.marked(runs.DISPATCH, name))
            if supervisor is not None and supervisor.alive:
                found |= processes.descendants(supervisor.pid)  # also those that cleared their environment
                return found or {supervisor.pid}  # it holds orphans together, so it goes last
            return found

        if not processes.end_all(left):
            raise RuntimeUnavailable(f"processes of {name} were killed and do not end")

    def list_names(self) -> list[str]:
        """An agent can start a process with any environment, so a mark may be missing or be no name at all."""
        found = processes.marked(runs.NODE, runs.node_mark(self._home)).values()
        names = {os.fsdecode(environment.get(runs.DISPATCH.encode(), b"")) for environment in found}
        return sorted(name for name in names if self._files(name) is not None)

    def run(self, spec: CommandSpec, *, should_stop: Callable[[], bool] | None = None) -> CommandResult:
        owner = runs.node_mark(self._home)
        end_abandoned(owner)
        try:
            finished = run_command(
                spec.command,
                cwd=spec.cwd,
                environment=spec.environment,
                timeout_s=spec.timeout_s,
                max_output_bytes=spec.max_output_bytes,
                owner=owner,
                should_stop=should_stop,
            )
        except (OSError, ValueError) as error:
            raise RuntimeUnavailable(f"`{spec.command}` could not be started in {spec.cwd}: {error}") from error
        return CommandResult(*finished)

    def _files(self, name: str) -> RunFiles | None:
        try:
            return RunFiles(self._home, name)
        except ValueError:
            return None

    def _environment(self, spec: RunSpec) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if _KEPT.fullmatch(name)}
        return {
            **inherited,
            runs.DISPATCH: spec.name,
            runs.BEAD: spec.bead_id,
            runs.EPOCH: str(spec.epoch),
            runs.NODE: runs.node_mark(self._home),
            runs.ROLE: runs.SUPERVISOR,
        }

    def _spawn(self, launch: bytes, environment: dict[str, str]) -> tuple[int, str]:
        """Run the first process to its end, which is the acknowledgement; returns its exit code and its words."""
        try:
            child = subprocess.Popen(
                self._command,
                cwd="/",
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise StartRefused(f"the supervisor did not start: {error}") from error
        try:
            said = child.communicate(launch, timeout=START_TIMEOUT_S)[1]
        except subprocess.TimeoutExpired:
            raise RuntimeUnavailable(f"the supervisor said nothing for {START_TIMEOUT_S:.0f} s") from None
        finally:
            if child.poll() is None:  # also when a time limit of Celery strikes in here: no zombie stays behind
                child.kill()
                child.wait()
            for pipe in (child.stdin, child.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        return child.returncode, said.decode(errors="replace").strip()[-2000:]


def _wait_for_end(supervisor: Supervisor, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(supervisor.pid)
            try:
                if supervisor.alive:  # the descriptor is of the right process: it was alive after it was opened
                    poll = select.poll()
                    poll.register(descriptor, select.POLLIN)
                    poll.poll(max(0.0, seconds) * 1000)
            finally:
                os.close(descriptor)
    while supervisor.alive and time.monotonic() < deadline:
        time.sleep(POLL_S)
