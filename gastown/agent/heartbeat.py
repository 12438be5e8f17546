"""Heartbeats: that the attempt is alive, and whether it got anywhere since the last one."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gastown.agent.announced import Announced
from gastown.agent.client import Client, Denied, Fenced, Unreachable
from gastown.agent.protocol import HEARTBEAT_S, Heartbeat, HeartbeatAnswer
from gastown.agent.snapshot import EXCLUDED

NEWS_S = 1.0  # at least between two beats that only carry news of the agent's
LOOK_S = 0.02  # spent on looking for changed files, for each heartbeat


class Heart(threading.Thread):
    """Beats at once, then every `every_s`, until stopped. A beat that fails is made up for within seconds."""

    def __init__(
        self,
        client: Client,
        announced: Announced,
        on_fenced: Callable[[], None],
        on_stop: Callable[[str, str], None],
        note: Callable[[str], None],
    ) -> None:
        super().__init__(name="heart", daemon=True)
        self._every_s = HEARTBEAT_S
        self._phase = "workspace"
        self.output_total: Callable[[], int] = lambda: 0
        self.worktree: Path | None = None
        self._client, self._announced, self._note = client, announced, note
        self._on_fenced, self._on_stop = on_fenced, on_stop
        self._ended = False
        self._wake = threading.Event()
        self._urgent = False  # woken by more than news
        self._seen_output = self._seen_steps = 0
        self._changes: Iterator[bool] | None = None

    def run(self) -> None:
        silent_since: float | None = None
        pause = 0.5
        progressed = False
        while not self._ended:
            progressed = self._progressed() or progressed
            try:
                self._beat(progressed)
            except Fenced:
                self._on_fenced()
                return
            except (Unreachable, Denied) as error:
                if silent_since is None:
                    silent_since = time.monotonic()
                    self._note(f"heartbeat: {error}; the attempt goes on and keeps trying")
                self._nap(min(self._every_s, pause) * random.uniform(0.7, 1.3))
                pause = min(self._every_s, pause * 2)
                continue
            if silent_since is not None:
                self._note(f"heartbeat: answered again after {time.monotonic() - silent_since:.0f} s")
            silent_since, pause, progressed = None, 0.5, False
            self._nap(self._every_s)

    def _beat(self, progressed: bool) -> None:
        beat = Heartbeat(
            phase=self.phase,
            progressed=progressed,
            tool_running=self.phase == "agent" and self._announced.tool_running,
            cost_usd=self._announced.cost_usd,
        )
        said = self._client.once("POST", "heartbeat", beat.to_json(), timeout_s=max(2.0, min(15.0, self._every_s)))
        answer = HeartbeatAnswer.from_json(said if isinstance(said, dict) else {})
        if answer.stop:
            self._on_stop(str(answer.stop), str(answer.reason))

    @property
    def phase(self) -> str:
        """workspace, setup, agent or saving; a change of it is told at once."""
        return self._phase

    @phase.setter
    def phase(self, phase: str) -> None:
        if phase != self._phase:
            self._phase = phase
            self._wake_up()

    def stop(self) -> None:
        self._ended = True
        self._wake_up()

    def tell(self) -> None:
        """The agent has said something that the next beat carries: it comes soon."""
        self._wake.set()

    def beat_every(self, seconds: float) -> None:
        if seconds != self._every_s:
            self._every_s = seconds
            self._wake_up()

    def _wake_up(self) -> None:
        self._urgent = True
        self._wake.set()

    def _nap(self, seconds: float) -> None:
        earliest = time.monotonic() + min(seconds, NEWS_S)
        woken = self._wake.wait(seconds)
        self._wake.clear()
        while woken and not self._urgent and (left := earliest - time.monotonic()) > 0:
            woken = self._wake.wait(left)  # more news, or something that is
            self._wake.clear()
        self._urgent = False

    def _progressed(self) -> bool:
        total = self.output_total()
        steps = self._announced.steps
        moved = total != self._seen_output or steps != self._seen_steps
        self._seen_output, self._seen_steps = total, steps
        if moved or self.worktree is None:
            return moved
        if self._changes is None:
            self._changes = look_for_changes(self.worktree, time.time())
        return next(self._changes, False)


def look_for_changes(worktree: Path, since: float) -> Iterator[bool]:
    """Each step looks at files for LOOK_S, going on where the last one ended, for one modified after the last found."""
    stop_at = time.monotonic() + LOOK_S
    while True:
        newest = since
        folders = [os.fspath(worktree)]
        while folders:
            try:
                with os.scandir(folders.pop()) as entries:
                    for entry in entries:
                        newest = max(newest, _modified(entry))
                        if entry.name not in EXCLUDED and entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
            except OSError:
                continue  # it is being changed while we look
            if time.monotonic() > stop_at:
                yield newest > since
                since = newest
                stop_at = time.monotonic() + LOOK_S
        yield newest > since
        since = newest
        stop_at = time.monotonic() + LOOK_S


def _modified(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return 0.0
