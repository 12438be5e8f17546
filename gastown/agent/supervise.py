"""The attempt from its first heartbeat to its exit code. Read `run` and `_attempt` first."""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from gastown.agent import journal, processes
from gastown.agent.announced import Announced
from gastown.agent.apart import keeps_signals
from gastown.agent.client import Client, Denied, Fenced, GaveUp, Rejected
from gastown.agent.confining import confinement_of
from gastown.agent.credentials import Keeper
from gastown.agent.disk import DiskWatch, blamed
from gastown.agent.failures import Failed, ending, plain, printable
from gastown.agent.feature import target_of
from gastown.agent.git import GitError
from gastown.agent.heartbeat import Heart
from gastown.agent.lending import recall
from gastown.agent.mirror import Mirror
from gastown.agent.output import Pump, Sender, Spool
from gastown.agent.program import (
    CannotStart,
    Program,
    Tree,
    command_line,
    environment_for,
    person_of,
    write_prompt,
)
from gastown.agent.protocol import FENCED_EXIT, Assignment, Checkpoint, Done, Launch, head_ref
from gastown.agent.pushes import Pushes
from gastown.agent.relay import Relay, install_command
from gastown.agent.runs import SELF, RunFiles
from gastown.agent.salvage import at_work, end_earlier, salvage
from gastown.agent.setup import Setup
from gastown.agent.signals import Interrupted, Signals
from gastown.agent.starting import fetch, starting_point
from gastown.agent.tail import last_lines
from gastown.agent.workspace import TwoResults, Workspace

OK_EXIT, INTERNAL_EXIT = 0, 1
DISK_FULL, STOPPED_OUTSIDE = "disk_full", "stopped_outside"  # FailureCodes
STOP_REPORT_S = 5.0  # for the report of an attempt that is stopped: somebody waits for it to end
LOGS_S, LATE_LOGS_S = 5.0, 120.0  # for the last output to arrive before `done`, and after it
EARLIER_S = 60.0  # for a superseded attempt in another container to hear of it, save its work and end
CANDIDATE_PUSH_S, WIP_PUSH_S, STOPPED_PUSH_S = 120.0, 30.0, 3.0  # for the remote to take what the mirror has


