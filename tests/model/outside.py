"""What the product reaches out to, as the history says it behaves: broker, runtime and repository.

`boxes` are the containers, by the number of their dispatch; a start in doubt is in `late`, and may still come up.
"""

from collections.abc import Callable
from typing import Any

import pytest

from gastown.celery_app import app
from gastown.db import in_transaction
from gastown.errors import RuntimeUnavailable, StartRefused
from gastown.refinery import merging
from gastown.runtimes import Handle, RunSpec, Status, registry
from gastown.tasks import containers, merge
from tests.model.threads import at_gate, stepper

ALIVE = ("up", "work", "permitted", "pushed", "hung")
Message = tuple[str, int]
KINDS = {"gastown.start_container": "start", "gastown.stop_container": "stop"}
MERGED = "c" * 40


class Outside:
    """`numbers` of dispatches are in order of their making, as the specification counts them."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.boxes: list[str] = []
        self.late: set[int] = set()
        self.messages: set[Message] = set()
        self.targets: dict[str, int] = {}  # bead: the dispatch whose head its target has
        self.listed: list[str] = []  # what the runtime lists
        self.can_be_inspected = False  # as a whole: else only a start looks at its own container

    def number(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers))

    # --- the broker

    def send_task(self, name: str, args: tuple[Any, ...] = (), **_: Any) -> None:
        """Pokes, inspections and requests to merge are dropped: the history says when those happen."""
        if name in KINDS:
            self.messages.add((KINDS[name], self.number(str(args[0]))))

    def send_task_message(self, _: Any, name: str, message: Any, **__: Any) -> None:
        self.send_task(name, message.body[0])

    # --- the runtime

    def start(self, spec: RunSpec) -> Handle | None:
        mine, number = stepper(), self.number(spec.name)
        assert mine is not None
        outcome = mine.wait("call")
        if outcome in ("accepted", "start_raises_late", "answer_lost") and self.boxes[number] == "absent":
            self.boxes[number] = "up"
        if outcome == "late_start":
            self.late.add(number)
        if outcome == "accepted":
            mine.gate = "finish"
            return Handle(name=spec.name, pid=1)
        mine.gate = "rollback"
        if outcome == "start_refused":
            return None
        if outcome == "start_refused loudly":
            raise StartRefused("no such image")
        raise TimeoutError("no answer") if outcome == "answer_lost" else RuntimeUnavailable("process")

    def inspect(self, name: str) -> Status:
        mine, number = stepper(), self.number(name)
        if mine is None or mine.kind != "start":
            if not self.can_be_inspected:
                raise RuntimeUnavailable("process")
            return Status(present=self.boxes[number] in ALIVE)
        if mine.wait("inspect") == "unreachable":
            raise RuntimeUnavailable("process")
        present = self.boxes[number] in ALIVE
        mine.gate = "finish" if present else "rollback"
        return Status(present=present)

    def stop(self, name: str, *, grace_s: float) -> None:
        mine, number = stepper(), self.number(name)
        assert mine is not None
        mine.wait("kill")
        self.leave(number)

    def list_names(self) -> list[str]:
        return self.listed

    def leave(self, number: int) -> None:
        if self.boxes[number] in ALIVE:
            self.boxes[number] = "gone"

    # --- the repository

    def prepare(self, job: merging.MergeJob, *_: Any) -> merging.Prepared:
        mine = stepper()
        assert mine is not None
        mine.wait("fence")
        return merging.Prepared(merge_sha=MERGED, base_sha="b" * 40, expected_sha="b" * 40)

    def push(self, job: merging.MergeJob, *_: Any) -> merging.Pushed:
        mine = stepper()
        assert mine is not None
        mine.wait("push")
        self.targets[job.bead_id] = self.number(job.dispatch_id)
        mine.gate = "record"
        return merging.Pushed()

    def land(self, job: merging.MergeJob, _sha: str) -> merging.Pushed:
        """A push that an earlier worker had begun: it has the right to, so the fence is a step of nothing."""
        mine = stepper()
        assert mine is not None
        mine.wait("fence")
        return self.push(job)

    def contains(self, job: merging.MergeJob, _sha: str) -> bool:
        mine = stepper()
        assert mine is not None
        there = self.targets.get(job.bead_id) == self.number(job.dispatch_id)
        mine.gate = "record" if there else None
        return there

    def release(self, job: merging.MergeJob) -> None:
        """There is no worktree."""


def gated(work: Callable[[Any], Any]) -> Any:
    at_gate()
    return in_transaction(work)


def take_place(outside: Outside, patch: pytest.MonkeyPatch) -> None:
    """From now on the product meets this outside, and its tasks stop at their steps."""
    patch.setattr(registry, "get", lambda name: outside)  # not through its cache, which would outlive the test
    patch.setattr(app, "send_task", outside.send_task)
    patch.setattr(app.amqp, "send_task_message", outside.send_task_message)
    for name in ("prepare", "push", "land", "contains", "release"):
        patch.setattr(merging, name, getattr(outside, name))
    patch.setattr(containers, "in_transaction", gated)
    patch.setattr(merge, "in_transaction", gated)
