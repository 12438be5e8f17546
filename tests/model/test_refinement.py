"""The product refines the specification: both are driven with the same histories, and are in the same state after each
step. What the two say in different words is in `states.py`; docs/refinement.md argues each difference."""

import os

import pytest

from tests.model import histories, specification
from tests.model.mutants import MUTANTS
from tests.model.playing import Board
from tests.model.steps import GRAMMAR, Diverged
from tests.model.walks import REFUSED, VARIANTS, WIDE, WORLDS, Walk, all_kinds, kind_of, options, protocol, random_walk

needs_specification = pytest.mark.skipif(specification.path() is None, reason=specification.MISSING)
FRESH_STEPS = 60  # of a walk
PARTS = 4
NEAR = 5000  # states
KINDS = 67  # of steps, by what they do and how that ends
REFUSALS = 6  # kinds of steps that are asked for when they must not be taken
ON_THE_WAY = {"done_atomic": "container 0 calls done: ok", "guard_by_api": "the API is away"}

RECORDED = histories.read()
KNOWN = {kind_of(label) for walk in RECORDED for label, _variant in walk.steps}
COVERED = {kind for kind in KNOWN if not kind.startswith(REFUSED)}


@pytest.mark.parametrize("part", range(PARTS))
def test_the_product_goes_where_the_specification_goes(board: Board, part: int) -> None:
    _play(board, RECORDED[part::PARTS])


@needs_specification
def test_the_product_goes_where_chance_leads(board: Board) -> None:
    """Other walks in each run. One that fails is told step by step, and `random_walk` makes it again from its seed."""
    for world in WIDE:
        board.play(random_walk(world, int.from_bytes(os.urandom(4)), FRESH_STEPS))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_product_without_a_protection_goes_elsewhere(
    board: Board, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """On the way on which the specification itself breaks without it; if it never does alone, on some recorded walk."""
    own = [walk for walk in RECORDED if walk.why == f"without {name}" or _takes(walk, ON_THE_WAY.get(name))]
    MUTANTS[name](monkeypatch)
    with pytest.raises(Diverged):
        _play(board, own)


def test_each_kind_of_step_is_taken() -> None:
    """Those that the worlds have, by `record.py`, which asserts that it covers them. None is known and never taken."""
    assert len(COVERED) >= KINDS
    assert len(KNOWN - COVERED) >= REFUSALS
    labels = [label for walk in RECORDED for label in walk.labels()]
    assert [pattern.pattern for pattern, _do in GRAMMAR if not any(map(pattern.fullmatch, labels))] == []
    taken = {variant for walk in RECORDED for _label, variant in walk.steps}
    assert taken == {each for ways in VARIANTS.values() for each in ways}


@needs_specification
@pytest.mark.parametrize("world", WORLDS[:3], ids=str)
def test_each_kind_of_step_of_the_specification_is_recorded(world: dict[str, int]) -> None:
    """In the states that are near the start; `record.py` looks at all."""
    assert all_kinds(world, limit=NEAR).keys() <= COVERED


@needs_specification
def test_the_recorded_walks_are_walks_of_the_specification() -> None:
    """With the states that it says now. If not: python -m tests.model.record."""
    for walk in RECORDED:
        spec = protocol(walk.world)
        state = spec.start()
        for (label, _variant), expected in zip(walk.steps, walk.states, strict=True):
            after = {each: after for each, after, _kind in options(spec, state)}
            assert (label in after) is not label.startswith(REFUSED), _not_now(walk, label)
            assert label.removeprefix(REFUSED) not in after or label in after, _not_now(walk, label)
            state = after.get(label, state)
            assert specification.lines(state) == expected, _not_now(walk, label)


def _takes(walk: Walk, what: str | None) -> bool:
    return any(what in step for step in walk.steps) if what else False


def _play(board: Board, walks: list[Walk]) -> None:
    for walk in walks:
        board.play(walk)


def _not_now(walk: Walk, label: str) -> str:
    return f"{walk.why}: the specification does not do {label!r} so any more: python -m tests.model.record"
