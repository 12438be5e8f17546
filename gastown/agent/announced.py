"""What the agent says about its own run: what it cost, which tools run, and why it cannot go on.

None of it needs the API at once. Heartbeats carry the cost and the tools, and the report at the end all of it.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from gastown.agent.failures import Failed
from gastown.agent.protocol import COST_USD, Done

TEXT_CHARACTERS = 2000
NAME_CHARACTERS = 200
TOOLS = 1000  # that run at the same time: a loop that never ends them is no tool


@dataclass(frozen=True, kw_only=True)
class Obstacle:
    """Why it cannot go on. Its times are of the supervisor's monotonic clock, unless they say otherwise."""

    code: str  # a FailureCode
    text: str
    retry_at: str | None = None  # as the provider says it: ISO 8601 with a zone
    retry_after_s: float | None = None
    said_at: float = 0.0


class Announced:
    """Of one attempt. The relay's thread writes, those of the heartbeats and of the attempt read."""

    def __init__(self) -> None:
        self.on_news: Callable[[], None] = lambda: None
        self.cost_usd = 0.0
        self.steps = 0  # how often a tool began or ended: a sign of progress
        self._tools: Counter[str] = Counter()
        self._obstacle: Obstacle | None = None
        self._lock = threading.Lock()
        self.calls: dict[str, Callable[[dict[str, Any]], None]] = {
            "cost": self._take_cost,
            "tool": self._take_tool,
            "limit": self._take_limit,
            "locked_out": self._take_locked_out,
        }

    @property
    def tool_running(self) -> bool:
        with self._lock:
            return bool(self._tools)

    def take(self, call: str, body: object) -> None:
        """One of `calls`. Raises ValueError, in words for whoever called."""
        if not isinstance(body, dict):
            raise ValueError("the body of a call is an object")
        with self._lock:
            self.calls[call](body)
        self.on_news()

    def failed(self, usual: Failed) -> Failed:
        """How the attempt failed: by what the agent announced, if it did."""
        found = self._obstacle
        if found is None:
            return usual
        return Failed(found.code, f"{found.text}\n{usual}".strip(), usual.exit_code)

    @property
    def gave_up(self) -> bool:
        return self._obstacle is not None

    def told(self, done: Done) -> Done:
        """The report with what is to be said of the costs, and of the provider's pause."""
        found, done = self._obstacle, replace(done, cost_usd=self.cost_usd)
        if found is None or done.code != found.code:
            return done
        left = found.retry_after_s
        if left is not None:
            left = max(0.0, left - (time.monotonic() - found.said_at))
        return replace(done, retry_at=found.retry_at, retry_after_s=left)

    def _take_cost(self, body: dict[str, Any]) -> None:
        usd = _number(body.get("usd"), "the cost in USD", COST_USD)
        self.cost_usd = max(self.cost_usd, usd)  # it is a total: one that shrinks is an older one

    def _take_tool(self, body: dict[str, Any]) -> None:
        name, step = _text(body.get("name"), "the tool's name")[:NAME_CHARACTERS], body.get("step")
        if step == "begin":
            if self._tools.total() >= TOOLS:
                raise ValueError(f"{TOOLS} tools run already; say when one ends")
            self._tools[name] += 1
        elif step == "end":
            self._tools -= Counter([name])  # one that never began is none
        else:
            raise ValueError("a tool begins or ends")
        self.steps += 1

    def _take_limit(self, body: dict[str, Any]) -> None:
        retry_at, after = body.get("retry_at"), body.get("retry_after_s")
        self._obstacle = Obstacle(
            code="rate_limited",
            text=_text(body.get("text"), "what the provider says"),
            retry_at=None if retry_at is None else _time(retry_at),
            retry_after_s=None if after is None else _number(after, "the pause in seconds", math.inf),
            said_at=time.monotonic(),
        )

    def _take_locked_out(self, body: dict[str, Any]) -> None:
        self._obstacle = Obstacle(code="auth_failed", text=_text(body.get("text"), "what the provider says"))


def _text(value: object, what: str) -> str:
    text = value.replace("\0", "").strip() if isinstance(value, str) else ""
    if not text:
        raise ValueError(f"{what} is missing")
    return text[:TEXT_CHARACTERS]


def _number(value: object, what: str, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} is a number")
    if not 0 <= value <= most:
        raise ValueError(f"{what} is {value}, and may be from 0 to {most:g}")
    return float(value)


def _time(value: object) -> str:
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise ValueError("the end of the pause is a time with a zone, such as 2030-01-31T12:00:00+00:00")
    return at.isoformat()
