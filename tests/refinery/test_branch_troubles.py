"""The strategy `branch`: names that are taken, kills, remotes that refuse or are away, settings that change."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select, update

from gastown.agent.git import git
from gastown.commands import work
from gastown.db import in_transaction, transaction
from gastown.errors import Refused
from gastown.models import Bead, MergeRequest
from gastown.models import Rig as RigRow
from gastown.refinery.forges import ByHand, HeadMoved, Published, Unknown, Waiting
from gastown.refinery.forges.branch import BranchForge
from gastown.states import BeadStatus, DispatchStatus, HoldCode, MergeStatus, Resolution, Strategy
from gastown.store import merges
from gastown.tasks import merge as task
from gastown.tasks import publishing
from gastown.tasks.merge import merge
from tests.builders import a_feature_branch, an_attempt, now
from tests.conftest import Clock
from tests.refinery.people import (
    CONTENT,
    Person,
    assert_merged,
    branch_of,
    branches,
    claim_due,
    look,
    published_by,
    requested,
)
from tests.refinery.rig import WHO, Rig, commit, head
from tests.store.merging import asked, bead, claim
from tests.ticks import tick


def test_a_branch_of_that_name_that_is_not_ours_is_never_overwritten(bare: Rig, set_up: None, gated: Path) -> None:
    request = requested(bare, gated)
    theirs = head(bare.remote)
    git("branch", branch_of(request), theirs, cwd=bare.remote)
    merge.run(request.id)
    held = now(request)
    assert held.held_code == HoldCode.PUSH_REFUSED
    assert "not overwritten" in (held.held_reason or "")
    assert head(bare.remote, branch_of(request)) == theirs
    git("branch", "-D", branch_of(request), cwd=bare.remote)
    in_transaction(lambda session: work.retry(session, held.town_id, held.bead_id))
    merge.run(request.id)
    assert now(request).held_code == HoldCode.AWAITING_APPROVAL


def test_a_branch_that_somebody_moved_elsewhere_is_left_there(
    bare: Rig, published: MergeRequest, person: Person, clock: Clock
) -> None:
    theirs = commit(person.clone, {"their": "own\n"}, "their own")
    person.push(branch_of(published), "--force")
    found = look(published, clock)
    assert found.held_code == HoldCode.AWAITING_APPROVAL
    assert f"moved it to {theirs[:12]}" in (found.held_reason or "")
    in_transaction(lambda session: work.retry(session, found.town_id, found.bead_id))
    merge.run(published.id)
    assert head(bare.remote, branch_of(published)) == theirs


def test_a_new_attempt_of_the_same_bead_takes_its_branch_over(bare: Rig, published: MergeRequest, clock: Clock) -> None:
    """`bead retry --again` closes the request; what that one published is known as ours."""
    in_transaction(lambda session: work.retry(session, published.town_id, published.bead_id, again=True))
    second = commit(bare.scratch / "gt-1", {"new": "from scratch\n"}, "second")
    bare.mirror.keep(bare.scratch / "gt-1", f"{second}:refs/gastown/head/gt-1/2")
    with transaction() as session:
        old = session.get_one(MergeRequest, published.id)
        an_attempt(session, DispatchStatus.SUCCEEDED, bead=session.get_one(Bead, old.bead_id))
        fresh = session.scalars(select(MergeRequest).where(MergeRequest.status == MergeStatus.OPEN)).one()
        fresh.head_sha = second
    merge.run(fresh.id)
    assert now(fresh).held_code == HoldCode.AWAITING_APPROVAL, now(fresh).held_reason
    assert head(bare.remote, branch_of(published)) == second


@pytest.mark.parametrize("pushed", [False, True])
def test_killed_before_or_after_the_push_of_the_branch(
    bare: Rig, set_up: None, gated: Path, clock: Clock, pushed: bool
) -> None:
    """It is published once, its gates do not run again, and nobody cancels it in between."""
    request = requested(bare, gated)
    order = claim(request)
    onto = head(bare.remote)
    assert in_transaction(lambda session: merges.begin_push(session, order, order.head_sha, onto))
    if pushed:
        assert BranchForge().open(task._job(order), frozenset()) == Published(
            ref=branch_of(request), sha=request.head_sha
        )
    with pytest.raises(Refused, match="is being pushed"):
        in_transaction(lambda session: work.cancel(session, request.town_id, request.bead_id))
    clock.advance(45)
    tick()
    assert asked() == [request.id]
    merge.run(request.id)
    found = now(request)
    assert (found.held_code, found.published_sha) == (HoldCode.AWAITING_APPROVAL, request.head_sha)
    assert head(bare.remote, branch_of(request)) == request.head_sha
    assert not gated.exists()


def test_whoever_lost_the_lease_publishes_nothing_again(bare: Rig, set_up: None, gated: Path, clock: Clock) -> None:
    """Another worker may have found that it is not there, and have let a cancel in."""
    request = requested(bare, gated)
    first = claim(request)
    assert in_transaction(lambda session: merges.begin_push(session, first, first.head_sha, head(bare.remote)))
    clock.advance(45)
    order = claim(request)
    assert publishing.goes_on(order, task._job(order), lost=True)
    assert branches(bare) == ["main"]
    assert (now(request).status, now(request).published_sha) == (MergeStatus.PUSHING, None)
    assert publishing.goes_on(order, task._job(order), lost=False)
    assert head(bare.remote, branch_of(request)) == request.head_sha


def test_killed_between_the_removal_of_the_branch_and_the_record(
    bare: Rig, published: MergeRequest, person: Person, clock: Clock
) -> None:
    merged = person.merge(branch_of(published), "--no-ff")
    clock.advance(10)
    order = claim(published)
    forge, there = BranchForge(), Published(ref=branch_of(published), sha=published.head_sha)
    assert forge.close(task._job(order), there) is None
    assert forge.close(task._job(order), there) is None
    clock.advance(45)
    tick()
    tick()
    assert asked() == [published.id]
    merge.run(published.id)
    assert_merged(published, merged)


def test_a_cancel_leaves_the_branch_to_people(bare: Rig, published: MergeRequest) -> None:
    in_transaction(lambda session: work.cancel(session, published.town_id, published.bead_id))
    assert now(published).status == MergeStatus.CLOSED
    assert head(bare.remote, branch_of(published)) == published.head_sha


def test_a_repository_that_is_away_is_no_answer(
    bare: Rig, published: MergeRequest, person: Person, clock: Clock, tmp_path: Path
) -> None:
    merged = person.merge(branch_of(published), "--no-ff")
    bare.remote.rename(tmp_path / "away")
    found = look(published, clock)
    assert (found.status, found.held_code) == (MergeStatus.OPEN, HoldCode.UNREACHABLE)
    order = claim_due(published, clock)
    assert isinstance(BranchForge().status(task._job(order), published_by(order)), Unknown)
    assert isinstance(BranchForge().open(task._job(order), frozenset()), Unknown)
    (tmp_path / "away").rename(bare.remote)
    clock.advance(45)
    tick()
    tick()
    merge.run(published.id)
    assert_merged(published, merged)


def test_a_remote_that_refuses_the_branch_is_heard(bare: Rig, set_up: None, gated: Path) -> None:
    request = requested(bare, gated)
    hook = bare.remote / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho no branches here\nexit 1\n")
    hook.chmod(0o755)
    merge.run(request.id)
    assert now(request).held_code == HoldCode.PUSH_REFUSED
    assert "no branches here" in (now(request).held_reason or "")


def test_a_persons_own_checkout_gets_the_branch_and_nothing_else(
    checkout: Rig, set_up: None, gated: Path, clock: Clock
) -> None:
    """Uncommitted changes in it hold nothing: nothing of theirs is touched. Their merge is seen."""
    request = requested(checkout, gated)
    (checkout.remote / "README").write_text("busy\n")
    merge.run(request.id)
    assert now(request).held_code == HoldCode.AWAITING_APPROVAL
    assert git("status", "--porcelain", cwd=checkout.remote) == " M README\n"
    git("merge", "--quiet", "--no-ff", branch_of(request), cwd=checkout.remote, env=WHO)
    look(request, clock)
    assert_merged(request, head(checkout.remote))
    assert branches(checkout) == ["main"]
    assert git("status", "--porcelain", cwd=checkout.remote) == " M README\n"


def test_a_branch_that_is_checked_out_is_not_moved_nor_removed(
    checkout: Rig, set_up: None, gated: Path, clock: Clock
) -> None:
    request = requested(checkout, gated)
    merge.run(request.id)
    git("checkout", "--quiet", branch_of(request), cwd=checkout.remote)
    second = commit(checkout.scratch / "gt-1", {"new": "newer\n"}, "second")
    checkout.mirror.keep(checkout.scratch / "gt-1", f"{second}:refs/gastown/head/gt-1/2")
    with transaction() as session:
        values = {"head_sha": second, "held_code": None, "held_reason": None, "look_at": None}
        session.execute(update(MergeRequest).values(**values))
    merge.run(request.id)
    held = now(request)
    assert held.held_code == HoldCode.PUSH_REFUSED
    assert "is checked out" in (held.held_reason or "")
    git("branch", "-f", "main", second, cwd=checkout.remote)
    in_transaction(lambda session: work.retry(session, held.town_id, held.bead_id))
    merge.run(request.id)
    assert_merged(request, second)
    assert branches(checkout) == [branch_of(request), "main"]


def test_a_rig_that_goes_back_to_direct_merges_only_what_somebody_retries(
    bare: Rig, published: MergeRequest, clock: Clock
) -> None:
    with transaction() as session:
        session.execute(update(RigRow).values(strategy=Strategy.DIRECT))
    assert look(published, clock).held_code == HoldCode.AWAITING_APPROVAL
    assert bare.on_target() == ["first"]
    in_transaction(lambda session: work.retry(session, published.town_id, published.bead_id))
    merge.run(published.id)
    assert now(published).merged_sha == head(bare.remote)
    assert branches(bare) == ["main"]


def test_a_merge_into_a_feature_branch_is_gastowns_own(bare: Rig, set_up: None, gated: Path) -> None:
    request = requested(bare, gated)
    git("branch", "feature", "main", cwd=bare.remote)
    with transaction() as session:
        a_feature_branch(session, "feature")
        session.execute(update(MergeRequest).values(target="feature"))
    merge.run(request.id)
    assert now(request).merged_sha == head(bare.remote, "feature")
    assert branches(bare) == ["feature", "main"]


def test_work_that_the_target_has_already_is_not_published(bare: Rig, set_up: None, gated: Path) -> None:
    request = requested(bare, gated)
    person = Person(bare)
    commit(person.clone, CONTENT, "the same")
    person.push("main")
    merge.run(request.id)
    assert (bead(request).status, bead(request).resolution) == (BeadStatus.CLOSED, Resolution.NO_CHANGES)
    assert branches(bare) == ["main"]


def test_only_the_gated_head_may_be_merged(bare: Rig, published: MergeRequest, person: Person, clock: Clock) -> None:
    """What every forge owes: a newer head is no head that anybody approved. This one merges nothing at all."""
    order = claim_due(published, clock)
    job, there = task._job(order), published_by(order)
    assert BranchForge().merge(job, there, published.head_sha) == ByHand()
    added = commit(person.clone, {"other": "other\n"}, "other")
    person.push(branch_of(published), "--force")
    assert BranchForge().merge(job, there, published.head_sha) == HeadMoved(added)
    assert bare.on_target() == ["first"]


def test_another_machine_knows_what_was_published(bare: Rig, published: MergeRequest, clock: Clock) -> None:
    """Its mirror has never seen the head."""
    order = claim_due(published, clock)
    git("update-ref", "refs/gastown/head/gt-1/1", published.head_sha, cwd=bare.remote)
    job = replace(task._job(order), home=bare.home / "elsewhere", head_ref="refs/gastown/head/gt-1/1")
    assert BranchForge().open(job, frozenset()) == published_by(order)
    shutil.rmtree(job.home)
    assert BranchForge().status(job, published_by(order)) == Waiting(target_sha=head(bare.remote, "main"))
