"""Looking at the target of a merge: git's failures in our terms, and what the remote's branch already contains."""

from gastown.agent import beadhomes
from gastown.agent.git import GitError, git, succeeds
from gastown.agent.mirror import Mirror
from gastown.errors import GastownError, GitFailed, RepositoryUnavailable
from gastown.refinery.jobs import presentable


def translated(error: GitError, repository: str) -> GastownError:
    """Whether trying again may help: RepositoryUnavailable if so, else GitFailed."""
    if error.untrusted:
        hint = f"run: git config --global --add safe.directory {repository}"
        return RepositoryUnavailable(f"git does not trust {repository}: it belongs to another user", hint=hint)
    if error.disk_full:
        return RepositoryUnavailable("the disk is full", hint="free some space; what was to be done is done then")
    if error.unreachable:
        hint = f"check that this works: git ls-remote {repository}"
        return RepositoryUnavailable(f"{repository} gives no answer: {presentable(error.reason)}", hint=hint)
    return GitFailed(error.command, presentable(error.output))


def fetch_target(mirror: Mirror, branch: str) -> str | None:
    """The head of the branch on the remote now, or None when it has no such branch. Raises GitError."""
    try:
        mirror.fetch(f"+refs/heads/{branch}:refs/remotes/origin/{branch}")
    except GitError as error:
        if "couldn't find remote ref" in error.output:
            return None
        raise
    return mirror.target(branch)


def has_commit(mirror: Mirror, sha: str, *refs: str) -> bool:
    """Whether the mirror has this commit, now or after asking the homes of this node's containers and the remote.

    The remote is asked by these refs, then by the SHA itself.
    """
    if mirror.resolve(sha):
        return True
    for ref in refs:
        beadhomes.bring(mirror, ref)
    if mirror.resolve(sha):
        return True
    # never onto our own refs: the ref may have been pushed to since, and here it may hold what is found nowhere else
    asked = [f"+{ref}:refs/remotes/gastown/{ref.removeprefix('refs/gastown/')}" for ref in refs]
    for refspec in (*asked, f"{sha}:refs/remotes/gastown/sha/{sha}"):
        try:
            mirror.fetch(refspec)
        except GitError as error:
            if not _says_it_has_none(error):
                raise
        if mirror.resolve(sha):
            return True
    return False


def _says_it_has_none(error: GitError) -> bool:
    words = (
        "couldn't find remote ref",
        "not our ref",
        "unadvertised object",
        "bad object",
        "missing necessary objects",
    )
    return any(word in error.output for word in words)


def is_ancestor(mirror: Mirror, sha: str, descendant: str) -> bool:
    """Whether `descendant` has `sha` in its history; both must be in the mirror."""
    return succeeds("merge-base", "--is-ancestor", sha, descendant, cwd=mirror.path)


def bringer(mirror: Mirror, head_sha: str, tip: str) -> str:
    """The commit that brought `head_sha` onto a branch, by first-parent history: a merge, or itself if fast-forwarded.

    `tip` must contain it. Asks git log2(n) times for the n commits of the branch that came after.
    """
    line = git("rev-list", "--first-parent", tip, f"^{head_sha}", cwd=mirror.path).split()
    low, high = 0, len(line)  # line[:low] contain it, line[high:] do not; newest first
    while low < high:
        middle = (low + high) // 2
        if is_ancestor(mirror, head_sha, line[middle]):
            low = middle + 1
        else:
            high = middle
    if low == 0:
        return head_sha
    oldest = line[low - 1]
    parent = mirror.resolve(f"{oldest}^1")
    return head_sha if parent and is_ancestor(mirror, head_sha, parent) else oldest
