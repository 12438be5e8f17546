"""Plans: right as a whole, or refused before anything is written."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gastown.commands.plan_files import read_plan
from gastown.commands.plans import Plan, PlannedBead, check_plan
from gastown.errors import UsageError


def bead(name: str, rest: str = "") -> str:
    return f'[[bead]]\nid = "{name}"\ntitle = "do {name}"\n{rest}\n'


def plan_of(text: str, source: str) -> Plan:
    return read_plan(text, source).plan


def test_a_plan_comes_in_an_order_that_can_be_written() -> None:
    plan = plan_of(bead("b", 'after = ["a", "c"]') + bead("a") + bead("c", 'after = ["a"]'), "plan.toml")
    assert [each.id for each in plan.bead] == ["a", "c", "b"]


def test_a_byte_order_mark_and_windows_newlines_are_no_matter() -> None:
    assert plan_of("\ufeff" + bead("a").replace("\n", "\r\n"), "plan.toml").bead[0].title == "do a"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it has no bead"),
        ('[[bead]]\ntitle = "x', "not TOML"),
        ('[[bead]]\ntitle = "x"', "line 1: the bead has no id"),
        ('[[bead]]\nid = "a"', "line 1: the bead has no title"),
        (bead("a") + bead("b", 'titel = "x"'), "line 8: there is no key titel (did you mean title?)"),
        (bead("a", "title2 = 3\n"), "line 4: there is no key title2"),
        (bead("a") + "[[bead]]\nid = 3\ntitle = 'x'", "line 6: id: input should be a valid string: put it into quotes"),
        (bead("a", 'after = "b"'), "line 4: after: input should be a valid list"),
        (bead("a", "after = [1]"), "line 4: after: input should be a valid string"),
        (bead("a", "labels = 'x'"), "line 4: labels"),
        (bead("a", "labels = ['run:x']"), "labels that start with run: are Gastown's own"),
        (bead("a", "labels = ['']"), "cannot be a label"),
        (bead("a", 'priority = "urgent"'), "there is no priority urgent"),
        (bead("a") + bead("a"), "bead 2 (a): another bead has the id a already"),
        (bead("a", 'after = ["aa"]'), "bead a comes after aa, which the plan does not have"),
        (bead("a", 'after = ["a"]'), "cycle: a waits for a"),
        (bead("a", 'after = ["b"]') + bead("b", 'after = ["c"]') + bead("c", 'after = ["a"]'), "waits for c waits for"),
        ("beads = 1\n" + bead("a"), "there is no key beads (did you mean bead?)"),
        ("[bead]\nid = 'a'", "bead: input should be a valid list"),
        ('[[bead]]\nid = "a"\ntitle = "  "', "bead 1 (a): a bead needs a title"),
        (f'[[bead]]\nid = "a"\ntitle = "{"x" * 501}"', "at most 500"),
        ('[[bead]]\nid = "a"\ntitle = "x"\nbody = "\\u0000"', "NUL"),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_plan(text, "plan.toml")
    assert words in str(caught.value)
    assert str(caught.value).startswith("plan.toml")
    assert "\n" not in str(caught.value)


@given(st.lists(st.lists(st.integers(0, 7), max_size=3), min_size=1, max_size=8))
def test_every_plan_is_in_order_or_has_a_cycle(edges: list[list[int]]) -> None:
    names = [f"n{number}" for number in range(len(edges))]
    beads = [
        PlannedBead(id=name, title="x", after=[names[other % len(names)] for other in after])
        for name, after in zip(names, edges, strict=True)
    ]
    waits = {each.id: set(each.after) for each in beads}
    try:
        plan = check_plan(Plan(bead=beads), "plan")
    except UsageError as error:
        cycle = str(error).partition("cycle: ")[2].split(" waits for ")
        assert cycle[0] == cycle[-1]
        assert all(later in waits[earlier] for earlier, later in itertools.pairwise(cycle))
        return
    seen: set[str] = set()
    for each in plan.bead:
        assert waits[each.id] <= seen
        seen.add(each.id)
    assert seen == set(names)
