"""A command in a container of its own: bounded in time and output, and gone when its worker has read how it ended."""

import select
import struct
import time
from collections.abc import Callable
from typing import Any

from gastown.agent.command import HeadAndTail
from gastown.errors import RuntimeUnavailable
from gastown.runtimes import CommandResult, CommandSpec
from gastown.runtimes import docker_images as images
from gastown.runtimes import docker_making as making
from gastown.runtimes.docker_engine import Engine, EngineSaid
from gastown.runtimes.docker_making import Place
from gastown.runtimes.docker_places import give
from gastown.runtimes.docker_refusals import refusal

POLL_S = 0.1
LOOK_S = 1.0  # how often the engine is asked, besides the stream's end
READ_BYTES = 64 * 1024
LATE_S = 300.0  # after its time, whoever waited for a command is gone
HEADER = struct.Struct(">BxxxL")  # of what an engine sends: which stream, how many bytes


def run(engine: Engine, place: Place, spec: CommandSpec, should_stop: Callable[[], bool] | None) -> CommandResult:
    """As `Runtime.run`. Raises StartRefused when its container cannot be made, RuntimeUnavailable."""
    end_abandoned(engine, place)
    if not spec.cwd.is_dir():
        raise RuntimeUnavailable(f"`{spec.command}` could not be started: there is no directory {spec.cwd}")
    image = images.require(engine, spec.container.image, supervised=False)
    container = _make(engine, place, spec, image)
    kept = HeadAndTail(spec.max_output_bytes)
    try:
        with _Stream(engine, container) as stream:
            _begin(engine, container, spec)
            started = time.monotonic()
            ended = _read_until_ended(engine, container, stream, kept, started + spec.timeout_s, should_stop)
        duration = time.monotonic() - started
        state = _state(engine, container) if ended else {}
    finally:
        engine.remove(container)
    if state.get("OOMKilled"):
        kept.add(f"\n[out of memory: its container may have {spec.container.memory_mb} MB]\n".encode())
    return CommandResult(
        exit_code=int(state["ExitCode"]) if ended else None,
        output=kept.value(),
        duration_s=duration,
        timed_out=not ended and time.monotonic() >= started + spec.timeout_s,
        truncated=kept.left_out > 0,
    )


def end_abandoned(engine: Engine, place: Place) -> None:
    """Remove the commands whose worker died: nobody will read what they say."""
    for found in engine.listed(**{making.HOME: place.mark, making.ROLE: making.GATE}):
        labels = found["Labels"]
        until = labels.get(making.UNTIL, "")
        if making.is_dead(labels.get(making.STARTER, "")) or (until.isdigit() and int(until) < time.time()):
            engine.remove(found["Id"])


def _make(engine: Engine, place: Place, spec: CommandSpec, image: str) -> str:
    try:
        for folder in (*spec.writable, spec.cwd):
            give(folder, place.ids)
    except OSError as error:
        raise RuntimeUnavailable(f"`{spec.command}` could not be started in {spec.cwd}: {error}") from error
    plan = making.gate(
        place,
        spec.container,
        spec.command,
        folder=spec.cwd,
        environment=spec.environment,
        writable=spec.writable,
        readable=[each for each in spec.readable if each.is_dir()],
        until=time.time() + spec.timeout_s + LATE_S,
    )
    try:
        with engine.asked("make a container for a command") as client:
            wanted = making.configuration(client, place, plan, image=image, cpus=engine.cpus)
            return str(client.create_container(**wanted)["Id"])
    except EngineSaid as said:
        raise refusal(said, spec.container.image or "") from said


def _begin(engine: Engine, container: str, spec: CommandSpec) -> None:
    try:
        with engine.asked(f"start `{spec.command}`") as client:
            client.start(container)
    except EngineSaid as said:
        raise refusal(said, spec.container.image or "") from said


def _state(engine: Engine, container: str) -> dict[str, Any]:
    found = engine.look(container)
    if found is None:
        raise RuntimeUnavailable("the container of a command was removed by somebody else as it ended")
    return dict(found["State"])


class _Stream:
    """What a container prints, as it comes."""

    def __init__(self, engine: Engine, container: str) -> None:
        self._line = engine.attached(container, "stdout", "stderr")
        self._pending = bytearray()
        self.open = True

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()

    def read(self, wait_s: float) -> bytes:
        """What came within this time, perhaps nothing; `open` says whether more may come."""
        if not select.select([self._line.socket], [], [], wait_s)[0]:
            return b""
        try:
            data = self._line.socket.recv(READ_BYTES)
        except OSError:
            data = b""
        if not data:
            self.open = False
        self._pending += data
        return self._unpacked()

    def _unpacked(self) -> bytes:
        said = bytearray()
        while len(self._pending) >= HEADER.size:
            length = HEADER.unpack_from(self._pending)[1]
            if len(self._pending) < HEADER.size + length:
                break
            said += self._pending[HEADER.size : HEADER.size + length]
            del self._pending[: HEADER.size + length]
        return bytes(said)


def _read_until_ended(
    engine: Engine,
    container: str,
    stream: _Stream,
    kept: HeadAndTail,
    deadline: float,
    should_stop: Callable[[], bool] | None,
) -> bool:
    """True: it ended by itself. Its output may be at an end before that."""
    next_ask, next_look = 0.0, time.monotonic() + LOOK_S
    while True:
        now = time.monotonic()
        if now >= deadline:
            return False
        if should_stop is not None and now >= next_ask:
            next_ask = now + POLL_S
            if should_stop():
                return False
        if stream.open:
            kept.add(stream.read(min(POLL_S, deadline - now)))
        else:
            time.sleep(min(POLL_S / 4, deadline - now))
        if not stream.open or now >= next_look:
            next_look = now + LOOK_S
            if not _state(engine, container)["Running"]:
                while stream.open and (late := stream.read(0.5)):
                    kept.add(late)
                return True
