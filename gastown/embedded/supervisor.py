"""The one process that holds a stack: it starts the children, restarts those that die, and stops them in order.

    starting   redis, postgres, prepare (migrations)  then  worker, merge, api  then  beat
    up         every child is ready; `degraded` while one is not
    stopping   beat and workers  then  the drain of attempts  then  api, postgres, redis

Attempts are not children of the stack. SIGTERM and SIGINT drain them and stop; a second one hurries; SIGUSR1 stops and
leaves them running. Killed with SIGKILL, it takes every child with it (see `launch`).
"""

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from gastown.agent import processes
from gastown.agent.command import end_abandoned
from gastown.agent.runs import node_mark
from gastown.embedded import home, leftovers, lock, port, postgres, services, status
from gastown.embedded.service import Service
from gastown.embedded.status import ChildState, StackState, StackStatus
from gastown.embedded.wakeups import Wakeups
from gastown.errors import GastownError, Refused, StackUnavailable
from gastown.settings import Settings, get_settings

START_TIMEOUT_S = 60.0
DRAIN_S = 60.0
KILLING_S = 5.0  # for the drain to end what did not end by itself
HURRY_S = 2.0
POLL_S = 0.02  # while something is to become ready
REST_S = 60.0  # between looks at the logs' sizes; a child's death or a signal wakes us at once
GIVE_UP_AFTER = 3  # deaths of one child during a start


class _StopAskedError(Exception):
    """A signal came during the start."""


