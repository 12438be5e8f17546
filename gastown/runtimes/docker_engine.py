"""A Docker Engine as the runtime sees it: every answer, and every lack of one, as an error that says what it proves."""

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from socket import AF_UNIX, SHUT_WR, socket
from typing import Any

from gastown.errors import RuntimeUnavailable

DEFAULT_URL = "unix:///var/run/docker.sock"
TIMEOUT_S = 30.0  # DESIGN 3: runtime call
HINT = "is the Docker Engine up, and may this user use its socket? `docker version` says; setting: docker.url"


class EngineDown(RuntimeUnavailable):
    """The engine was not reached, so it did nothing."""


class EngineSaid(Exception):
    """The engine answered that it did not do it, and why."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words

    @property
    def gone(self) -> bool:
        return self.status == 404

    @property
    def taken(self) -> bool:
        """The name, or the container, is somebody else's at the moment."""
        return self.status == 409


class Engine:
    """Connected on first use, once a process: the worker's pool forks. `url` None: as the docker command finds it."""

    def __init__(self, url: str | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        self._url, self._timeout_s = url, timeout_s
        self._client: Any = None
        self._made_by = 0
        self._facts: dict[str, Any] = {}

    @contextmanager
    def asked(self, for_what: str) -> Iterator[Any]:
        """The SDK's low-level client, for calls inside of the block.

        Raises EngineSaid when it refuses, EngineDown when it was not reached, RuntimeUnavailable without an answer.
        """
        from docker.errors import APIError, DockerException  # 150 ms, which the CLI does not want to wait for
        from requests.exceptions import RequestException

        try:
            yield self._connected()
        except APIError as error:
            words = str(error.explanation or error).strip()
            raise EngineSaid(error.status_code or 500, words) from error
        except (RequestException, DockerException, OSError) as error:
            reason = _reason(error)
            if _not_reached(error):
                raise EngineDown(f"the Docker Engine cannot be reached to {for_what}: {reason}", hint=HINT) from error
            raise RuntimeUnavailable(f"no answer of the Docker Engine to {for_what}: {reason}", hint=HINT) from error

    def _connected(self) -> Any:
        _knock(self._url or os.environ.get("DOCKER_HOST") or DEFAULT_URL)
        if self._client is None or self._made_by != os.getpid():
            from docker import APIClient
            from docker.utils import kwargs_from_env

            found = kwargs_from_env()
            if self._url is not None:
                found["base_url"] = self._url
            self._client = APIClient(**found, version="auto", timeout=self._timeout_s)
            self._made_by = os.getpid()
        return self._client

    def with_timeout(self, seconds: float) -> "Engine":
        """The same engine, over a connection of its own on which each answer may take this long."""
        return Engine(self._url, timeout_s=seconds)

    def close(self) -> None:
        """Its connections; another call makes new ones."""
        if self._client is not None and self._made_by == os.getpid():
            self._client.close()
        self._client = None

    def pulled(self, image: str, within_s: float) -> Iterator[dict[str, Any]]:
        """What the engine says while it pulls. Raises EngineSaid, and RuntimeUnavailable when that takes too long."""
        from docker import auth
        from docker.utils import parse_repository_tag

        name, tag = parse_repository_tag(image)
        deadline = time.monotonic() + within_s
        with self.asked(f"pull {image}") as client:  # not by `client.pull`, which waits for ever
            known = auth.get_config_header(client, auth.resolve_repository_name(name)[0])
            response = client.post(
                f"{client.base_url}/v{client.api_version}/images/create",
                params={"fromImage": name, "tag": tag or "latest"},
                headers={"X-Registry-Auth": known} if known else {},
                stream=True,
                timeout=within_s,
            )
            if response.status_code >= 400:
                raise EngineSaid(response.status_code, str(response.json().get("message", response.text)))
            for line in response.iter_lines():
                if time.monotonic() > deadline:
                    response.close()
                    raise RuntimeUnavailable(f"it takes longer than {within_s:.0f} s")
                if line:
                    yield json.loads(line)

    def age_s(self, created: str) -> float:
        """Of a container, by the engine's own clock: that of another machine may be off."""
        now = self._fresh_facts().get("SystemTime", created)
        return (_time(now) - _time(created)).total_seconds()

    def facts(self) -> dict[str, Any]:
        """What the engine says of itself (`docker info`), asked once."""
        if not self._facts:
            self._facts = self._fresh_facts()
        return self._facts

    def _fresh_facts(self) -> dict[str, Any]:
        with self.asked("say what it is") as client:
            return dict(client.info())

    @property
    def cpus(self) -> int:
        return int(self.facts().get("NCPU") or 1)

    def attached(self, container: str, *streams: str) -> "Line":
        """Raises EngineSaid, RuntimeUnavailable."""
        with self.asked(f"attach to {container}") as client:
            return Line(client.attach_socket(container, {"stream": 1, **dict.fromkeys(streams, 1)}))

    def look(self, container: str) -> dict[str, Any] | None:
        """`docker inspect`. None: there is no such container."""
        try:
            with self.asked(f"look at {container}") as client:
                return dict(client.inspect_container(container))
        except EngineSaid as said:
            if said.gone:
                return None
            raise unexpected(said, f"look at {container}") from said

    def remove(self, container: str) -> None:
        """Kill and remove it; returns when it is gone. Raises RuntimeUnavailable when it does not go."""
        try:
            with self.asked(f"remove {container}") as client:
                client.remove_container(container, force=True, v=True)
        except EngineSaid as said:
            if not said.gone and not (said.taken and "already in progress" in said.words):
                raise unexpected(said, f"remove {container}") from said

    def listed(self, **labels: str) -> list[dict[str, Any]]:
        """Every container with these labels, running or not."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        try:
            with self.asked("list containers") as client:
                return list(client.containers(all=True, filters={"label": wanted}))
        except EngineSaid as said:
            raise unexpected(said, "list containers") from said

    def output(self, container: str, *, lines: int = 20) -> str:
        """The end of what it printed; empty when that is not to be had."""
        try:
            with self.asked(f"read the output of {container}") as client:
                said = client.logs(container, stdout=True, stderr=True, tail=lines)
        except (EngineSaid, RuntimeUnavailable):
            return ""
        return bytes(said).decode(errors="replace").strip()[-2000:]


class Line:
    """A connection to the standard streams of a container."""

    def __init__(self, sdks: Any) -> None:
        self._sdks = sdks
        self.socket = getattr(sdks, "_sock", sdks)

    def close(self) -> None:
        """Which ends the container's standard input, if that was attached."""
        with suppress(OSError):
            self.socket.shutdown(SHUT_WR)  # at once, whoever else may hold it open
        for part in (getattr(self._sdks, "_response", None), self._sdks):
            with suppress(OSError, ValueError):  # the one closes the other
                if part is not None:
                    part.close()


def unexpected(said: EngineSaid, for_what: str) -> RuntimeUnavailable:
    return RuntimeUnavailable(f"the Docker Engine could not {for_what}: {said.words}", hint=HINT)


def _knock(url: str) -> None:
    """Raises OSError when nobody listens at a socket of this machine. The SDK would say so in three pairs of brackets,
    and leave a socket open."""
    if url.startswith("unix://"):
        with socket(AF_UNIX) as door:
            door.settimeout(TIMEOUT_S)
            door.connect(url.removeprefix("unix://"))


def _time(text: str) -> datetime:
    """Go writes nanoseconds."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text).replace("Z", "+00:00"))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, and what is wrapped in its arguments."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        inner = [arg for arg in (*each.args, getattr(each, "reason", None)) if isinstance(arg, BaseException)]
        todo += [each.__cause__, each.__context__, *inner]


def _not_reached(error: BaseException) -> bool:
    """Whether the connection itself failed. One that broke, or that nobody answered, may have carried the request."""
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    never = (ConnectionRefusedError, FileNotFoundError, PermissionError, NewConnectionError, ConnectTimeoutError)
    return any(isinstance(each, never) for each in _chain(error))


def _reason(error: BaseException) -> str:
    """The innermost words: the outer ones repeat them in three pairs of brackets."""
    words = [str(each).strip() for each in _chain(error) if isinstance(each, OSError) and each.strerror]
    return words[-1] if words else f"{type(error).__name__}: {str(error).strip()[:300]}"
