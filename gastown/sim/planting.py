"""How a fault is put into the product on purpose, and taken out again.

A mutant is a function of the product with some of its text replaced, in every module that knows it, for as long as the
simulation runs. Text that is no longer there means that the mutant has to be written anew.
"""

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from typing import Any

from gastown.sim.moods import THEMES, Mood, Theme


@dataclass(frozen=True)
class Mutant:
    """`changes`: in `module:function`, what is replaced by what."""

    name: str
    changes: tuple[tuple[str, str, str], ...]
    theme: Theme  # of the histories in which it shows soonest
    begin: int  # the first of them is the next one from here
    within: int = 20_000  # steps
    playing: str = ""  # a field of the mood: only histories in which that is on
    elsewhere: str = ""  # the test of the store that notices it; the simulation does not, or not soon

    @property
    def seeds(self) -> Iterator[int]:
        """Seeds of its theme, without end."""
        first = self.begin + (THEMES.index(self.theme) - self.begin) % len(THEMES)
        seeds = count(first, len(THEMES))
        return (seed for seed in seeds if getattr(Mood.of(seed), self.playing)) if self.playing else seeds

    @contextmanager
    def installed(self) -> Iterator[None]:
        places: list[tuple[Any, str, Any]] = []
        try:
            for where, old, new in self.changes:
                for owner, name, before, after in self._replacements(where, old, new):
                    places.append((owner, name, before))
                    setattr(owner, name, after)
            yield
        finally:
            for owner, name, before in reversed(places):
                setattr(owner, name, before)

    def _replacements(self, where: str, old: str, new: str) -> list[tuple[Any, str, Any, Any]]:
        module_name, _, path = where.partition(":")
        module = import_module(module_name)
        original = getattr(module, path)
        function = getattr(original, "run", original)  # a Celery task's body
        mutated = self._mutated(inspect.unwrap(function), module, old, new)
        if function is not original:
            return [(original, "run", function, mutated)]
        return list(_places(function, mutated))

    def _mutated(self, function: Callable[..., Any], module: Any, old: str, new: str) -> Any:
        source = textwrap.dedent(inspect.getsource(function))
        source = source[source.index("def ") :]
        if source.count(old) != 1:
            raise LookupError(f"mutant {self.name!r}: {old!r} is {source.count(old)} times in {function.__name__}")
        scope: dict[str, Any] = {}
        code = compile(source.replace(old, new), f"<mutant {self.name}>", "exec", dont_inherit=True)
        exec(code, module.__dict__, scope)
        return scope[function.__name__]


def _places(function: Any, mutated: Any) -> Iterator[tuple[Any, str, Any, Any]]:
    """Every name in the product that means this function, by itself or as a member of RULES."""
    for module_name, module in list(sys.modules.items()):
        if not module_name.startswith("gastown."):
            continue
        for name, value in list(vars(module).items()):
            if value is function:
                yield module, name, value, mutated
            elif isinstance(value, tuple) and any(each is function for each in value):
                yield module, name, value, tuple(mutated if each is function else each for each in value)