class Supervisor:
    """One stack. `run` returns when it has been told to stop."""

    def __init__(
        self, settings: Settings, *, app: str = services.APP, env: dict[str, str] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:  # fmt: skip
        self.settings, self.app, self.say = settings, app, say
        self.env = services.environment(settings, env or {})
        self.children: list[Service] = []
        self.state = StackState.STARTING
        self.since = status.timestamp()
        self.wakeups = Wakeups()
        self.lock = -1
        self.api: socket.socket | None = None

    def run(self) -> None:
        """Raises GastownError when the stack cannot be started; then nothing of it is left running."""
        home.prepare(self.settings)
        self.lock = self._take_lock()
        failure: GastownError | None = None
        with self.wakeups:
            try:
                self._write()
                self._start()
                self._watch()
            except _StopAskedError:
                self.say("stopping before it was up")
            except GastownError as error:
                failure = error
            except OSError as error:
                failure = StackUnavailable(
                    f"the stack cannot be started: {error}", hint=f"see {self.settings.home}/log"
                )
            self._stop(drain=failure is None and self.wakeups.asked[:1] != [signal.SIGUSR1])
            self.state = StackState.DOWN
            self._write(failure)
        os.close(self.lock)
        if failure:
            raise failure

    # --- starting

    def _take_lock(self) -> int:
        found = leftovers.take_lock(self.settings.home)
        if found is not None:
            return found
        other = status.read(self.settings.home)
        if other.alive:
            raise Refused(
                f"it is {other.state} already: pid {other.pid}, since {other.since}, {other.url}",
                hint="gastown status, or gastown down",
            )
        holders = ", ".join(lock.holders(self.settings.home)) or "a process that cannot be seen from here"
        raise StackUnavailable(
            f"{self.settings.home} is still in use by {holders}",
            hint="wait until it has ended, or end it; then: gastown up",
        )

    def _start(self) -> None:
        self.api = port.claim(self.settings)
        self._start_servers()
        self._add(services.programs(self.settings, self.lock, self.api, self.app, self.env))
        self._await(lambda: all(child.state is ChildState.READY for child in self.children), START_TIMEOUT_S)
        self._add([services.beat(self.settings, self.lock, self.app, self.env)])
        self._tend()

    def _start_servers(self) -> None:
        """The database and the broker, fit for use. `prepare` loads its libraries while the servers start."""
        prepare = services.one_shot(self.settings, self.lock, "gastown.embedded.prepare", self.env)
        if self.settings.embedded_database:
            fresh = not (self.settings.home / "pg" / "PG_VERSION").exists()
            if fresh:
                self.say("making the database")
            postgres.initialise(self.settings.home / "pg")
        prepare.log.unlink(missing_ok=True)
        prepare.start()
        try:
            self._add(services.servers(self.settings, self.lock))
            self._await(lambda: prepare.ended, None)
            if prepare.exit_code:
                raise status.problem(home.last_line(prepare.log), f"the database cannot be prepared; see {prepare.log}")
        finally:
            prepare.end(grace_s=HURRY_S)

    def _add(self, more: list[Service]) -> None:
        for child in more:
            child.start()
            self.children.append(child)
        self._write()

    def _await(self, done: Callable[[], bool], timeout_s: float | None) -> None:
        deadline = time.monotonic() + timeout_s if timeout_s else None
        while not done():
            self.wakeups.rest(POLL_S)
            if self.wakeups.asked:
                raise _StopAskedError
            self._tend()
            dying = next((child for child in self.children if child.quick_deaths >= GIVE_UP_AFTER), None)
            late = deadline is not None and time.monotonic() > deadline
            if late and dying is None:
                dying = next(child for child in self.children if child.state is not ChildState.READY)
            if dying is not None:
                why = dying.reason or f"it is not ready after {timeout_s:.0f} s"
                raise StackUnavailable(f"{dying.name} does not start: {why}", hint=f"see {dying.log}")

    # --- running

    def _watch(self) -> None:
        self._settle()
        self.say(f"up: {self._url} (pid {os.getpid()}, home {self.settings.home})")
        while not self.wakeups.asked:
            due = [child.next_start_at - time.monotonic() for child in self.children if child.process is None]
            pending = any(child.state is ChildState.STARTING for child in self.children)
            self.wakeups.rest(0.1 if pending else min([REST_S, *due]))
            if self._tend():
                self._settle()
            for log in (home.log_file(self.settings.home, "supervisor"), *(child.log for child in self.children)):
                home.bound_log(log)

    def _tend(self) -> bool:
        """Look at each child, and start those again whose time has come. True: something changed."""
        changed = False
        for child in self.children:
            before = child.state
            if child.look():
                changed = True
                if child.state in (ChildState.RESTARTING, ChildState.FAILING):
                    self.say(f"{child.name} {child.reason}; starting it again")
                elif before is ChildState.STARTING and child.starts > 1 and child.process:
                    self.say(f"{child.name} is back (pid {child.process.pid})")
            if (
                child.process is None
                and child.state is not ChildState.STOPPED
                and time.monotonic() >= child.next_start_at
            ):
                child.try_start()
                changed = True
        return changed

    def _settle(self) -> None:
        self.state = StackState.UP if all(c.state is ChildState.READY for c in self.children) else StackState.DEGRADED
        self._write()

    # --- stopping

    def _stop(self, *, drain: bool) -> None:
        """Workers first, so that nothing starts what the drain ends; API and database last, so it can be reported."""
        self.state = StackState.STOPPING
        self._write()
        deadline = time.monotonic() + DRAIN_S
        by_name = {child.name: child for child in self.children}
        workers = [by_name[name] for name in ("beat", *services.WORKERS) if name in by_name]
        for child in workers:
            child.ask_to_stop()
        self._await_end([child for child in workers if child.name != "merge"], deadline)
        if drain and "api" in by_name:
            self._drain(deadline)
        self._await_end(workers, deadline)
        if self.api is not None:
            self.api.close()
        for child in reversed([child for child in self.children if child not in workers]):
            self._await_end([child], time.monotonic() + child.grace_s, ask=True)
        end_abandoned(node_mark(self.settings.home))  # gates of a merge whose worker had to be killed

    def _drain(self, deadline: float) -> None:
        left_s = max(KILLING_S, deadline - time.monotonic())
        drain = services.one_shot(self.settings, self.lock, services.DRAIN, self.env, f"{left_s:.0f}")
        drain.start()
        self._await_end([drain], time.monotonic() + left_s + KILLING_S)

    def _await_end(self, ending: list[Service], deadline: float, *, ask: bool = False) -> None:
        """Until these have ended, or the deadline, or a second signal; then kill. The others are kept alive."""
        for child in ending:
            if ask:
                child.ask_to_stop()
        while not all(child.ended for child in ending):
            self.wakeups.rest(POLL_S)
            self._tend()
            if len(self.wakeups.asked) > 1:
                deadline = min(deadline, time.monotonic() + HURRY_S)
            if time.monotonic() > deadline:
                break
        for child in ending:
            child.end(grace_s=0.0)
        self._write()

    # --- what is told

    @property
    def _url(self) -> str:
        return f"http://{self.settings.api.bind}"

    def _write(self, failure: GastownError | None = None) -> None:
        me = StackStatus(
            state=self.state,
            pid=os.getpid(),
            born=processes.birth(os.getpid()),
            since=self.since,
            url=self._url,
            app=self.app,
            children=tuple(child.status() for child in self.children),
            reason=str(failure or ""),
            hint=failure.hint if failure else "",
            exit_code=failure.exit_code if failure else 0,
        )
        try:
            status.write(self.settings.home, me)
        except OSError:  # a full disk must not end what runs; the file is for readers only
            if self.state is StackState.STARTING:
                raise


def main() -> int:
    """A detached stack: `python -m gastown.embedded.supervisor --app MODULE`. Its output is its log."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--app", default=services.APP)
    parser.add_argument("--detach", action="store_true", help="print the pid, and go on without the parent")
    options = parser.parse_args()
    os.umask(0o077)
    if options.detach:
        _detach()

    def say(line: str) -> None:
        with suppress(OSError):  # a full disk must not end what runs
            sys.stdout.write(f"{status.timestamp()} {line}\n")
            sys.stdout.flush()

    try:
        Supervisor(get_settings(), app=options.app, say=say).run()
    except GastownError as error:
        say(f"{error}. next: {error.hint}")
        return error.exit_code
    say("down")
    return 0


def _detach() -> None:
    """Leave the parent and its session. From here on, standard output is standard error: the log."""
    pid = os.fork()
    if pid:
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        os._exit(0)
    os.setsid()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
