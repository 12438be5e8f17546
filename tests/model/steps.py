"""Each step of the specification, by its label, done by the product."""

import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from gastown.errors import Refused
from gastown.tasks import containers
from gastown.tasks.merge import merge
from tests.model.outside import ALIVE
from tests.model.states import State, observe
from tests.model.threads import Stepper
from tests.model.town import ModelTown
from tests.model.walks import REFUSED
from tests.ticks import with_hooks

CALLS_THEN = {"assignment": "work", "permit": "permitted", "done": "gone"}


class Diverged(AssertionError):
    """The product did something else than the specification, or refused what it allows."""


class Player:
    """Plays labels on a town. `steppers` are the tasks that are in the middle of something."""

    def __init__(self, town: ModelTown) -> None:
        self.town, self.outside = town, town.outside
        self.steppers: list[Stepper] = []

    def play(self, label: str, variant: str | None = None) -> State:
        """Do it; the state of the product afterwards. `variant`: which of several ways that look alike."""
        if label.startswith(REFUSED):
            with suppress(Diverged):
                self.play(label.removeprefix(REFUSED))
            return self.state()
        for pattern, do in GRAMMAR:
            found = pattern.fullmatch(label)
            if found:
                do(self, *found.groups(), variant)  # type: ignore[arg-type]
                self._forget_finished()
                return observe(self.town, self.steppers)
        raise LookupError(f"nothing is known of the step {label!r}")

    def state(self) -> State:
        return observe(self.town, self.steppers)

    def _forget_finished(self) -> None:
        self.steppers = [each for each in self.steppers if each.at is not None]

    def _expect(self, what: str, expected: str, found: str) -> None:
        if expected != found:
            raise Diverged(f"{what}: the specification says {expected}, the product {found}")

    def end(self) -> None:
        """Nothing stays in the middle of something."""
        for each in self.steppers:
            each.go_on(None)
        self._forget_finished()

    # --- the reconciler, the broker, the workers

    def tick(self, bead: str, verb: str, rest: str | None, unpublished: str | None, variant: str | None) -> None:
        self.town.decide(int(bead), verb, (rest or "").split(), variant, publish=unpublished is None)

    def lose(self, kind: str, number: str, variant: str | None) -> None:
        self.outside.messages.discard((kind, int(number)))

    def held_up(self, number: str, answer: str, variant: str | None) -> None:
        self.outside.messages.discard(("beat", int(number)))
        self._expect("the held-up heartbeat", answer, self.town.call(int(number), "heartbeat"))

    def take(self, copy: str | None, kind: str, number: str, variant: str | None) -> None:
        if copy is None:
            self.outside.messages.discard((kind, int(number)))
        key = self.town.dispatch(int(number))
        if kind == "start":
            work = partial(with_hooks, containers.start_container, str(key))
        else:
            work = partial(containers.stop_container, str(key))
        self.steppers.append(Stepper(kind, int(number), work).begin())

    def _stepper(self, kind: str, number: str, at: str) -> Stepper:
        for each in self.steppers:
            if (each.kind, each.number, each.at) == (kind, int(number), at):
                return each
        raise Diverged(f"nobody is at {at} of {kind}({number}): {self.state()[-1]}")

    def die(self, kind: str, number: str, at: str, variant: str | None) -> None:
        mine = self._stepper(kind, number, at)
        if variant == "unreachable":  # nothing is known then either, and the task says so
            mine.go_on("unreachable")
            return
        mine.go_on(None)
        if variant == "seen by its parent":
            key = str(self.town.dispatch(int(number)))
            containers.start_died(containers.start_container, Exception("killed"), (key,))

    def work(self, kind: str, number: str, at: str, outcome: str, variant: str | None) -> None:
        mine = self._stepper(kind, number, at)
        mine.go_on(variant or outcome)
        then = {"so finish": "finish", "so rollback": "rollback", "not ours any more": "kill"}.get(outcome)
        if at == "call":
            then = {"accepted": "finish", "start_refused": "rollback"}.get(outcome, "inspect")
        self._expect(f"after {at} of {kind}({number})", str(then), str(mine.at))

    def come_up(self, number: str, variant: str | None) -> None:
        self.outside.late.discard(int(number))
        if self.outside.boxes[int(number)] in ("absent", "gone"):
            self.outside.boxes[int(number)] = "up"

    def sweep(self, number: str, variant: str | None) -> None:
        """The node lists what runs; this one is among it."""
        self.outside.listed = [str(self.town.dispatch(int(number)))]
        containers.inspect_containers(self.town.node, True)

    # --- containers

    def call(self, number: str, what: str, answer: str, rest: str | None, variant: str | None) -> None:
        found = self.town.call(int(number), what)
        if found == "409":
            self.outside.leave(int(number))
        elif rest != ", answer lost" and what in CALLS_THEN:
            self.outside.boxes[int(number)] = CALLS_THEN[what]
        self._expect(f"{what} of {number}", answer, found)

    def push_ref(self, number: str, variant: str | None) -> None:
        self.outside.boxes[int(number)] = "pushed"

    def report_failure(self, number: str, answer: str, variant: str | None) -> None:
        found = self.town.call(int(number), "failed")
        self.outside.boxes[int(number)] = "gone"
        self._expect(f"failure of {number}", answer, found)

    def ill(self, number: str, what: str, variant: str | None) -> None:
        if what == "late_heartbeat":
            self.outside.messages.add(("beat", int(number)))
        elif self.outside.boxes[int(number)] in ALIVE:
            self.outside.boxes[int(number)] = {"container_dies": "gone", "container_hangs": "hung"}[what]

    # --- merges and people

    def merge_start(self, number: str, step: str, variant: str | None) -> None:
        request = self.town.request_of(int(number)).id
        mine = Stepper("merge", int(number), lambda: merge(request)).begin()
        self.steppers.append(mine)
        self._expect(f"merge of {number}", step, str(mine.at))

    def merge_die(self, number: str, at: str, variant: str | None) -> None:
        self._stepper("merge", number, at).go_on(None)

    def merge_go_on(self, number: str, done: str, variant: str | None) -> None:
        at = {"gates pass": "fence", "pushed to target": "push", "recorded": "record"}[done]
        self._stepper("merge", number, at).go_on(done)

    def user(self, what: str, number: str, variant: str | None) -> None:
        do: Callable[[int], None] = self.town.cancel if what == "cancels" else self.town.retry
        try:
            do(int(number))
        except Refused as error:
            raise Diverged(f"refused: {error}") from error


