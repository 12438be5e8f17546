"""Attempts as containers of a Docker Engine: each with a supervisor as process 1, and only its bead's home to write to.

A container is found again by its name, which is the attempt's. That it ended is proof that nothing of it runs.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gastown.agent.protocol import Launch
from gastown.agent.runs import RunFiles
from gastown.errors import RuntimeUnavailable, StartRefused
from gastown.runtimes import CommandResult, CommandSpec, Handle, RunSpec, Status
from gastown.runtimes import docker_gates as gates
from gastown.runtimes import docker_images as images
from gastown.runtimes import docker_making as making
from gastown.runtimes.docker_engine import TIMEOUT_S, Engine, EngineDown, EngineSaid, unexpected
from gastown.runtimes.docker_making import Place
from gastown.runtimes.docker_places import bead_home, give
from gastown.runtimes.docker_refusals import is_disk_full, refusal

START_TIMEOUT_S = 30.0  # for the supervisor to be on record
UNSTARTED_S = 10.0  # after that nobody is about to start what was made: who inspects does so after the call of a start
POLL_S, LOOK_S = 0.005, 0.2
ENDED = ("exited", "dead", "removing")


class DockerRuntime:
    """`home` is GASTOWN_HOME, at the same path on the host of the engine."""

    def __init__(
        self,
        home: Path,
        *,
        node: str = "local",
        url: str | None = None,
        user: str | None = None,
        network: str = "bridge",
        command: Sequence[str] = making.COMMAND,
    ) -> None:
        self._place = Place(home=home.absolute(), node=node, user=user, network=network)
        self._command = tuple(command)
        self.engine = Engine(url)

    def start(self, spec: RunSpec) -> Handle | None:
        name = making.container_name(spec.name)
        if name is None:
            raise StartRefused(f"{spec.name!r} is no name for an attempt")
        home = self._bead_home(spec)
        if RunFiles(home, spec.name).supervisor() is not None:  # it had its start, and its container may be gone
            return Handle(spec.name)
        image = images.require(self.engine, spec.container.image, supervised=True)
        made = self._make(name, spec, home, image)
        if made is None:
            return self._other(name, spec)
        return self._begin(made, spec, home)

    def inspect(self, name: str) -> Status:
        container = making.container_name(name)
        found = None if container is None else self.engine.look(container)
        if found is None or not self._is_ours(found, name):
            return Status(present=False)
        state = found["State"]
        if state["Status"] == "created":
            if not self._is_abandoned(found):
                return Status(present=True)  # somebody is about to start it
            self.engine.remove(found["Id"])
            return Status(present=False)
        if state["Status"] in ENDED:
            return Status(present=False, exit_code=state.get("ExitCode"), oom=bool(state.get("OOMKilled")))
        return Status(present=True)

    def stop(self, name: str, *, grace_s: float) -> None:
        container = making.container_name(name)
        found = None if container is None else self.engine.look(container)
        if found is None or not self._is_ours(found, name):
            return
        if found["State"]["Status"] in ("running", "restarting") and grace_s > 0:
            self._ask_to_end(found["Id"], grace_s)
        self.engine.remove(found["Id"])
        deadline = time.monotonic() + TIMEOUT_S
        while self.engine.look(found["Id"]) is not None:  # somebody else removes it too
            if time.monotonic() > deadline:
                raise RuntimeUnavailable(f"the container of {name} was removed and does not go")
            time.sleep(0.02)

    def list_names(self) -> list[str]:
        """Those whose container is there: it stays after the end, for its exit code, until it is stopped."""
        found = self.engine.listed(**{making.HOME: self._place.mark, making.ROLE: making.ATTEMPT})
        names = {str(each["Labels"].get(making.DISPATCH, "")) for each in found}
        return sorted(name for name in names if making.container_name(name) is not None)

    def run(self, spec: CommandSpec, *, should_stop: Callable[[], bool] | None = None) -> CommandResult:
        return gates.run(self.engine, self._place, spec, should_stop)

    def _bead_home(self, spec: RunSpec) -> Path:
        try:
            home = bead_home(self._place.home, spec.bead_id)
            give(home, self._place.ids)
        except (OSError, ValueError) as error:
            hint = f"look at {self._place.home}: space, permissions"
            raise StartRefused(f"there is no place for {spec.bead_id}: {error}", hint=hint) from error
        return home

    def _make(self, name: str, spec: RunSpec, home: Path, image: str) -> str | None:
        """The id of the new container. None: there is one of that name. Nothing runs before it is started."""
        mirror = self._place.home / "mirrors" / f"{spec.rig_id}.git"
        plan = making.attempt(self._place, spec, home, mirror, self._command)
        try:
            with self.engine.asked(f"make {name}") as client:
                wanted = making.configuration(client, self._place, plan, image=image, cpus=self.engine.cpus)
                return str(client.create_container(name=name, **wanted)["Id"])
        except EngineSaid as said:
            if said.taken:
                return None
            raise refusal(said, spec.container.image or "") from said
        except RuntimeUnavailable as error:
            self._unmake(name)
            raise StartRefused(str(error), hint=error.hint) from error

    def _unmake(self, name: str) -> None:
        """It may have been made, with the answer lost. If it stays, it is nothing that runs: the sweep removes it."""
        with contextlib.suppress(RuntimeUnavailable):
            found = self.engine.look(name)
            if found is not None and (found["Config"].get("Labels") or {}).get(making.STARTER) == making.me():
                self.engine.remove(found["Id"])

    def _other(self, name: str, spec: RunSpec) -> Handle:
        """Of somebody else's start of the same attempt, once that has begun it."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            found = self.engine.look(name)  # None: its name is taken before it can be seen
            if found is not None and not self._is_ours(found, spec.name):
                raise StartRefused(
                    f"there is a container {name} that is not of this installation",
                    hint=f"docker inspect {name} says what it is; docker rm {name} makes room",
                )
            if found is not None and found["State"]["Status"] != "created":
                return Handle(spec.name)
            time.sleep(0.02)
        raise RuntimeUnavailable(f"another start of {spec.name} does not get on")

    def _begin(self, container: str, spec: RunSpec, home: Path) -> Handle:
        """Start it, and tell it who it is. If that is cut short, its standard input ends, and with that it does."""
        launch = json.dumps(self._launch(spec, home).to_json()).encode()
        try:
            line = self.engine.attached(container, "stdin")
        except (EngineSaid, RuntimeUnavailable) as error:
            self._unmake(container)
            raise StartRefused(f"its container could not be attached to: {error}") from error
        try:
            self._start_container(container, spec)
            line.socket.sendall(launch)
        except OSError as error:
            reason = StartRefused(f"its container did not take what it has to know: {error}")
            raise self._undone(container, reason) from error
        finally:
            line.close()
        return self._acknowledged(container, spec, home)

    def _launch(self, spec: RunSpec, home: Path) -> Launch:
        return Launch(
            dispatch_id=spec.name,
            bead_id=spec.bead_id,
            epoch=spec.epoch,
            api_url=spec.api_url,
            home=str(home),
            token=spec.token,
            shared_home=str(self._place.home),
            network=spec.container.network,
            disk_mb=spec.container.disk_mb,
            git_token=spec.git_token,
        )

    def _start_container(self, container: str, spec: RunSpec) -> None:
        """Raises StartRefused when it was not started, RuntimeUnavailable when nobody knows."""
        try:
            with self.engine.asked(f"start the container of {spec.name}") as client:
                client.start(container)
        except EngineDown as error:
            raise StartRefused(str(error), hint=error.hint) from error
        except EngineSaid as said:
            found = self.engine.look(container)
            if found is not None and found["State"]["Status"] != "created":
                raise unexpected(said, f"start the container of {spec.name}") from said
            raise self._undone(container, refusal(said, spec.container.image or "")) from said

    def _undone(self, container: str, refused: StartRefused) -> Exception:
        """The refusal, once the container is gone; what could not be removed may yet run."""
        try:
            self.engine.remove(container)
        except RuntimeUnavailable as error:
            return error
        return refused

    def _acknowledged(self, container: str, spec: RunSpec, home: Path) -> Handle:
        """Wait until the supervisor is on record: from then on it is an attempt, and finds its own way."""
        files = RunFiles(home, spec.name)
        deadline, next_look = time.monotonic() + START_TIMEOUT_S, time.monotonic() + LOOK_S
        while files.supervisor() is None:
            now = time.monotonic()
            if now > deadline:
                raise RuntimeUnavailable(f"the supervisor of {spec.name} said nothing for {START_TIMEOUT_S:.0f} s")
            if now > next_look:
                next_look = now + LOOK_S
                found = self.engine.look(container)
                if (found is None or found["State"]["Status"] in ENDED) and files.supervisor() is None:
                    raise self._stillborn(container, found)
            time.sleep(POLL_S)
        return Handle(spec.name)

    def _stillborn(self, container: str, found: dict[str, Any] | None) -> Exception:
        if found is None:
            return StartRefused("its container was removed as it started")
        code, oom = found["State"].get("ExitCode"), found["State"].get("OOMKilled")
        said = self.engine.output(container)
        how = f"out of memory (exit code {code})" if oom else f"with exit code {code}"
        what = f"the supervisor did not start, and ended {how}: {said or 'it said nothing'}"
        hint = f"make room on the node's disk: df {self._place.home}" if is_disk_full(said) else ""
        return self._undone(container, StartRefused(what, hint=hint))

    def _is_ours(self, found: dict[str, Any], name: str) -> bool:
        labels = found["Config"].get("Labels") or {}
        return labels.get(making.DISPATCH) == name and labels.get(making.HOME) == self._place.mark

    def _is_abandoned(self, found: dict[str, Any]) -> bool:
        labels = found["Config"].get("Labels") or {}
        made = self.engine.age_s(found["Created"])
        return making.is_dead(labels.get(making.STARTER, "")) or made > UNSTARTED_S

    def _ask_to_end(self, container: str, grace_s: float) -> None:
        """SIGTERM, and SIGKILL after the grace."""
        try:
            with self.engine.asked(f"stop {container}") as client:
                client.stop(container, timeout=math.ceil(grace_s))  # the SDK adds that to its own time limit
        except EngineSaid as said:
            if not said.gone and said.status != 304:
                raise unexpected(said, f"stop {container}") from said
