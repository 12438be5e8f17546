"""The agent API as an attempt sees it: one connection, a bearer token, and patience.

`http.client` and not httpx: importing httpx takes longer than the rest of the way to the agent's first instruction.
"""

import contextlib
import http.client
import json
import random
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 15.0  # DESIGN 3: API request
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 10.0
_BAD_MESSAGE = (400, 413, 422)


class ApiError(Exception):
    """A call that got no served answer. `status` is 0, and `body` empty, when there was no answer at all."""

    def __init__(self, message: str, *, status: int = 0, body: bytes = b"") -> None:
        super().__init__(message)
        self.status, self.body = status, body


class Fenced(ApiError):
    """409: this attempt was superseded. It can report nothing any more."""


class Denied(ApiError):
    """401 or 403: the token speaks for nobody."""


class Unreachable(ApiError):
    """No answer, or one that promises nothing: the same call may work in a moment."""


class Rejected(Unreachable):
    """The API understood the request and will not have its content, now or later."""

    @property
    def words(self) -> str:
        """What the API says about it, and what to do."""
        said = _problem(self.body)
        parts = [str(said[name]) for name in ("detail", "hint") if said.get(name)]
        return "; ".join(parts) or str(self)


class GaveUp(ApiError):
    """The caller's time for this call is over."""


def _problem(body: bytes) -> dict[str, Any]:
    """RFC 9457, as the API answers; empty for the words of a proxy."""
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _is_final(status: int, body: bytes) -> bool:
    """A 404 is so when the API itself misses a thing; without such a title it is a proxy's, or of an unknown call."""
    return status in _BAD_MESSAGE or (status == 404 and _problem(body).get("title", "refused") != "refused")


def _wait(seconds: float) -> bool:
    time.sleep(seconds)
    return False


class Client:
    """For one thread. `url` is the API's root, such as http://127.0.0.1:8484."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no http(s) URL")
        self._make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port, self._root = parts.hostname, parts.port, parts.path.rstrip("/") + "/agent/v1/"
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._connection: http.client.HTTPConnection | None = None

    def once(self, method: str, call: str, body: Any = None, *, timeout_s: float = TIMEOUT_S) -> Any:
        """One try. Raises Fenced, Denied, Rejected or Unreachable."""
        fresh = self._connection is None
        try:
            status, answer = self._exchange(method, call, body, timeout_s)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if fresh:
                raise Unreachable(f"{call}: {error or type(error).__name__}") from error
            return self.once(method, call, body, timeout_s=timeout_s)  # a kept connection may have been closed
        if status == 409:
            raise Fenced(answer[:500].decode(errors="replace"), status=status, body=answer)
        if status in (401, 403):
            raise Denied(f"{call}: HTTP {status}", status=status, body=answer)
        if not 200 <= status < 300:
            kind = Rejected if _is_final(status, answer) else Unreachable
            words = answer[:300].decode(errors="replace")
            raise kind(f"{call}: HTTP {status} {words}", status=status, body=answer)
        try:
            return json.loads(answer) if answer.strip() else None
        except ValueError as error:
            raise Unreachable(f"{call}: the answer is no JSON: {answer[:100]!r}") from error

    def until_answered(
        self,
        method: str,
        call: str,
        body: Any = None,
        *,
        within_s: float | None = None,
        wait: Callable[[float], bool] = _wait,
        on_failure: Callable[[Exception], None] = lambda error: None,
        refusable: bool = False,
    ) -> Any:
        """Try for ever, or for `within_s`. Raises Fenced, Denied or GaveUp; also GaveUp when `wait` says True.

        `refusable`: raises Rejected too, which is otherwise tried again like no answer.
        """
        end = None if within_s is None else time.monotonic() + within_s
        pause = FIRST_WAIT_S
        while True:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise GaveUp(call)
            try:
                return self.once(method, call, body, timeout_s=TIMEOUT_S if left is None else min(TIMEOUT_S, left))
            except Unreachable as error:
                if refusable and isinstance(error, Rejected):
                    raise
                on_failure(error)
            rest = pause * random.uniform(0.7, 1.3)
            pause = min(LONGEST_WAIT_S, pause * 2)
            if wait(rest if end is None else max(0.0, min(rest, end - time.monotonic()))):
                raise GaveUp(call)

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
            self._connection = None

    def _exchange(self, method: str, call: str, body: Any, timeout_s: float) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = self._make(self._host, self._port, timeout=timeout_s)
        self._connection.timeout = timeout_s
        if self._connection.sock is not None:
            self._connection.sock.settimeout(timeout_s)
        payload = None if body is None else json.dumps(body).encode()
        self._connection.request(method, self._root + call, body=payload, headers=self._headers)
        response = self._connection.getresponse()
        return response.status, response.read()
