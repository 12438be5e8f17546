"""Actors: whatever is under way at one moment, each in a thread of its own, of which exactly one runs at a time.

An actor runs until it comes to a place where the world could do something else in between: before a transaction, before
a message is published, before and after a call of the outside. There it hands the baton back and waits to be resumed,
with one of the outcomes that it offered, or killed.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

GO = "go"


class Killed(BaseException):
    """The process that this actor stands for was killed. No `except Exception` of the product gets hold of it."""


@dataclass(frozen=True)
class Option:
    """One way in which a call of the outside may go. Faults have a small weight, or none while faults are off."""

    name: str
    weight: float = 1.0
    fault: bool = False


PLAIN = (Option(GO),)


class Actor:
    """One task, call or command under way. Only `Stage` touches its thread."""

    def __init__(self, stage: "Stage", name: str, work: Callable[[], Any], *, home: Any = None) -> None:
        self.stage, self.name, self.home = stage, name, home
        self.options: tuple[Option, ...] = PLAIN
        self.where = "begins"
        self.chosen = GO
        self.pause_in: int | None = None  # statements until it pauses within a transaction
        self.in_transaction = False
        self.began_at_step = 0  # of its present transaction
        self.paused_at: Any = None
        self.done = self.killed = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.on_end: Callable[[Actor], None] | None = None
        self._work = work
        self._go = threading.Lock()
        self._go.acquire()
        self._thread: threading.Thread | None = None

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self.killed:
                self.result = self._work()
        except BaseException as error:  # noqa: BLE001 (it is kept, and judged by the world)
            self.error = error
        finally:
            self.done = True
            self.stage.baton.release()


class Stage:
    """Hands the baton to one actor at a time and takes it back."""

    def __init__(self) -> None:
        self.baton = threading.Lock()
        self.baton.acquire()
        self.current: Actor | None = None
        self.actors: dict[str, Actor] = {}

    def add(self, name: str, work: Callable[[], Any], *, home: Any = None) -> Actor:
        """A new actor. A name that is taken gets a number, so that a label always means one actor."""
        unique, number = name, 1
        while unique in self.actors:
            number += 1
            unique = f"{name} #{number}"
        actor = self.actors[unique] = Actor(self, unique, work, home=home)
        return actor

    def resume(self, actor: Actor, chosen: str, pause_in: int | None = None) -> None:
        """Let it run to its next pause, or its end."""
        actor.chosen, actor.pause_in = chosen, pause_in
        self._hand_over(actor)

    def kill(self, actor: Actor) -> None:
        """It never gets any further: what it has open is rolled back, as Postgres does for a process that is gone."""
        actor.killed = True
        if actor._thread is None:
            actor.done = True
            del self.actors[actor.name]
            return
        while not actor.done:  # something of the product's may pause once more on the way out; it may not
            self._hand_over(actor)

    def _hand_over(self, actor: Actor) -> None:
        if actor._thread is None:
            actor._thread = threading.Thread(target=actor._run, name=actor.name, daemon=True)
            actor._thread.start()
        before, self.current = self.current, actor
        actor._go.release()
        self.baton.acquire()
        self.current = before
        if actor.done:
            actor._thread.join()
            del self.actors[actor.name]

    def pause(self, where: str, options: tuple[Option, ...] = PLAIN) -> str:
        """Called by the product, through the seams, in an actor's thread: the outcome that was chosen. Raises Killed.

        Outside an actor (set-up, oracles) nothing pauses, and the first option is taken.
        """
        actor = self.current
        if actor is None:
            return options[0].name
        if actor.killed:
            raise Killed
        actor.where, actor.options = where, options
        self.baton.release()
        actor._go.acquire()
        if actor.killed:
            raise Killed
        actor.options = PLAIN
        return actor.chosen
