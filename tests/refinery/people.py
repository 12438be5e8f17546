"""A rig whose merges people make: the work that waits for them, and what they do with it in a clone of their own."""

import os
from pathlib import Path
from typing import Any

import pytest

from gastown.agent.git import git
from gastown.db import transaction
from gastown.models import MergeRequest
from gastown.refinery.forges import Published
from gastown.states import HoldCode, MergeStatus, Resolution, Strategy
from gastown.store.orders import MergeOrder
from gastown.store.resync import find_violations
from gastown.tasks.merge import merge
from gastown.tasks.publishing import published_of
from tests.builders import a_merge, a_node, a_rig, now, the_api_is_there
from tests.conftest import Clock
from tests.refinery.rig import WHO, Rig, head
from tests.store.merging import asked, bead, claim
from tests.ticks import tick

CONTENT = {"new": "new\n", "also": "also\n"}


@pytest.fixture
def gated(tmp_path: Path) -> Path:
    """A file that gets a line each time the gate runs."""
    return tmp_path / "gated"


@pytest.fixture
def set_up(gated: Path, clock: Clock) -> None:
    with transaction() as session:
        the_api_is_there(session)
        a_node(session)


def requested(rig: Rig, gated: Path, files: dict[str, str] | None = None, **values: Any) -> MergeRequest:
    """The work of one bead, on a rig whose merges people make."""
    with transaction() as session:
        about = {"gates": [f"echo once >> {gated}"], "environment": {"PATH": os.environ["PATH"]}}
        about |= {"strategy": Strategy.BRANCH}
        assert a_rig(session, repository=str(rig.remote), **about | values).id == 1
        return a_merge(session, head_sha=rig.work("gt-1", files or CONTENT).head_sha)


@pytest.fixture
def published(bare: Rig, gated: Path, set_up: None) -> MergeRequest:
    """On its branch, waiting for a person."""
    request = requested(bare, gated)
    merge.run(request.id)
    found = now(request)
    assert (found.status, found.held_code) == (MergeStatus.OPEN, HoldCode.AWAITING_APPROVAL), found.held_reason
    return found


def branch_of(request: MergeRequest) -> str:
    return f"gt/{request.bead_id}"


def branches(rig: Rig) -> list[str]:
    return git("for-each-ref", "--format=%(refname:short)", "refs/heads", cwd=rig.remote).split()


class Person:
    """Somebody with a clone of their own."""

    def __init__(self, rig: Rig) -> None:
        self.clone = rig.scratch / "person"
        git("clone", "--quiet", str(rig.remote), str(self.clone))

    def run(self, *args: str) -> str:
        return git(*args, cwd=self.clone, env=WHO)

    def merge(self, branch: str, *options: str) -> str:
        self.run("fetch", "--quiet", "origin")
        self.run("merge", "--quiet", *options, f"origin/{branch}")
        return self.push("main")

    def push(self, branch: str, *options: str) -> str:
        self.run("push", "--quiet", *options, "origin", f"HEAD:refs/heads/{branch}")
        return head(self.clone)


@pytest.fixture
def person(bare: Rig, published: MergeRequest) -> Person:
    return Person(bare)


def look(request: MergeRequest, clock: Clock) -> MergeRequest:
    """The next look, as the reconciler asks for it."""
    due = now(request).look_at
    assert due is not None
    clock.advance((due - clock.now).total_seconds())
    tick()
    assert asked() == [request.id]
    merge.run(request.id)
    with transaction() as session:
        assert find_violations(session) == []
    return now(request)


def assert_merged(request: MergeRequest, sha: str) -> None:
    found = now(request)
    assert (found.status, found.merged_sha, found.held_code) == (MergeStatus.CLOSED, sha, None)
    assert bead(request).resolution == Resolution.MERGED


def claim_due(request: MergeRequest, clock: Clock) -> MergeOrder:
    due = now(request).look_at
    assert due is not None
    clock.advance((due - clock.now).total_seconds())
    return claim(request)


def published_by(order: MergeOrder) -> Published:
    found = published_of(order)
    assert found is not None
    return found
