"""Plans in YAML, and issues as Beads exports them."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gastown.commands.plan_files import PlanFile, read_plan
from gastown.commands.plan_formats import PlanFormat
from gastown.errors import UsageError

YAML = """\
bead:
  - id: parser
    title: "Parse the file"
    priority: high
    body: |
      two
      lines
  - id: writer
    title: Write the file
    after: [parser]
    labels: [io]
"""


def test_yaml_has_the_keys_of_toml() -> None:
    parser, writer = read_plan(YAML, "plan.yaml").plan.bead
    assert (parser.id, parser.body, parser.priority) == ("parser", "two\nlines\n", "high")
    assert (writer.after, writer.labels) == (["parser"], ["io"])


def test_a_format_that_is_given_beats_the_suffix() -> None:
    assert len(read_plan(YAML, "standard input", PlanFormat.YAML).plan.bead) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it has no bead"),
        ("bead:", "bead: input should be a valid list"),
        ("- id: a", "begins with bead:"),
        ("3: 4", "begins with bead:"),
        ("bead: [", "is not YAML: line"),
        ("bead:\n  - id: a\n    title: x\n\tbody: y", "is not YAML: line 4"),
        ("bead:\n  - id: 1\n    title: x", "line 2: id: input should be a valid string: put it into quotes"),
        ("bead:\n  - id: a\n    title: no", "line 3: title: input should be a valid string: put it into quotes"),
        ("bead:\n  - id: a\n    title: x\n    after: b", "line 4: after: input should be a valid list"),
        ("bead:\n  - id: a\n    titel: x", "line 3: there is no key titel (did you mean title?)"),
        ("bead:\n  - id: a", "line 2: the bead has no title"),
        ("bead:\n  - a", "line 2"),
        ("bead:\n  - id: a\n    title: x\n    title: y", "line 4: the key title is there twice"),
        ("bead: []\nbead: []", "line 2: the key bead is there twice"),
        ("bead: !!python/object/apply:os.system [true]", "is not YAML: line 1"),
        ("bead:\n  - id: a\n    title: 2026-40-40", "is not YAML"),
        ("bead: *nowhere", "is not YAML: line 1"),
        ("bead: []\n---\nbead: []", "is not YAML: line 2"),
        ("bead: " + "[" * 1_000_000, "line 1 is nested too deeply"),
        ("bead: &a\n  - *a", "line"),
        ("beads: []", "there is no key beads (did you mean bead?)"),
    ],
)
def test_what_is_wrong_in_yaml_is_named(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_plan(text, "plan.yml")
    assert words in str(caught.value)
    assert str(caught.value).startswith("plan.yml")
    assert "\n" not in str(caught.value)


def issue(name: str, *waits: str, **more: Any) -> dict[str, Any]:
    edges = [{"issue_id": name, "depends_on_id": each, "type": "blocks"} for each in waits]
    return {"id": name, "title": f"do {name}", "status": "open", "priority": 2, "issue_type": "task"} | (
        {"dependencies": edges + more.pop("dependencies", [])} | more
    )


def below(parent: str) -> list[dict[str, str]]:
    return [{"depends_on_id": parent, "type": "parent-child"}]


def exported(*issues: Mapping[str, Any]) -> PlanFile:
    return read_plan("".join(json.dumps(each) + "\n" for each in issues), "issues.jsonl")


def waits(found: PlanFile) -> dict[str, list[str]]:
    return {bead.id: bead.after for bead in found.plan.bead}


def test_an_issue_becomes_a_bead() -> None:
    found = exported(
        issue("bd-1", description="what", design="how", acceptance_criteria="when done", labels=["io"], priority=1)
    )
    [bead] = found.plan.bead
    assert bead.body == "what\n\n## Design\n\nhow\n\n## Acceptance criteria\n\nwhen done"
    assert (bead.title, bead.priority, bead.labels) == ("do bd-1", "high", ["io"])
    assert found.notes == ()


@pytest.mark.parametrize(("number", "name"), list(enumerate(("critical", "high", "medium", "low", "low"))))
def test_priorities_have_names_here(number: int, name: str) -> None:
    assert exported(issue("bd-1", priority=number)).plan.bead[0].priority == name


def test_a_priority_that_is_not_written_is_0() -> None:
    assert exported({"id": "bd-1", "title": "x"}).plan.bead[0].priority == "critical"


def test_closed_issues_hold_nobody_back() -> None:
    found = exported(issue("bd-1", status="closed"), issue("bd-2", "bd-1", "bd-3"), issue("bd-3", status="tombstone"))
    assert waits(found) == {"bd-2": []}
    assert found.notes == ("closed issues are left out: 2",)


def test_an_epic_stands_for_its_issues() -> None:
    found = exported(
        issue("bd-e", "bd-0", issue_type="epic", title="All of it"),
        issue("bd-0"),
        issue("bd-1", dependencies=below("bd-e")),
        issue("bd-2", "bd-1", dependencies=below("bd-s")),
        issue("bd-s", issue_type="epic", dependencies=below("bd-e")),
        issue("bd-9", "bd-e"),
    )
    assert waits(found) == {"bd-0": [], "bd-1": ["bd-0"], "bd-2": ["bd-1", "bd-0"], "bd-9": ["bd-1", "bd-2"]}
    beads = {bead.id: bead for bead in found.plan.bead}
    assert beads["bd-1"].labels == ["epic:bd-e"]
    assert beads["bd-1"].body == "Part of bd-e: All of it"
    assert beads["bd-2"].labels == ["epic:bd-s"]
    assert found.notes == ("epics are no beads, their issues are: bd-e, bd-s",)


def test_only_what_blocks_is_an_order() -> None:
    loose = [{"depends_on_id": "bd-1", "type": each} for each in ("related", "discovered-from", "duplicates")]
    assert waits(exported(issue("bd-1"), issue("bd-2", dependencies=loose))) == {"bd-1": [], "bd-2": []}


def test_what_is_put_off_is_left_out_with_all_that_waits_for_it() -> None:
    found = exported(
        issue("bd-1", status="deferred"),
        issue("bd-2", "bd-1"),
        issue("bd-3", "bd-2"),
        issue("bd-4"),
        issue("bd-5", issue_type="message"),
        issue("bd-6", issue_type="epic", status="pinned"),
        issue("bd-7", dependencies=below("bd-6")),
    )
    assert waits(found) == {"bd-4": []}
    [note] = found.notes
    for each in ("bd-1 (deferred)", "bd-2 (waits for bd-1)", "bd-3 (waits for bd-2)", "bd-5 (a message)"):
        assert each in note
    assert "bd-7 (part of bd-6)" in note


def test_what_could_be_misunderstood_is_said_once() -> None:
    found = exported(
        issue("bd-1", "bd-77", shiny=1, created_at="2025-12-16"),
        issue("bd-2", "bd-77", shiny=2),
        {"_type": "memory", "key": "x"},
        issue("bd-e", issue_type="epic"),
        issue("bd-3", "bd-e", dependencies=below("bd-e")),
    )
    assert waits(found) == {"bd-1": [], "bd-2": [], "bd-3": []}
    assert found.notes == (
        "epics are no beads, their issues are: bd-e",
        "waited for, not in the file, and taken as done: bd-77",
        "not to wait for what they are part of: bd-3",
        "records that are no issues are left out: memory",
        "fields that a plan does not know are ignored: shiny",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no issue"),
        ('{"id": "bd-1", "title": "x", "status": "closed"}', "no issue that is to be worked on"),
        ("[1]", "line 1 is not an issue"),
        ('{"id": "bd-1", "title": "x"}\n{"id"', "line 2 is not JSON: expecting ':' delimiter, at character 6"),
        ('\n{"title": "x"}', "line 2: the issue has no id"),
        ('{"id": "bd-1", "title": 3}', "line 1 (bd-1): title: input should be a valid string"),
        ('{"id": "bd-1"}', "line 1 (bd-1): a bead needs a title"),
        ('{"id": "bd-1", "title": "x", "priority": 7}', "line 1 (bd-1): priority: input should be less than"),
        (
            '{"id": "bd-1", "title": "x", "dependencies": [{}]}',
            "line 1 (bd-1): the issue has no dependencies.0.depends",
        ),
        ('{"id": "bd-1", "title": "x"}\n{"id": "bd-1", "title": "y"}', "line 2 (bd-1): line 1 is the same issue"),
        ("[" * 100_000, "nested too deeply"),
        ('{"id": "bd-1", "title": "x", "n": ' + "9" * 5000 + "}", "line 1 is not JSON"),
        ("\n".join(json.dumps(issue(f"bd-{number}")) for number in range(1001)), "at most 1000"),
        (
            "\n".join(json.dumps(each) for each in (issue("bd-1", "bd-2"), issue("bd-2", "bd-1"))),
            "has a cycle: bd-1 waits for bd-2 waits for bd-1",
        ),
    ],
)
def test_what_is_wrong_in_an_export_is_named(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_plan(text, "issues.jsonl")
    assert words in str(caught.value)
    assert str(caught.value).startswith("issues.jsonl")
    assert "\n" not in str(caught.value)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["open", "closed", "deferred", "in_progress"]),
            st.sampled_from(["task", "epic", "bug"]),
            st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["blocks", "parent-child", "related"])), max_size=3),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_every_export_is_a_plan_or_refused(rows: list[tuple[str, str, list[tuple[int, str]]]]) -> None:
    issues = [
        issue(f"bd-{number}", status=status, issue_type=kind)
        | {"dependencies": [{"depends_on_id": f"bd-{other}", "type": edge} for other, edge in edges]}
        for number, (status, kind, edges) in enumerate(rows)
    ]
    try:
        found = exported(*issues)
    except UsageError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert "no issue" in refused or "cycle" in refused
        return
    seen: set[str] = set()
    for bead in found.plan.bead:
        assert set(bead.after) <= seen
        seen.add(bead.id)
    assert seen <= {each["id"] for each in issues if each["status"] in ("open", "in_progress")}
