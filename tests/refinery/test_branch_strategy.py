"""The strategy `branch`, from the claim to a person's merge, with real git and the real task."""

from pathlib import Path

import pytest
from sqlalchemy import select, update

from gastown.agent.git import git
from gastown.commands import work
from gastown.db import in_transaction, transaction
from gastown.models import Bead, BeadDependency, Event, MergeRequest
from gastown.states import BeadStatus, HoldCode, Verdict
from gastown.store import escalations
from gastown.store.explain import explain
from gastown.tasks.merge import merge
from tests.builders import a_bead, now
from tests.conftest import Clock
from tests.refinery.people import (
    Person,
    assert_merged,
    branch_of,
    branches,
    look,
    requested,
)
from tests.refinery.rig import WHO, Rig, commit, head
from tests.store.merging import bead
from tests.ticks import tick


def test_the_gated_head_is_a_branch_and_the_target_is_left_alone(
    bare: Rig, published: MergeRequest, gated: Path
) -> None:
    assert (published.published_sha, published.published_ref) == (published.head_sha, branch_of(published))
    assert head(bare.remote, branch_of(published)) == published.head_sha
    assert bare.on_target() == ["first"]
    assert gated.read_text() == "once\n"
    assert bare.leftovers() == []
    tick()
    found = bead(published)
    assert (found.status, found.verdict) == (BeadStatus.IN_REVIEW, Verdict.AWAITING_APPROVAL)
    with transaction() as session:
        [said] = explain(session, found.town_id, [found.id])
    assert branch_of(published) in said.reason
    assert branch_of(published) in said.command


