"""The second half of a merge: the push with an expected value, what its failure means, and what is kept for later."""

import re
from collections.abc import Sequence

from gastown.agent.git import GitError, git
from gastown.agent.mirror import Mirror
from gastown.refinery import worktrees
from gastown.refinery.jobs import (
    Dirty,
    MergeJob,
    Moved,
    Prepared,
    Pushed,
    PushOutcome,
    PushRefused,
    Unknown,
    presentable,
    presentable_path,
)
from gastown.refinery.remote import fetch_target, is_ancestor, translated
from gastown.refinery.repository import (
    dirty_paths,
    local_path,
    release_abandoned_locks,
    take_back,
    unfinished_on,
    untracked_in_the_way,
)

# A checkout of a person's own takes the push into its files when they are unchanged, and their settings stay theirs.
INTO_CHECKOUT = (
    "--receive-pack=git -c receive.denyCurrentBranch=updateInstead -c receive.autogc=false"
    " -c core.filesRefLockTimeout=2000 receive-pack"  # ms; somebody else's git there may be at work
)
_CHANGED = re.compile(r"Working directory has (un)?staged changes|Up-to-date check failed|Working directory not clean")
_WOULD_OVERWRITE = "Could not update working tree"
_LOCKED = re.compile(r"Unable to create '.+\.lock': File exists")
_ABORTED = "ref updates aborted by hook"  # of a reference-transaction hook, of which git's server side dies
_OF_GIT = re.compile(r"To |Done$|[!=+*-]\t|(error|fatal|hint|warning|send-pack): ")
_MOVED_MEANWHILE = re.compile(r"is at [0-9a-f]{40,64} but expected")
_FORBIDDEN = re.compile(
    r"error: 403|permission to .+ denied|denied to|not allowed to push|write access|read.only|not have permission"
    r"|protected branch",
    re.IGNORECASE,
)
# A push needs more rights than the fetch before it, and nobody is there to type a password.
_NO_CREDENTIALS = re.compile(
    r"could not read (username|password)|terminal prompts disabled|authentication failed|error: 401"
    r"|permission denied \([a-z,-]*(publickey|password|keyboard-interactive)",
    re.IGNORECASE,
)


def push(job: MergeJob, prepared: Prepared) -> PushOutcome:
    """Move the target from `expected_sha` to the merge, or leave it alone. What is there already counts as pushed."""
    mirror = Mirror.open(job.home, job.rig_id, job.repository)
    try:
        return _push(mirror, job, prepared.tip_sha, prepared.expected_sha)
    except GitError as error:  # of a look at the checkout, before anything was pushed
        return Unknown(presentable(error.reason))


def land(job: MergeJob, staged_sha: str) -> PushOutcome:
    """Push a merge that was prepared earlier and waits. Moved when the target has left the line that it stands on."""
    try:
        mirror = Mirror.open(job.home, job.rig_id, job.repository)
        target = fetch_target(mirror, job.target)
        if target is None or mirror.resolve(staged_sha) is None:
            return Moved()
        if is_ancestor(mirror, staged_sha, target):
            return Pushed()
        if not is_ancestor(mirror, target, staged_sha):
            return Moved()
        return _push(mirror, job, staged_sha, target)
    except GitError as error:
        return Unknown(presentable(error.reason))


def contains(job: MergeJob, sha: str) -> bool:
    """Whether the remote's target has `sha` now. Raises RepositoryUnavailable when it gives no answer."""
    mirror = Mirror.open(job.home, job.rig_id, job.repository)
    try:
        target = fetch_target(mirror, job.target)
        return target is not None and mirror.resolve(sha) is not None and is_ancestor(mirror, sha, target)
    except GitError as error:
        raise translated(error, job.repository) from error


def stage(job: MergeJob, prepared: Prepared) -> None:
    """Keep a merge that a dirty checkout does not let in, in the mirror and where its owner sees it.

    An earlier one under this ref is not lost: each merge commit stays under its own `merging_ref`.
    Raises RepositoryUnavailable or GitFailed when the remote does not take it; the mirror has it by then.
    """
    mirror = Mirror.open(job.home, job.rig_id, job.repository)
    try:
        mirror.set_ref(job.merged_ref, prepared.merge_sha)
        mirror.push(f"+{prepared.merge_sha}:{job.merged_ref}")
    except GitError as error:
        raise translated(error, job.repository) from error


