"""gastown convoy: from a plan to a preview, a graph, and what is to be done next."""

from pathlib import Path

import pytest

from gastown.db import transaction
from gastown.models import Bead
from gastown.states import BeadStatus, Resolution
from tests.builders import a_bead, a_rig
from tests.cli.conftest import Gastown
from tests.ticks import tick

PLAN = """\
bead:
  - {id: a, title: first, body: "true"}
  - {id: b, title: second, body: "true", after: [a]}
  - {id: c, title: third, body: "true", after: [a]}
  - {id: d, title: last, body: "true", after: [b, c]}
"""


@pytest.fixture
def plan(gastown: Gastown, tmp_path: Path, repository: Path) -> str:
    """A plan file of a town that has a rig."""
    with transaction() as session:
        a_rig(session, repository=str(repository))
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return str(path)


@pytest.fixture
def convoy(gastown: Gastown, plan: str) -> str:
    return str(gastown("convoy", "create", "auth", "-f", plan, "--json").json["id"])


def ids(gastown: Gastown) -> list[str]:
    """Of the members, in the order of the plan."""
    return [row["id"] for row in gastown("convoy", "show", "auth", "--json").json["members"]]


def end(bead_id: str, **values: object) -> None:
    with transaction() as session:
        bead = session.get_one(Bead, bead_id)
        for name, value in values.items():
            setattr(bead, name, value)
        bead.closed_at = bead.created_at


def test_a_plan_is_previewed_and_nothing_starts(gastown: Gastown, plan: str) -> None:
    said = gastown("convoy", "create", "auth", "-f", plan)
    assert said.code == 0
    assert "4 beads in 3 waves, review-then-land" in said.out
    assert "wave 2: 2 beads at the same time" in said.out
    assert "longest chain: 3 beads" in said.out
    assert "agents: shell (4)" in said.out
    assert "which lands on main" in said.out
    convoy_id = said.out.split()[0]
    assert said.out.rstrip().endswith(f"next: gastown convoy start {convoy_id}")
    tick()
    assert {row["verdict"] for row in gastown("bead", "list", "--json").json} == {"staged"}
    assert f"member of convoy {convoy_id}" in gastown("why", ids(gastown)[0]).out


def test_json_has_the_waves(gastown: Gastown, plan: str) -> None:
    made = gastown("convoy", "create", "auth", "-f", plan, "--mode", "review-and-merge", "--start", "--json").json
    assert [len(wave) for wave in made["waves"]] == [1, 2, 1]
    assert len(made["longest"]) == 3
    assert (made["status"], made["mode"], made["branches"]) == ("open", "review-and-merge", [])


def test_of_beads_that_exist(gastown: Gastown, plan: str) -> None:
    with transaction() as session:
        first, second = a_bead(session).id, a_bead(session).id
    assert "2 beads in 1 wave" in gastown("convoy", "create", "both", first, second).out
    assert gastown("convoy", "create", "again", first).code == 1


def test_an_export_of_beads(gastown: Gastown, plan: str, tmp_path: Path) -> None:
    path = tmp_path / "issues.jsonl"
    path.write_text(
        '{"id": "bd-1", "title": "x", "status": "closed"}\n'
        '{"id": "bd-2", "title": "y", "description": "true", "dependencies": [{"depends_on_id": "bd-1"}]}\n'
    )
    said = gastown("convoy", "create", "imported", "-f", str(path))
    assert "1 bead in 1 wave" in said.out
    assert "plan: closed issues are left out: 1" in said.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["create", "x"], 2, "a convoy needs members"),
        (["create", "x", "gt-none"], 3, "there is no bead gt-none"),
        (["create", " ", "gt-none"], 2, "cannot be the name"),
        (["create", "x", "gt-none", "--rig", "rig"], 2, "--rig is for the beads of a plan"),
        (["create", "x", "-f", "nowhere.toml"], 3, "there is no file"),
        (["create", "x", "gt-none", "--mode", "never"], 2, "mode"),
        (["show", "none"], 3, "there is no convoy none"),
        (["start", "none"], 3, "there is no convoy none"),
        (["add", "none"], 2, "name the beads"),
        (["add", "none", "gt-none"], 3, "there is no convoy none"),
        (["remove", "none", "gt-none"], 3, "there is no convoy none"),
        (["order", "none", "gt-none", "--after", "gt-none"], 3, "there is no convoy none"),
        (["order", "none", "gt-none"], 2, "missing option"),
        (["land", "none"], 3, "there is no convoy none"),
        (["close", "none"], 3, "there is no convoy none"),
    ],
)
def test_bad_input(gastown: Gastown, arguments: list[str], code: int, words: str) -> None:
    said = gastown("convoy", *arguments)
    assert (said.code, said.out) == (code, "")
    assert words in said.err
    assert "\nnext: " in said.err