def test_waiting_has_no_end_starts_nothing_and_costs_one_listing(
    bare: Rig, published: MergeRequest, clock: Clock, gated: Path
) -> None:
    waits = []
    for _ in range(8):
        before = clock.now
        found = look(published, clock)
        assert found.held_code == HoldCode.AWAITING_APPROVAL
        assert found.look_at is not None
        waits.append((found.look_at - before).total_seconds() // 10)
    assert waits == sorted(waits)
    assert gated.read_text() == "once\n"
    with transaction() as session:
        held = select(Event.message).where(Event.bead_id == published.bead_id, Event.kind == "merge_held")
        assert len(session.scalars(held).all()) == 1


def inbox(request: MergeRequest) -> list[str]:
    with transaction() as session:
        escalations.settle_gone(session)
        return [row.message for row in escalations.list_inbox(session, request.town_id)]


@pytest.mark.parametrize("options", [["--no-ff"], ["--ff-only"]])
def test_a_person_merges_it_and_dependants_start(
    bare: Rig, published: MergeRequest, person: Person, clock: Clock, options: list[str]
) -> None:
    with transaction() as session:
        waiting = a_bead(session)
        session.add(BeadDependency(bead_id=waiting.id, blocker_id=published.bead_id))
    tick()
    assert inbox(published) == [f"branch {branch_of(published)} waits to be merged into main: do it"]
    merged = person.merge(branch_of(published), *options)
    look(published, clock)
    assert inbox(published) == []
    assert_merged(published, merged)
    assert branches(bare) == ["main"]
    tick()
    with transaction() as session:
        assert session.get_one(Bead, waiting.id).status == BeadStatus.IN_PROGRESS


@pytest.mark.parametrize("form", ["squash", "rebase"])
def test_a_squash_or_rebase_by_a_person_is_known_by_its_patch(
    bare: Rig, set_up: None, gated: Path, clock: Clock, form: str
) -> None:
    request = requested(bare, gated)
    second = commit(bare.scratch / "gt-1", {"new": "newer\n"}, "second")
    bare.mirror.keep(bare.scratch / "gt-1", f"{second}:refs/gastown/head/gt-1/2")
    with transaction() as session:
        session.execute(update(MergeRequest).values(head_sha=second))
    merge.run(request.id)
    person = Person(bare)
    commit(person.clone, {"code.py": "two = 2\n"}, "elsewhere")
    if form == "rebase":
        person.run("cherry-pick", f"main@{{upstream}}..origin/{branch_of(request)}")
    else:
        person.run("merge", "--quiet", "--squash", f"origin/{branch_of(request)}")
        person.run("commit", "--quiet", "-m", "all of it at once")
    merged = person.push("main")
    commit(person.clone, {"new": "something else\n"}, "right on top")
    person.push("main")
    look(request, clock)
    assert_merged(request, merged)
    assert branches(bare) == ["main"]


def test_a_merge_with_changes_of_a_persons_own_is_known_by_its_content(
    bare: Rig, published: MergeRequest, person: Person, clock: Clock
) -> None:
    person.run("merge", "--quiet", "--squash", f"origin/{branch_of(published)}")
    merged = commit(person.clone, {"another": "file\n"}, "with more")
    person.push("main")
    commit(person.clone, {"code.py": "two = 2\n"}, "elsewhere")
    person.push("main")
    look(published, clock)
    assert_merged(published, merged)


def test_somebody_adds_commits_and_merges_all_of_it(
    bare: Rig, published: MergeRequest, person: Person, clock: Clock
) -> None:
    branch = branch_of(published)
    person.run("checkout", "--quiet", "-b", "mine", f"origin/{branch}")
    added = commit(person.clone, {"new": "nicer\n"}, "nicer")
    person.push(branch)
    found = look(published, clock)
    assert found.held_code == HoldCode.AWAITING_APPROVAL
    assert "somebody added commits" in (found.held_reason or "")
    assert head(bare.remote, branch) == added
    person.run("checkout", "--quiet", "main")
    person.run("merge", "--quiet", "--squash", "mine")
    person.run("commit", "--quiet", "-m", "all of it")
    merged = person.push("main")
    look(published, clock)
    assert_merged(published, merged)
    assert head(bare.remote, branch) == added  # theirs: not ours to remove


def test_a_deleted_branch_asks_a_person_who_may_have_it_published_anew(
    bare: Rig, published: MergeRequest, person: Person, clock: Clock, gated: Path
) -> None:
    branch = branch_of(published)
    person.run("push", "--quiet", "origin", f":{branch}")
    gone = look(published, clock)
    assert gone.held_code == HoldCode.BRANCH_GONE
    assert branch in (gone.held_reason or "")
    tick()
    with transaction() as session:
        [said] = explain(session, gone.town_id, [gone.bead_id])
    assert f"gastown bead retry {gone.bead_id}" in said.command
    assert branches(bare) == ["main"]
    in_transaction(lambda session: work.retry(session, gone.town_id, gone.bead_id))
    merge.run(published.id)
    assert now(published).held_code == HoldCode.AWAITING_APPROVAL
    assert head(bare.remote, branch) == published.head_sha
    assert gated.read_text() == "once\nonce\n"


def test_a_deleted_branch_that_is_merged_later_is_merged(
    bare: Rig, published: MergeRequest, person: Person, clock: Clock
) -> None:
    person.run("push", "--quiet", "origin", f":{branch_of(published)}")
    assert look(published, clock).held_code == HoldCode.BRANCH_GONE
    person.run("merge", "--quiet", "--no-ff", published.head_sha)
    merged = person.push("main")
    look(published, clock)
    assert_merged(published, merged)


def test_a_retry_looks_at_once_and_gates_nothing_again(
    bare: Rig, published: MergeRequest, person: Person, gated: Path
) -> None:
    in_transaction(lambda session: work.retry(session, published.town_id, published.bead_id))
    merge.run(published.id)
    assert now(published).held_code == HoldCode.AWAITING_APPROVAL
    merged = person.merge(branch_of(published), "--no-ff")
    in_transaction(lambda session: work.retry(session, published.town_id, published.bead_id))
    merge.run(published.id)
    assert_merged(published, merged)
    assert gated.read_text() == "once\n"


def test_a_conflict_with_what_came_meanwhile_is_held_and_its_rework_moves_the_branch(
    bare: Rig, published: MergeRequest, person: Person, clock: Clock
) -> None:
    commit(person.clone, {"new": "another\n"}, "another")
    person.push("main")
    held = look(published, clock)
    assert held.held_code == HoldCode.CONFLICT
    assert held.held_reason == "conflicts with main in new"
    assert bare.leftovers() == []
    clone = bare.scratch / "gt-1"
    git("fetch", "--quiet", str(bare.remote), "main", cwd=clone)
    git("merge", "--quiet", "--strategy=ours", "FETCH_HEAD", cwd=clone, env=WHO)
    mended = head(clone)
    bare.mirror.keep(clone, f"{mended}:refs/gastown/head/gt-1/2")
    with transaction() as session:  # as the rework's done does
        values = {"head_sha": mended, "held_code": None, "held_reason": None, "held_output": None, "look_at": None}
        session.execute(update(MergeRequest).values(**values))
    merge.run(published.id)
    again = now(published)
    assert (again.held_code, again.published_sha) == (HoldCode.AWAITING_APPROVAL, mended)
    assert head(bare.remote, branch_of(published)) == mended
    merged = person.merge(branch_of(published), "--ff-only")
    look(published, clock)
    assert_merged(published, merged)
    assert branches(bare) == ["main"]


def test_a_conflict_in_a_branch_that_a_person_works_on_is_theirs(
    bare: Rig, published: MergeRequest, person: Person, clock: Clock
) -> None:
    person.run("checkout", "--quiet", "-b", "mine", f"origin/{branch_of(published)}")
    added = commit(person.clone, {"more": "more\n"}, "more")
    person.push(branch_of(published))
    person.run("checkout", "--quiet", "main")
    commit(person.clone, {"new": "another\n"}, "another")
    person.push("main")
    found = look(published, clock)
    assert found.held_code == HoldCode.AWAITING_APPROVAL
    assert "conflicts with main in new" in (found.held_reason or "")
    assert head(bare.remote, branch_of(published)) == added
