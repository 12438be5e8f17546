"""Heartbeats: that the attempt is alive, and whether it got anywhere since the last one."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gastown.agent.client import Client, Denied, Fenced, Unreachable
from gastown.agent.protocol import HEARTBEAT_S, Heartbeat
from gastown.agent.snapshot import EXCLUDED

LOOK_S = 0.02  # spent on looking for changed files, for each heartbeat


class Heart(threading.Thread):
    """Beats at once, then every `every_s`, until stopped. A beat that fails is made up for within seconds."""

    def __init__(self, client: Client, on_fenced: Callable[[], None], note: Callable[[str], None]) -> None:
        super().__init__(name="heart", daemon=True)
        self._every_s = HEARTBEAT_S
        self._phase = "workspace"
        self.output_total: Callable[[], int] = lambda: 0
        self.worktree: Path | None = None
        self._client, self._on_fenced, self._note = client, on_fenced, note
        self._ended = False
        self._wake = threading.Event()
        self._seen_output = 0
        self._changes: Iterator[bool] | None = None

    def run(self) -> None:
        silent_since: float | None = None
        pause = 0.5
        progressed = False
        while not self._ended:
            progressed = self._progressed() or progressed
            try:
                beat = Heartbeat(phase=self.phase, progressed=progressed)
                self._client.once("POST", "heartbeat", beat.to_json(), timeout_s=max(2.0, min(15.0, self._every_s)))
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

    @property
    def phase(self) -> str:
        """workspace, setup, agent or saving; a change of it is told at once."""
        return self._phase

    @phase.setter
    def phase(self, phase: str) -> None:
        if phase != self._phase:
            self._phase = phase
            self._wake.set()

    def stop(self) -> None:
        self._ended = True
        self._wake.set()

    def beat_every(self, seconds: float) -> None:
        if seconds != self._every_s:
            self._every_s = seconds
            self._wake.set()

    def _nap(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()

    def _progressed(self) -> bool:
        total = self.output_total()
        moved, self._seen_output = total != self._seen_output, total
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
