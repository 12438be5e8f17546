"""What happens to the containers of attempts: some are killed at random, and the engine says how many there were."""

import json
import random
import subprocess
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from uuid import UUID

from gastown.runtimes import docker_making as making
from gastown.states import DispatchStatus
from tests.docker.engine import NoEngine, environment
from tests.docker.litter import docker

KILL_WITHIN_S = 1.0  # of an attempt's first call: its agent takes longer


class Kills:
    """`docker kill` of so many attempts while they run. A seed chooses the same places in the order of starts."""

    def __init__(self, seed: int, beads: int, kills: int) -> None:
        self._chance = random.Random(seed)
        self._chosen = set(self._chance.sample(range(beads), kills))
        self._seen: set[UUID] = set()
        self._planned: dict[UUID, float] = {}
        self._owed = 0
        self.at: dict[UUID, datetime] = {}  # when each was told to die

    def look(self, attempts: dict[UUID, str]) -> None:
        """Kill what is due. `attempts`: the status of each."""
        for attempt in [each for each in self.at if attempts[each] == DispatchStatus.SUCCEEDED]:
            del self.at[attempt]  # it had reported already, so another one has to go
            self._owed += 1
        for attempt, status in attempts.items():
            if status == DispatchStatus.RUNNING and attempt not in self._seen:
                self._plan(attempt)
        for attempt, at in list(self._planned.items()):
            if time.monotonic() >= at:
                del self._planned[attempt]
                self._kill(attempt)

    def _plan(self, attempt: UUID) -> None:
        chosen = len(self._seen) in self._chosen
        self._seen.add(attempt)
        if not chosen and self._owed:
            self._owed, chosen = self._owed - 1, True
        if chosen:
            self._planned[attempt] = time.monotonic() + self._chance.uniform(0, KILL_WITHIN_S)

    def _kill(self, attempt: UUID) -> None:
        name, now = making.container_name(str(attempt)), datetime.now(UTC)
        assert name is not None
        try:
            docker("kill", name)
            self.at[attempt] = now
        except NoEngine:  # it has ended by itself
            self._owed += 1


class Watched:
    """The starts and ends of a node's attempts, as the engine tells them."""

    def __init__(self, node: str) -> None:
        labels = (f"label={making.NODE}={node}", f"label={making.ROLE}={making.ATTEMPT}")
        filters = [
            word for each in ("type=container", "event=start", "event=die", *labels) for word in ("--filter", each)
        ]
        command = ("docker", "events", "--since", str(int(time.time())), *filters, "--format", "{{json .}}")
        self._process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        self._live: dict[str, str] = {}  # the bead of each container
        self.starts = 0
        self.most = 0  # containers at one time
        self.most_of_bead = 0

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            if event["Action"] == "start":
                self._live[event["id"]] = event["Actor"]["Attributes"][making.BEAD]
                self.starts += 1
            else:
                self._live.pop(event["id"], None)
            self.most = max(self.most, len(self._live))
            self.most_of_bead = max(self.most_of_bead, *Counter(self._live.values()).values(), 0)

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._thread.join()
