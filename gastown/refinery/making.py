"""What each merge method makes of the recorded head, in a fresh worktree; and how it is known again on a target."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from gastown.agent import submodules
from gastown.agent.git import GitError, git
from gastown.agent.mirror import Mirror
from gastown.gates import MergeMethod
from gastown.refinery import conflicts
from gastown.refinery.jobs import Held, MergeJob, presentable_path
from gastown.states import HoldCode

SUBJECT_CHARS = 200
SHOWN_PATHS = 10
SHOWN_SUBJECTS = 50  # of squashed commits, in the message
BEAD, DISPATCH, HEAD, CONVOY = "Gastown-Bead", "Gastown-Dispatch", "Gastown-Head", "Gastown-Convoy"
_OURS = re.compile(rf"({BEAD}|{DISPATCH}|{HEAD}|{CONVOY})\s*[:=#]", re.IGNORECASE)  # git takes more than it writes
# Whatever a person's configuration says about rebases. Their options are newer than the oldest git that works here.
_REBASE = ("rebase.updateRefs=false", "rebase.rebaseMerges=false", "rebase.missingCommitsCheck=ignore")


def make(job: MergeJob, mirror: Mirror, worktree: Path, base: str) -> str | Held:
    """The SHA of the result, checked out in the worktree, and kept in the mirror before any command of the rig can
    touch the clone. It has the content of `base` when nothing is left of the work. Raises GitError.
    """
    if not common(mirror, job.head_sha, base):
        reason = f"the work and {job.target} have no commit in common"
        return Held(code=HoldCode.CONFLICT, reason=reason)
    try:
        match job.method:
            case MergeMethod.SQUASH:
                made = _squash(job, mirror, worktree, base)
            case MergeMethod.REBASE:
                made = _rebase(job, worktree, base)
            case _:
                made = _merge(job, worktree)
    except GitError as error:
        paths = git("diff", "--name-only", "--diff-filter=U", "-z", cwd=worktree).split("\0")[:-1]
        if error.exit_code != 1 or not paths:
            raise
        output = conflicts.detail(worktree, base, job.head_sha, paths, job.target)
        return Held(code=HoldCode.CONFLICT, reason=_conflict(job, worktree, paths), output=output)
    mirror.keep(worktree, f"+{made}:{job.merging_ref}")
    submodules.check_out(mirror, worktree)  # what the result names, which gates are about to see
    return made


def is_empty(mirror: Mirror, made: str, base: str) -> bool:
    """Whether the result has the content that was there already."""
    trees = git("rev-parse", f"{made}^{{tree}}", f"{base}^{{tree}}", cwd=mirror.path).split()
    return trees[0] == trees[1]


def brought(mirror: Mirror, job: MergeJob, tip: str, since: Sequence[str]) -> str | None:
    """The commit on the first-parent history of `tip` that a squash or rebase of this very head made; None: none did.

    By the trailers of the last commit that such a merge makes: what has other SHAs cannot be known by them. Commits
    older than the work's base cannot be it: `since` is what is common to both.
    """
    trailers = ",".join((f"key={DISPATCH}", f"key={HEAD}", "valueonly", "separator=%x20"))
    line = _log(
        mirror.path,
        "--first-parent",
        "--fixed-strings",
        f"--grep={HEAD}: {job.head_sha}",
        f"--format=%H %(trailers:{trailers})",
        tip,
        *(f"^{sha}" for sha in since),
    )
    for found in line.splitlines():
        sha, *values = found.split()
        if values == [job.dispatch_id, job.head_sha]:
            return sha
    return None


def stands_on(mirror: Mirror, sha: str, dispatch_id: str) -> str:
    """The commit that a merge of this attempt, which ends with `sha`, was made on: its first parent, or, of a rebase,
    that of its first commit."""
    form = f"--format=%H %(trailers:key={DISPATCH},key={HEAD},valueonly,separator=%x20)"
    line = _log(mirror.path, "--first-parent", "--max-count=10000", form, sha).splitlines()
    for found in line[1:]:
        parent, *values = found.split()
        if values != [dispatch_id]:
            return parent
    return git("rev-parse", f"{sha}^1", cwd=mirror.path).strip()


def common(mirror: Mirror, head: str, base: str) -> list[str]:
    """The newest commits that both have; none in histories that never met."""
    try:
        return git("merge-base", "--all", head, base, cwd=mirror.path).split()
    except GitError as error:
        if error.exit_code != 1:
            raise
        return []


def _log(place: Path, *args: str) -> str:
    return git("-c", "log.showSignature=false", "log", *args, cwd=place)


def _conflict(job: MergeJob, worktree: Path, paths: list[str]) -> str:
    more = f" and {len(paths) - SHOWN_PATHS} more" if len(paths) > SHOWN_PATHS else ""
    at = ""
    if job.method is MergeMethod.REBASE:
        sha, subject = _log(worktree, "-1", "--format=%h%n%s", "REBASE_HEAD").split("\n")[:2]
        at = f", at commit {sha} ({presentable_path(subject)})"
    return f"conflicts with {job.target} in {', '.join(map(presentable_path, paths[:SHOWN_PATHS]))}{more}{at}"


# --- merge


def _merge(job: MergeJob, worktree: Path) -> str:
    message = f"{_one_line(f'Merge {job.bead_id}: {job.title}')}\n\n{_trailers(job)}"
    options = ("--no-ff", "--no-edit", "--no-stat", "--no-log", "--no-signoff", "--no-verify-signatures")
    who = _committer(job) | _author(job.author or _gastown(job))
    git("merge", *options, "--cleanup=whitespace", "-m", message, job.head_sha, cwd=worktree, env=who)
    return _head(worktree)


# --- squash


def _squash(job: MergeJob, mirror: Mirror, worktree: Path, base: str) -> str:
    """One commit with the content that a merge would have, by who made the recorded head."""
    who = _committer(job) | _author(_gastown(job))  # git wants to know, although it commits nothing here
    options = ("--squash", "--no-stat", "--no-signoff", "--no-verify-signatures")
    git("merge", *options, job.head_sha, cwd=worktree, env=who)
    tree = git("write-tree", cwd=worktree).strip()
    log = _log(mirror.path, "--format=%s", "--reverse", "--no-merges", job.head_sha, f"^{base}")
    subjects = [f"* {_one_line(line)}" for line in log.splitlines()]
    if len(subjects) > SHOWN_SUBJECTS:
        subjects[SHOWN_SUBJECTS:] = [f"* and {len(subjects) - SHOWN_SUBJECTS} more"]
    body = "\n".join(subjects) + "\n\n" if len(subjects) > 1 else ""
    message = f"{_one_line(job.title)} ({job.bead_id})\n\n{body}{_trailers(job, last=True)}"
    author = job.author or _log(mirror.path, "-1", "--format=%an <%ae>", job.head_sha).strip()
    made = _commit(worktree, tree, base, message, _committer(job) | _author(author))
    git("reset", "--quiet", "--soft", made, cwd=worktree)
    return made


# --- rebase


def _rebase(job: MergeJob, worktree: Path, base: str) -> str:
    """The commits of the work on top of `base`, one after another, without those that leave nothing to commit.

    Merges in it are not kept, so a conflict that one of them solved may come up again.
    """
    settings = [part for setting in _REBASE for part in ("-c", setting)]
    options = ("--quiet", "--merge", "--empty=drop", "--reapply-cherry-picks", "--no-autosquash", "--no-autostash")
    git(*settings, "rebase", *options, base, job.head_sha, cwd=worktree, env=_committer(job))
    form = "--format=%T%n%an%n%ae%n%ad%n%B"
    log = _log(worktree, "-z", "--reverse", "--encoding=UTF-8", "--date=raw", form, f"{base}..HEAD")
    commits = log.split("\0")[:-1]  # each ends with one
    tip = base
    for number, fields in enumerate(commits, 1):
        tip = _with_trailers(job, worktree, fields, tip, last=number == len(commits))
    git("checkout", "--quiet", "-B", job.branch, tip, "--", cwd=worktree)
    return tip


def _with_trailers(job: MergeJob, worktree: Path, fields: str, parent: str, *, last: bool) -> str:
    """The same commit on another parent, with our trailers and no others of that name: its agent wrote the message."""
    tree, name, mail, date, message = fields.split("\n", 4)
    kept = "\n".join(line for line in message.split("\n") if not _OURS.match(line)).strip() or f"Work on {job.bead_id}"
    given = (part for line in _trailers(job, last=last).splitlines() for part in ("--trailer", line))
    options = ("--no-divider", "--where=end", "--if-exists=add", "--if-missing=add")
    written = git("interpret-trailers", *options, *given, cwd=worktree, stdin=os.fsencode(f"{kept}\n"))
    who = _committer(job) | _author(f"{name} <{mail}>") | {"GIT_AUTHOR_DATE": f"@{date}"}
    return _commit(worktree, tree, parent, written, who)


# --- of all


def _commit(worktree: Path, tree: str, parent: str, message: str, who: Mapping[str, str]) -> str:
    text = os.fsencode(message)
    utf8 = ("-c", "i18n.commitEncoding=UTF-8")
    return git(*utf8, "commit-tree", tree, "-p", parent, cwd=worktree, env=who, stdin=text).strip()


def _head(worktree: Path) -> str:
    return git("rev-parse", "HEAD", cwd=worktree).strip()


def _one_line(text: str) -> str:
    return " ".join(text.split())[:SUBJECT_CHARS]


def _trailers(job: MergeJob, *, last: bool = False) -> str:
    """`last`: of a commit that is not a merge, and completes one: it says which head it brings."""
    said = {BEAD: job.bead_id, CONVOY: job.convoy, DISPATCH: job.dispatch_id, HEAD: job.head_sha if last else None}
    return "".join(f"{name}: {value}\n" for name, value in said.items() if value)


def _gastown(job: MergeJob) -> str:
    return f"{job.committer} <{job.email}>"


def _committer(job: MergeJob) -> dict[str, str]:
    return {"GIT_COMMITTER_NAME": job.committer, "GIT_COMMITTER_EMAIL": job.email}


def _author(author: str) -> dict[str, str]:
    name, _, mail = author.rpartition(" <")
    return {"GIT_AUTHOR_NAME": name or "?", "GIT_AUTHOR_EMAIL": mail.removesuffix(">")}