GRAMMAR: list[tuple[re.Pattern[str], Callable[..., None]]] = [
    (re.compile(pattern), do)
    for pattern, do in [
        (r"tick on bead (\d+): (\w+)((?: \w+)*)(, dies before publishing)?", Player.tick),
        (r"broker loses (\w+)\((\d+)\)", Player.lose),
        (r"held-up heartbeat of (\d+) arrives: (.*)", Player.held_up),
        (r"a worker takes (a copy of )?(\w+)\((\d+)\)", Player.take),
        (r"worker (\w+)\((\d+)\) dies before (\w+)", Player.die),
        (r"worker (\w+)\((\d+)\) (\w+): (.*)", Player.work),
        (r"late start of (\d+) is carried out", Player.come_up),
        (r"sweep finds orphan (\d+)", Player.sweep),
        (r"container (\d+) calls (\w+): (ok again|ok|409)(, .*)?", Player.call),
        (r"container (\d+) pushes its ref", Player.push_ref),
        (r"container (\d+) reports failure: (.*)", Player.report_failure),
        (r"container (\d+): (\w+)", Player.ill),
        (r"merge of (\d+) starts, next (\w+)", Player.merge_start),
        (r"merge of (\d+) dies before (\w+)", Player.merge_die),
        (r"merge of (\d+): (.*)", Player.merge_go_on),
        (r"user (\w+) bead (\d+)", Player.user),
    ]
]
