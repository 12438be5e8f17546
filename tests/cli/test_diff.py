"""gastown diff: what a bead changed, out of the mirror, wherever it stands; and how it is shown."""

from dataclasses import replace
from pathlib import Path

import pytest

from gastown import cli
from gastown.agent.protocol import head_ref, wip_ref
from gastown.cli import paging
from gastown.db import transaction
from gastown.gates import MergeMethod
from gastown.models import Dispatch, MergeRequest
from gastown.refinery.merging import MergeJob, Prepared, Pushed, push
from gastown.states import BeadStatus, DispatchStatus, MergeStatus
from tests.builders import a_bead, a_merge, a_rig, an_attempt, now
from tests.cli.conftest import Gastown, git
from tests.refinery.rig import Rig, commit, head, rig_on


@pytest.fixture
def rig(repository: Path, tmp_path: Path, own_home: Path, database: str) -> Rig:
    with transaction() as session:
        assert a_rig(session, repository=str(repository)).id == 1
    return rig_on(repository, tmp_path, own_home)


def in_review(rig: Rig, files: dict[str, str]) -> tuple[MergeRequest, MergeJob]:
    """A finished attempt with one commit for each of these files, and the job to merge it."""
    base = head(rig.remote, "main")
    with transaction() as session:
        request = a_merge(session)
    [first, *rest] = files.items()
    job = rig.work(request.bead_id, dict([first]), push=False)
    clone = rig.scratch / request.bead_id
    for name, content in rest:
        commit(clone, {name: content}, "more")
    job = replace(job, head_sha=head(clone), dispatch_id=str(request.dispatch_id))
    rig.mirror.keep(clone, f"{job.head_sha}:{job.head_ref}")
    with transaction() as session:
        session.get_one(MergeRequest, request.id).head_sha = job.head_sha
        dispatch = session.get_one(Dispatch, request.dispatch_id)
        dispatch.base_sha, dispatch.head_sha = base, job.head_sha
    return request, job


def is_merged(request: MergeRequest, sha: str) -> None:
    with transaction() as session:
        row = session.get_one(MergeRequest, request.id)
        row.status, row.merged_sha, row.merged_at = MergeStatus.CLOSED, sha, row.created_at


def merged(rig: Rig, job: MergeJob, request: MergeRequest, method: MergeMethod) -> str:
    outcome = rig.prepare(job, method=method)
    assert isinstance(outcome, Prepared)
    assert push(job, outcome) == Pushed()
    is_merged(request, outcome.merge_sha)
    return outcome.merge_sha


def changed(patch: str) -> list[str]:
    return [line.split(" b/")[1] for line in patch.splitlines() if line.startswith("diff --git")]


def test_in_review(gastown: Gastown, rig: Rig) -> None:
    request, _ = in_review(rig, {"first": "1\n", "second": "2\n"})
    said = gastown("diff", request.bead_id)
    assert said.code == 0, said.err
    assert changed(said.out) == ["first", "second"]
    assert f"{request.bead_id}, attempt 1, done as {now(request).head_sha[:12]}, against " in said.err
    stat = gastown("diff", request.bead_id, "--stat")
    assert " first  | 1 +" in stat.out
    assert "2 files changed, 2 insertions(+)" in stat.out


@pytest.mark.parametrize("method", list(MergeMethod))
def test_merged(gastown: Gastown, rig: Rig, method: MergeMethod) -> None:
    """All of it, also of a rebase, and nothing of what others merged before and after."""
    request, job = in_review(rig, {"first": "1\n", "second": "2\n", "third": "3\n"})
    other, others_job = in_review(rig, {"other": "1\n"})
    merged(rig, others_job, other, method)
    sha = merged(rig, job, request, method)
    commit(rig.remote, {"later": "1\n"})
    said = gastown("diff", request.bead_id)
    assert changed(said.out) == ["first", "second", "third"]
    assert f"merged into main as {sha[:12]}, against " in said.err
    assert f"merged into main as {sha[:12]}" in gastown("bead", "show", request.bead_id).out
    assert changed(gastown("diff", request.bead_id, "--attempt", "1").out) == ["first", "second", "third"]


def test_fast_forwarded_by_a_person(gastown: Gastown, rig: Rig) -> None:
    request, job = in_review(rig, {"first": "1\n", "second": "2\n"})
    is_merged(request, job.head_sha)
    assert changed(gastown("diff", request.bead_id).out) == ["first", "second"]


def test_what_an_attempt_saved_so_far(gastown: Gastown, rig: Rig) -> None:
    """Its base is not known yet: the newest commit that it has in common with the target."""
    with transaction() as session:
        dispatch = an_attempt(session)
        bead_id = dispatch.bead_id
    said = gastown("diff", bead_id)
    assert (said.code, said.out) == (1, "")
    assert f"attempt 1 on {bead_id} has saved nothing yet\nnext: gastown logs {bead_id}" in said.err
    job = rig.work(bead_id, {"wip": "1\n"}, push=False)
    rig.mirror.keep(rig.scratch / bead_id, f"{job.head_sha}:{wip_ref(bead_id, 1)}")
    with transaction() as session:
        session.get_one(Dispatch, dispatch.id).wip_sha = job.head_sha
    commit(rig.remote, {"later": "1\n"})
    rig.mirror.fetch()
    said = gastown("diff", bead_id)
    assert changed(said.out) == ["wip"]
    assert f"attempt 1, saved as {job.head_sha[:12]}" in said.err