class Supervision:
    """One attempt. Main thread: the sequence and all work on the worktree. Others: heartbeats, output, pushes."""

    assignment: Assignment

    def __init__(self, launch: Launch, files: RunFiles) -> None:
        self.launch, self.files, self.home = launch, files, Path(launch.home)
        self.signals = Signals()
        self.signals.install()
        processes.become_subreaper()
        self.spool = Spool(files.spool)
        self.client = self._new_client()
        self.announced = Announced()
        self.relay = Relay(files.socket, self._new_client(), self.announced, self._fence, journal.note)
        self.keeper = Keeper(files.login, launch.git_token) if launch.git_token else None
        self.heart = Heart(self._new_client(), self.announced, self._fence, self.signals.ask, journal.note)
        self.announced.on_news = self.heart.tell
        self.heart.output_total = lambda: self.spool.total
        self.sender = Sender(self.spool, self._new_client(), self._fence)
        self.tree = Tree(launch.dispatch_id)
        self.workspace: Workspace | None = None
        self.pushes: Pushes | None = None
        self._confine: Callable[[], None] | None = None  # what the agent's processes are kept from
        self._safe = True  # whether the last save worked
        self._exit = OK_EXIT
        self._reporting = False
        self._complained = ""

    def run(self) -> int:
        """The exit code: OK_EXIT, FENCED_EXIT or INTERNAL_EXIT."""
        self.heart.start()
        self.sender.start()
        self.relay.start()
        if self.keeper is not None:
            self.keeper.start()
        if self.launch.disk_mb:
            full = partial(self.signals.ask, DISK_FULL)
            DiskWatch(self.home, self.launch.disk_mb, full).start()
        done = self._attempt()
        if self.signals.fenced:
            journal.note("superseded: the work is saved, nothing is reported")
        elif not self._report(done):
            journal.note(f"could not report {done.outcome}")
        self._clean_up()
        return FENCED_EXIT if self.signals.fenced else self._exit

    def _attempt(self) -> Done:
        """Do the work and save it, however it ends."""
        done = self._try()
        if done.outcome != "succeeded":
            self.heart.phase = "saving"
            self.tree.end()
            done = replace(done, wip_sha=self._save())
        return self.announced.told(done)

    def _try(self) -> Done:
        try:
            with self.signals.interrupting():
                self._get_assignment()
                self._make_workspace()
            self._work()
            return self._offer()
        except Failed as error:
            error = blamed(error, self.home)
            done = Done(outcome="failed", code=error.code, message=str(error), exit_code=error.exit_code)
        except (GitError, OSError) as error:
            journal.note(str(error))
            message = error.reason if isinstance(error, GitError) else str(error)
            done = Done(outcome="failed", code="workspace_failed", message=message)
        except Denied as error:
            journal.note(f"{error}: this attempt's token is not accepted")
            done = Done(outcome="failed", code="workspace_failed", message=str(error))
        except (Interrupted, GaveUp, Fenced):
            code, reason = self.signals.asked or (self._unasked(), "stopped on request")
            done = Done(outcome="failed" if code == DISK_FULL else "stopped", code=code, message=reason)
        except Exception as error:  # noqa: BLE001 - whatever it is, the town must hear of it
            import traceback  # rarely needed, and 10 ms on the way to every agent

            journal.note(traceback.format_exc())
            message = f"the supervisor failed: {type(error).__name__}: {error}"
            done = Done(outcome="failed", code="workspace_failed", message=message)
            self._exit = INTERNAL_EXIT
        return done

    def _unasked(self) -> str:
        """Who told it to stop: one process is like another, unless those in its container cannot."""
        return STOPPED_OUTSIDE if self.launch.shared_home is not None and keeps_signals() else "drained"

    def _get_assignment(self) -> None:
        try:
            answer = self.client.until_answered(
                "GET", "assignment", wait=self.signals.wait, on_failure=self._complain, refusable=True
            )
        except Fenced:
            self.signals.fenced = True
            raise
        except Rejected as error:
            raise Failed("preset_unusable", f"the API cannot make the assignment: {error.words}") from error
        self.assignment = Assignment.from_json(answer)
        self.heart.beat_every(self.assignment.heartbeat_s)

    def _make_workspace(self) -> None:
        given = self.assignment
        end_earlier(self.home, given.bead_id, given.epoch)
        shared_home = Path(self.launch.shared_home) if self.launch.shared_home else None
        if shared_home is not None:
            self._wait_for_earlier()
        mirror = Mirror.open(self.home, given.rig_id, given.repository, shared_home)
        recall(mirror, given.bead_id, given.epoch)
        self.pushes = Pushes(mirror, journal.note)
        for ref in salvage(self.home, mirror, given.bead_id, given.epoch, person_of(given), journal.note):
            self.pushes.start(ref)
        fetch(mirror, given.bead_id, given.previous_epochs, given.base, given.base_ref)
        branch, target = target_of(mirror, given)
        start = starting_point(mirror, given.bead_id, given.epoch, given.base, target, given.base_epoch)
        workspace = Workspace(self.home, mirror, given.bead_id, given.epoch, person_of(given), self.spool.note)
        workspace.make(branch, target, start)
        self.workspace, self.heart.worktree = workspace, workspace.path

    def _wait_for_earlier(self) -> None:
        """Its processes cannot be seen from here; two at one bead's files would each undo what the other writes."""
        deadline = time.monotonic() + EARLIER_S
        while (other := at_work(self.home, self.launch.dispatch_id)) is not None:
            if time.monotonic() > deadline:
                words = f"attempt {other} was superseded, and its container still runs on this machine"
                raise Failed("workspace_failed", f"{words}; stop it: docker stop gastown-{other}")
            self.signals.wait(0.2)

    def _work(self) -> None:
        """Set-up, then the agent. Returns when the agent says that it is done."""
        assert self.workspace is not None
        environment = self._environment()
        setup = Setup(self.home, self.assignment.rig_id, self.assignment.setup, self.workspace.path)
        own = (self.workspace.path, self.home / "homes", setup.cache, self.files.tmp)
        self._confine = confinement_of(self.launch, own)
        self._set_up(setup, environment)
        prompt = write_prompt(self.assignment, self.files)
        if self.signals.ending:
            raise Interrupted
        self.heart.phase = "agent"
        try:
            program = Program(
                command_line(self.assignment, self.files, prompt),
                worktree=self.workspace.path,
                environment=environment,
                prompt=self.files.prompt if self.assignment.prompt_on_stdin else None,
                confine=self._confine,
            )
        except CannotStart as error:
            raise Failed("command_not_found", str(error)) from error
        pump = Pump(program.pipe, self.spool)
        pump.start()
        try:
            self._watch(program)
            finished = self.signals.asked is not None and program.exit_code() == 0  # before it heard of the stop
            if self.signals.stop and not self.signals.fenced and not finished:
                program.terminate()
        finally:
            self.tree.end()
            exit_code = program.reap()
            pump.join(5)
        if self.signals.fenced or (self.signals.stop and not finished):
            raise Interrupted
        if exit_code != 0:
            words = f"{ending('the agent', exit_code)}\n{self.spool.last()}".strip()
            raise self.announced.failed(Failed("agent_failed", words, exit_code))

    def _environment(self) -> dict[str, str]:
        try:
            commands = install_command(self.home)
        except OSError as error:
            journal.note(f"the agent will not find `gastown`: {error}")
            commands = None
        own = {SELF: str(self.files.socket)} if self.relay.listens else {}
        return environment_for(self.assignment, self.launch, self.files, commands) | own

    def _set_up(self, setup: Setup, environment: dict[str, str]) -> None:
        if not setup.needed():
            return
        self.heart.phase = "setup"
        result = setup.run(environment, self._tidying, self.spool.add, self._confine)
        if self.signals.ending:
            raise Interrupted
        if result.exit_code != 0:
            how = "ran out of time" if result.exit_code is None else ending("it", result.exit_code)
            tail = last_lines(result.output.decode(errors="replace").strip(), 2048)
            raise Failed("setup_failed", f"setup `{self.assignment.setup}`: {how}\n{tail}".strip(), result.exit_code)

    def _tidying(self) -> bool:
        """Whether the attempt is to end; asked often while set-up runs, which may leave orphans."""
        self.tree.reap_orphans()
        return self.signals.ending

    def _watch(self, program: Program) -> None:
        """Until the agent ends or is to end. Nothing is polled: a signal wakes the wait."""
        next_save = time.monotonic() + self.assignment.checkpoint_s
        while program.exit_code() is None:
            left = next_save - time.monotonic()
            if self.signals.wait(min(left, Tree.LOOK_EVERY_S) if self.tree.look_again else left):
                return
            self.tree.reap_orphans(program.pid)
            if time.monotonic() >= next_save:
                self._checkpoint()
                next_save = time.monotonic() + self.assignment.checkpoint_s

    def _checkpoint(self) -> None:
        before = self.workspace.wip_sha if self.workspace else None
        sha = self._save()
        if sha and sha != before:
            threading.Thread(target=self._tell_checkpoint, args=(sha,), name="checkpoint", daemon=True).start()

    def _tell_checkpoint(self, sha: str) -> None:
        client = self._new_client()
        try:
            client.until_answered("POST", "checkpoint", Checkpoint(wip_sha=sha).to_json(), within_s=60)
        except Fenced:
            self._fence()
        except (Denied, GaveUp) as error:
            journal.note(f"checkpoint {sha} was not reported: {error}")
        finally:
            client.close()

    def _offer(self) -> Done:
        """Make the candidate of what the agent left."""
        assert self.workspace is not None
        assert self.pushes is not None
        self.heart.phase = "saving"
        trailers = {"Gastown-Bead": self.launch.bead_id, "Gastown-Dispatch": self.launch.dispatch_id}
        try:
            candidate = self.workspace.candidate(self.assignment.title, trailers)
        except TwoResults as error:
            raise Failed("agent_failed", str(error), 0) from error
        if candidate.head_sha != candidate.base_sha:
            self.pushes.start(head_ref(self.launch.bead_id, self.launch.epoch))
        elif self.announced.gave_up:  # exit codes lie: it said that it cannot go on, and there is nothing to show
            raise self.announced.failed(Failed("agent_failed", "the agent changed nothing", 0))
        return Done(outcome="succeeded", base_sha=candidate.base_sha, head_sha=candidate.head_sha, exit_code=0)

    def _save(self) -> str | None:
        """Keep the work; returns the SHA it is under, if there is any."""
        if self.workspace is None or self.pushes is None or not self.workspace.path.is_dir():
            return None
        try:
            if self.workspace.save():
                self.pushes.start(self.workspace.wip_ref)
            self._safe = True
        except (GitError, OSError) as error:
            self._safe = False
            journal.note(f"the work could not be saved, so it stays in {self.workspace.path}: {error}")
            self.spool.note(f"the work could not be saved, so it stays in {self.workspace.path}")
        return self.workspace.wip_sha

    def _report(self, done: Done) -> bool:
        """Send `done` until it is answered; bounded once the attempt is to stop. Refused, it is said in fewer words."""
        done, refused = printable(done), False
        self._wait_for_pushes(done)
        if self.spool.trouble:
            journal.note(f"output was lost: {self.spool.trouble}")
        self.spool.close()
        self.sender.finish(LOGS_S)
        self._reporting = True  # from here on the answer to `done` decides whether we are fenced
        while not self.signals.fenced:
            stopping = self.signals.stop
            try:
                self.client.until_answered(
                    "POST",
                    "done",
                    done.to_json(),
                    within_s=STOP_REPORT_S if stopping else None,
                    on_failure=self._complain,
                    refusable=True,
                    **({} if stopping else {"wait": self.signals.wait}),
                )
            except Fenced:
                self.signals.fenced = True
            except Denied as error:
                journal.note(f"{error}: this attempt's token is not accepted; its work is saved")
                self._exit = INTERNAL_EXIT
                return False
            except Rejected as error:
                journal.note(f"{error}: {'so it stays unreported' if refused else 'trying once more, in fewer words'}")
                if refused:
                    self._exit = INTERNAL_EXIT
                    return False
                done, refused = plain(done), True
            except GaveUp:
                if stopping:
                    return False
            else:
                self.sender.finish(STOP_REPORT_S if stopping else LATE_LOGS_S)
                return True
        return False

    def _wait_for_pushes(self, done: Done) -> None:
        if self.pushes is None:
            return
        limit = CANDIDATE_PUSH_S if done.outcome == "succeeded" else WIP_PUSH_S
        deadline = time.monotonic() + limit
        while not self.pushes.wait(0.5) and time.monotonic() < deadline:
            if self.signals.ending:
                self.pushes.wait(STOPPED_PUSH_S)
                return

    def _clean_up(self) -> None:
        """What is safe in the mirror or sent goes; everything else stays where the next attempt looks for it."""
        self.heart.stop()
        self.relay.close()
        if self.signals.fenced and self.pushes is not None:
            self.pushes.wait(WIP_PUSH_S)
        try:
            if self.workspace is not None and self._safe and self.workspace.path.is_dir():
                self.workspace.remove()
        except (GitError, OSError) as error:
            journal.note(f"the worktree stays: {error}")
        shutil.rmtree(self.files.tmp, ignore_errors=True)
        self.tree.end_everything()
        if not self.sender.is_alive():
            shutil.rmtree(self.files.spool, ignore_errors=True)

    def _fence(self) -> None:
        """Another thread was told 409."""
        if not self._reporting:
            self.signals.fence()

    def _complain(self, error: Exception) -> None:
        if str(error) != self._complained:
            self._complained = str(error)
            journal.note(f"{error}; trying again until it is answered")

    def _new_client(self) -> Client:
        return Client(self.launch.api_url, self.launch.token)