def test_a_plan_that_is_wrong_makes_no_convoy(gastown: Gastown, plan: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(PLAN.replace("after: [a]", "after: [d]"))
    said = gastown("convoy", "create", "auth", "-f", str(path))
    assert said.code == 2
    assert "waits for" in said.err
    assert gastown("convoy", "list", "--all", "--json").json == []
    assert gastown("bead", "list", "--json").json == []


def test_show_draws_the_graph(gastown: Gastown, convoy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")  # a dumb one gets plain letters
    first, second, third, last = ids(gastown)
    end(first, status=BeadStatus.CLOSED, resolution=Resolution.MERGED)
    end(second, status=BeadStatus.FAILED, failure_code="attempts_exhausted", failure_message="it broke")
    shown = gastown("convoy", "show", convoy)
    lines = [line.split()[:3] for line in shown.out.splitlines() if "gt-" in line and " 0 " in line]
    assert lines[:4] == [
        ["●", first, "merged"],
        ["├▸✗", second, "failed"],
        ["○▸┤", third, "open"],
        ["○", last, "open"],
    ]
    assert "1 merged, 1 failed, 2 waiting of 4 members" in shown.out
    assert "it broke" in shown.out
    monkeypatch.setenv("COLUMNS", "80")
    narrow = gastown("convoy", "show", convoy).out
    assert max(len(line) for line in narrow.splitlines() if " 0 " in line) <= 80
    assert "├▸✗" in narrow


def test_a_graph_that_leaves_no_room_is_told_in_words(
    gastown: Gastown, convoy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gastown.cli.convoys.GRAPH_SHARE", 100)
    first, second, third, _ = ids(gastown)
    said = gastown("convoy", "show", convoy)
    assert "├" not in said.out
    assert f"after {first}" in said.out
    assert f"after {second}, {third}" in said.out
    assert "a wider terminal" in said.err


def test_one_is_started_and_steered(gastown: Gastown, convoy: str) -> None:
    first, second, third, last = ids(gastown)
    assert f"next: gastown convoy show {convoy}" in gastown("convoy", "start", "auth").out
    assert gastown("convoy", "start", "auth").code == 1
    assert gastown("convoy", "order", "auth", third, "--after", second).code == 0
    assert gastown("convoy", "show", "auth", "--json").json["after"][third] == [first, second]
    refused = gastown("convoy", "order", "auth", first, "--after", last)
    assert refused.code == 1
    assert "cycle" in refused.err
    assert gastown("convoy", "unorder", "auth", third, "--after", second).code == 0
    assert gastown("convoy", "unorder", "auth", third, "--after", second).code == 1
    with transaction() as session:
        other = a_bead(session).id
    assert gastown("convoy", "add", "auth", other).code == 0
    assert other in ids(gastown)
    assert gastown("convoy", "remove", "auth", other).code == 0
    assert other not in ids(gastown)


def test_list_counts_the_members(gastown: Gastown, convoy: str) -> None:
    end(ids(gastown)[0], status=BeadStatus.CLOSED, resolution=Resolution.MERGED)
    (row,) = gastown("convoy", "list", "--json").json
    counts = {name: row[name] for name in ("members", "merged", "failed", "waiting", "canceled")}
    assert counts == {"members": 4, "merged": 1, "failed": 0, "waiting": 3, "canceled": 0}
    assert "auth" in gastown("convoy", "list").out
    assert "is closed" in gastown("convoy", "close", "auth").out
    assert "no convoy is under way" in gastown("convoy", "list").out
    assert "closed" in gastown("convoy", "list", "--all").out
    assert gastown("convoy", "close", convoy).code == 1


def test_a_landing_that_waits_says_for_what(gastown: Gastown, convoy: str) -> None:
    first, *others = ids(gastown)
    gastown("convoy", "start", "auth")
    end(first, status=BeadStatus.FAILED, failure_code="attempts_exhausted", failure_message="it broke")
    for each in others:
        end(each, status=BeadStatus.CLOSED, resolution=Resolution.MERGED)
    shown = gastown("convoy", "show", "auth")
    assert f"{first} failed" in shown.out
    assert f"gastown convoy land {convoy} --partial" in shown.out
    landing = gastown("convoy", "show", "auth", "--json").json["landings"][0]["bead"]["id"]
    assert f"lands convoy {convoy}" in gastown("bead", "show", landing).out
    assert f"gastown convoy land {convoy} --partial" in gastown("why", landing).out
    refused = gastown("convoy", "land", "auth")
    assert refused.code == 1
    assert "--partial" in refused.err
    assert "it lands now" in gastown("convoy", "land", "auth", "--partial").out
    assert "lands without what fails" in gastown("convoy", "show", "auth").out
