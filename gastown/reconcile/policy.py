"""The numbers of the rules. All times in seconds; DESIGN 4 gives the reasons."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from itertools import pairwise
from typing import Any, Self

LONGEST_S = 10_000_000  # four months: longer waits are typing errors, and overflow a date in the end
ANY_WAIT = (0.05, LONGEST_S)  # a wait of nothing would look again at once, for ever
LIMITS: dict[str, tuple[float, float]] = {
    "max_running": (0, LONGEST_S),  # 0: start nothing
    "rig_max_running": (0, LONGEST_S),
    "backoff_s": (0, LONGEST_S),
    "node_max_running": (1, LONGEST_S),
    "max_agent_failures": (1, LONGEST_S),  # none would fail a bead for the first fault of the machine
    "backoff_jitter": (0, 1),
    "merge_batch": (1, 100),  # a batch is one worktree and one push
    "rework_rounds": (0, 100),
    "landing_attempts": (1, 100),
    "unknown_start_delay_s": (0, LONGEST_S),
    "api_silence_s": (10, LONGEST_S),  # two beats of the API, 5 s each: one may be late
    "node_silence_s": (20, LONGEST_S),  # two beats of a node, 10 s each
    "infra_failing_after": (1, LONGEST_S),
    "town_breaker_failures": (1, LONGEST_S),
    "node_breaker_failures": (1, LONGEST_S),
    "attempt_cap_usd": (0, LONGEST_S),
    "budget_usd_per_day": (0, LONGEST_S),
}


@dataclass(frozen=True, kw_only=True)
class Policy:
    max_running: int = 4  # attempts of a town at the same time; an agent CLI and its tools fill about one core
    rig_max_running: int = 4  # attempts of one rig at the same time
    node_max_running: int = 8  # attempts of all towns on one node; read when its worker starts
    max_agent_failures: int = 5  # attempts that failed by the agent's fault, then the bead fails
    backoff_s: tuple[float, ...] = (0, 30, 60, 120, 300, 600)  # by failed attempts in a row; the first retry is at once
    backoff_jitter: float = 0.1  # drawn once and stored, so that a herd spreads
    republish_s: tuple[float, ...] = (10, 20, 40)  # after it was queued, a start is published again: messages get lost
    queued_timeout_s: float = 120  # no worker took the start: it is rolled back and placed anew
    inspect_start_s: float = 5  # a start that takes longer has its node asked whether it is there
    start_timeout_s: float = 120  # from the claim to the attempt's first call
    unknown_start_delay_s: float = 30  # a start whose end nobody knows may still come up
    heartbeat_s: float = 10  # how often an attempt says that it is alive
    heartbeat_lease_s: float = 45  # four heartbeats and some
    merge_lease_s: float = 45  # a merge worker that is silent for so long is gone; it beats three times as often
    merge_look_s: float = 10  # how soon a merge that waits for the outside is looked at; then less often
    merge_batch: int = 1  # merge requests of one target that are gated together; a red batch is bisected
    rework_rounds: int = 3  # of one merge request, then it fails and a person is asked; 0: a person from the start
    landing_attempts: int = 5  # of one convoy on one rig, then it fails and a person is asked
    api_silence_s: float = 15  # three beats of the API, 5 s each
    node_silence_s: float = 45  # a node that is silent for so long gets no starts; it beats every 10 s
    infra_failing_after: int = 20  # failed attempts of class `infra` in a row: a person is asked
    town_breaker_failures: int = 20  # such failures in a town, with no start between them: nothing is started any more
    town_breaker_window_s: float = 1800  # within which they happen
    town_breaker_probe_s: float = 300  # then one attempt may try whether it works again
    node_breaker_failures: int = 3  # failed starts in a row on a node: nothing is started there for a while
    node_breaker_s: tuple[float, ...] = (60, 120, 300)  # by failed starts beyond that; then one attempt may try
    stall_nudge_s: float = 900  # no output, tool or change in the worktree for so long: it is noted
    stall_escalate_s: float = 3600  # ... a person is asked
    stall_stop_s: float = 7200  # ... the attempt is stopped, and tried again from what it left
    max_runtime_s: float = 14_400  # of one attempt, from its first call
    wrap_up_s: float = 60  # an attempt that was asked to stop has so long to save its work
    attempt_cap_usd: float = 0  # an attempt that reports more is stopped and its bead held; 0: no cap
    budget_usd_per_day: float = 0  # of a town, in any 24 h; each live attempt reserves its cap; 0: no budget
    rate_limit_backoff_s: tuple[float, ...] = (60, 120, 300, 600, 1800)  # when the provider does not say how long
    agent_idle_s: float = 86_400  # an agent that nobody needed for so long is retired
    rule_error_delay_s: float = 30  # before a bead whose rule raised is looked at again

    def __post_init__(self) -> None:
        for each in fields(self):
            self._check(each.name, getattr(self, each.name), each.default)
        for wrong, words in self._misfits():
            if wrong:
                raise ValueError(words)

    def _misfits(self) -> Iterator[tuple[bool, str]]:
        """Numbers that make no sense together, with both values."""
        beat, lease = self.heartbeat_s, self.heartbeat_lease_s
        yield lease < 2 * beat, f"heartbeat_lease_s = {lease} is shorter than two heartbeats of {beat} s"
        for sooner, later in pairwise(("stall_nudge_s", "stall_escalate_s", "stall_stop_s")):
            yield self._above(sooner, later)
        yield self._above("inspect_start_s", "start_timeout_s")
        yield self._above("wrap_up_s", "max_runtime_s")
        again, end = self.republish_s, self.queued_timeout_s
        falls = any(earlier >= later for earlier, later in pairwise(again))
        yield falls, f"republish_s = {list(again)} must rise from each number to the next"
        yield (
            again[-1] >= end,
            f"republish_s = {list(again)} goes on after queued_timeout_s = {end}, when it is given up",
        )
        budget, cap = self.budget_usd_per_day, self.attempt_cap_usd
        capless = (
            f"budget_usd_per_day = {budget} needs attempt_cap_usd, which is {cap}: what may be started is counted by it"
        )
        yield budget > 0 and cap == 0, capless
        above = f"attempt_cap_usd = {cap} is above budget_usd_per_day = {budget}: nothing could ever be started"
        yield 0 < budget < cap, above

    def _above(self, sooner: str, later: str) -> tuple[bool, str]:
        """Whether what has to come first would come later."""
        first, second = getattr(self, sooner), getattr(self, later)
        return first > second, f"{sooner} = {first} must not be more than {later} = {second}"

    @staticmethod
    def _check(name: str, value: Any, default: Any) -> None:
        if isinstance(value, tuple) is not isinstance(default, tuple) or value == ():
            many = "a list of at least one number" if isinstance(default, tuple) else "one number"
            raise ValueError(f"{name} = {value!r} must be {many}")
        least, most = LIMITS.get(name, ANY_WAIT)
        kinds = int if isinstance(default, int) and not name.endswith(("_s", "_usd", "_day")) else (int, float)
        what = "a whole number" if kinds is int else "a number"
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, kinds) or isinstance(number, bool) or not least <= number <= most:
                raise ValueError(f"{name} = {value!r} must be {what} from {least:g} to {most:g}")

    @classmethod
    def of(cls, *overrides: dict[str, Any]) -> Self:
        """The defaults with overrides, later ones first in rank. Raises ValueError for an unknown key or nonsense."""
        given = {key: value for each in overrides for key, value in each.items()}
        merged: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in given.items()
        }
        unknown = merged.keys() - {each.name for each in fields(cls)}
        if unknown:
            raise ValueError(f"there is no policy {', '.join(sorted(unknown))}")
        return replace(cls(), **merged)

    @property
    def rule_error_delay(self) -> timedelta:
        return timedelta(seconds=self.rule_error_delay_s)

    def backoff(self, failures_in_row: int, jitter: float) -> timedelta:
        """How long to wait after that many failed attempts in a row. `jitter` in -1..1 scales `backoff_jitter`."""
        base = self.backoff_s[min(max(failures_in_row, 1), len(self.backoff_s)) - 1]
        return timedelta(seconds=base * (1 + self.backoff_jitter * jitter))