def release(job: MergeJob) -> None:
    """After the record: remove what worktrees are left of this merge and earlier ones of the bead. Refs stay."""
    worktrees.remove_leftovers(worktrees.directory(job.home, job.rig_id), job.bead_id, job.merge_epoch)


def _push(mirror: Mirror, job: MergeJob, sha: str, expected_sha: str) -> PushOutcome:
    options = (f"--force-with-lease=refs/heads/{job.target}:{expected_sha}",)
    try:
        if local_path(job.repository) is None:
            mirror.push(f"{sha}:refs/heads/{job.target}", options=options)
            return Pushed()
        with mirror.locked():  # git updates the files before it looks at the lease: two at once would leave a mixture
            return _push_locally(mirror, job, sha, expected_sha, options)
    except GitError as error:
        return _meaning(error, mirror, job, sha, expected_sha)


def _push_locally(
    mirror: Mirror, job: MergeJob, sha: str, expected_sha: str, options: tuple[str, ...]
) -> Pushed | Dirty:
    """Once more if the first try found, or left, the files of a checkout ahead of its branch. Raises GitError."""
    if operations := unfinished_on(job.repository, job.target):
        return Dirty(tuple(operations))  # git would change the files in the middle of it
    for last in (False, True):
        try:
            mirror.push(f"{sha}:refs/heads/{job.target}", options=(*options, INTO_CHECKOUT))
            break
        except GitError as error:
            released = not last and release_abandoned_locks(job.repository, job.target)
            if error.unreachable and not error.timed_out and not released:
                raise
            tree = git("rev-parse", f"{sha}^{{tree}}", cwd=mirror.path).strip()
            put_back = take_back(job.repository, job.target, tree, expected_sha)
            if last or not (put_back or released):
                raise
    return Pushed()


def _meaning(error: GitError, mirror: Mirror, job: MergeJob, sha: str, expected_sha: str) -> PushOutcome:
    output = error.output
    if error.timed_out:
        return Unknown(presentable(error.reason))
    if error.stale or _MOVED_MEANWHILE.search(output):
        return Moved()
    if _LOCKED.search(output):
        return Unknown(presentable(f"somebody else is using git in {job.repository}: {error.reason}"))
    if _CHANGED.search(output):
        changed = dirty_paths(job.repository, job.target)  # none: they were undone since, so trying again will do
        return Dirty(_presentable_paths(changed)) if changed else Unknown(presentable(error.reason))
    if _WOULD_OVERWRITE in output:
        added = git("diff", "--name-only", "--no-renames", "--diff-filter=A", "-z", expected_sha, sha, cwd=mirror.path)
        blocking = untracked_in_the_way(job.repository, job.target, added.split("\0")[:-1])
        blocking += dirty_paths(job.repository, job.target)
        if blocking:
            return Dirty(_presentable_paths(blocking))
    refused = refusal_of(error, job.repository)
    return Unknown(presentable(error.reason)) if refused is None else refused


def refusal_of(error: GitError, repository: str) -> PushRefused | None:
    """What a remote meant by refusing a push; None when it did not refuse it."""
    if error.refused or _ABORTED in error.output or _FORBIDDEN.search(error.output):
        return PushRefused(_words_of_the_remote(error))
    if _NO_CREDENTIALS.search(error.output):
        hint = "give git a credential helper or an ssh key that may push there"
        return PushRefused(presentable(f"{repository} wants a login for pushes; {hint} ({error.reason})"))
    return None


def _presentable_paths(paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(presentable_path(path) for path in paths)


def _words_of_the_remote(error: GitError) -> str:
    """What its hooks printed, then git's own short reason: `no pushes on Friday (pre-receive hook declined)`."""
    lines = (line.removeprefix("remote:").strip() for line in error.output.split("\n"))
    said = [line for line in lines if line and not _OF_GIT.match(line)]
    short = re.search(r"\[remote rejected\] (\(.+\))", error.output)
    aborted = f"({_ABORTED})" if _ABORTED in error.output else ""
    words = " ".join([*said, short[1] if short else aborted]).strip()
    return presentable(words or error.reason, 2000)