def test_of_an_earlier_attempt(gastown: Gastown, rig: Rig) -> None:
    with transaction() as session:
        bead = a_bead(session, status=BeadStatus.IN_PROGRESS)
        first = an_attempt(session, DispatchStatus.LOST, bead=bead)
        an_attempt(session, bead=bead)
    job = rig.work(bead.id, {"wip": "1\n"}, push=False)
    rig.mirror.keep(rig.scratch / bead.id, f"{job.head_sha}:{wip_ref(bead.id, 1)}")
    with transaction() as session:
        session.get_one(Dispatch, first.id).wip_sha = job.head_sha
    assert changed(gastown("diff", bead.id).out) == ["wip"]
    assert "attempt 2 on" in gastown("diff", bead.id, "--attempt", "2").err
    said = gastown("diff", bead.id, "--attempt", "3")
    assert (said.code, f"there is no attempt 3 on {bead.id}" in said.err) == (3, True)
    assert gastown("diff", bead.id, "--attempt", "0").code == 2


def test_nothing_to_see(gastown: Gastown, rig: Rig) -> None:
    assert gastown("diff", "gt-none").code == 3
    with transaction() as session:
        bead = a_bead(session)
        same = an_attempt(session, DispatchStatus.SUCCEEDED)
    said = gastown("diff", bead.id)
    assert (said.code, said.out) == (1, "")
    assert f"there is no attempt on {bead.id} yet" in said.err
    rig.mirror.fetch()
    with transaction() as session:
        row = session.get_one(Dispatch, same.id)
        row.base_sha = row.head_sha = head(rig.remote, "main")
    said = gastown("diff", same.bead_id)
    assert (said.code, said.out) == (0, "")
    assert "nothing is changed" in said.err


def test_fetched_from_the_remote_or_said_to_be_away(gastown: Gastown, rig: Rig, tmp_path: Path) -> None:
    request, _ = in_review(rig, {"first": "1\n", "second": "2\n"})
    sha = now(request).head_sha
    git(rig.scratch / request.bead_id, "push", "-q", str(rig.remote), f"{sha}:{head_ref(request.bead_id, 1)}")
    mirror = rig.mirror.path
    mirror.rename(tmp_path / "mirror away")
    assert changed(gastown("diff", request.bead_id).out) == ["first", "second"]
    mirror.rename(tmp_path / "mirror away too")
    rig.remote.rename(tmp_path / "away")
    said = gastown("diff", request.bead_id)
    assert (said.code, said.out) == (4, "")
    assert "gives no answer" in said.err
    (tmp_path / "away").rename(rig.remote)
    git(rig.remote, "update-ref", "-d", head_ref(request.bead_id, 1))
    git(rig.remote, "prune", "--expire=now")
    said = gastown("diff", request.bead_id)
    assert (said.code, said.out) == (3, "")
    assert f"there is no commit {sha[:12]} in this machine's mirror or on {rig.remote}" in said.err


def test_a_patch_is_a_patch(rig: Rig, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Byte for byte when it goes elsewhere; at a terminal nothing in it can steer that."""
    request, _ = in_review(rig, {"odd": "caf\u00e9 \x1b[31mred\n", "new\nline": "x\n"})
    git(rig.remote, "config", "color.ui", "always")
    capfdbinary.readouterr()
    assert cli.run(["diff", request.bead_id]) == 0
    out = capfdbinary.readouterr().out
    assert b"+caf\xc3\xa9 \x1b[31mred\n" in out
    (tmp_path / "patch").write_bytes(out)
    git(rig.remote, "apply", str(tmp_path / "patch"))
    assert (rig.remote / "odd").read_bytes() == b"caf\xc3\xa9 \x1b[31mred\n"


def test_at_a_terminal(rig: Rig, gastown: Gastown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request, _ = in_review(rig, {"odd": "\x1b[31mred\n"})
    monkeypatch.setattr(paging, "is_terminal", lambda: True)
    monkeypatch.setenv("PAGER", f"cat > '{tmp_path}/paged'")
    assert gastown("diff", request.bead_id).out == ""
    assert "\x1b[32m" in (tmp_path / "paged").read_text()
    monkeypatch.setenv("PAGER", "no-such-pager")
    plain = gastown("diff", request.bead_id).out
    monkeypatch.setenv("PAGER", "cat")
    assert gastown("diff", request.bead_id).out == plain
    assert "\x1b" not in plain
    assert "+red" in plain
    monkeypatch.setenv("PAGER", "true")
    assert gastown("diff", request.bead_id).code == 0
