"""What an agent has to know of a conflict: the files as git left them, and what both sides meant with them."""

from collections.abc import Sequence
from pathlib import Path

from gastown.agent.git import GitError, git
from gastown.refinery.jobs import presentable, presentable_path

# All of it has to fit into what is kept of a hold (`merges.HELD_OUTPUT_CHARACTERS`), which keeps the end.
DETAIL_CHARS = 15_000
FILES_CHARS = 8_000
FILE_CHARS = 3_000
SIDE_CHARS = 3_000
MOST_PATHS = 100
MOST_COMMITS = 20
COMMIT_CHARS = 600
_STATES = {  # of the index, as `git status` writes them
    "DD": "both sides deleted it",
    "AU": "the target added it",
    "UD": "the work deleted it, and the target changed it",
    "UA": "the work added it",
    "DU": "the target deleted it, and the work changed it",
    "AA": "both sides added it, differently",
    "UU": "both sides changed the same lines",
}


def detail(worktree: Path, base: str, head: str, paths: Sequence[str], target: str) -> str:
    """Of a merge of `head` onto `base` that stands in the worktree in conflict. Bounded, for prompts and for people.

    What git cannot say of it is left out: the conflict itself is known by then.
    """
    some = list(paths[:MOST_PATHS])
    parts = [_files(worktree, some, more=len(paths) - len(some))]
    try:
        forks = git("merge-base", "--all", base, head, cwd=worktree).split()
        parts += [
            _side(worktree, f"What the work did to these files (up to {head[:12]}):", head, forks, some),
            _side(worktree, f"What {target} did to them meanwhile (up to {base[:12]}):", base, forks, some),
        ]
    except GitError:
        pass
    return "\n\n".join(part for part in parts if part)[:DETAIL_CHARS]


def _files(worktree: Path, paths: Sequence[str], *, more: int) -> str:
    """Each file with what is wrong with it and its hunks; files give way to each other, so that many are seen."""
    states = _states_of(worktree)
    room = max(FILES_CHARS // max(len(paths), 1), 200)
    blocks = []
    for path in paths:
        head = f"{presentable_path(path)}: {states.get(path, 'in conflict')}"
        hunks = _cut(_hunks(worktree, path), min(room, FILE_CHARS))
        blocks.append(f"{head}\n{hunks}".rstrip())
    left_out = [f"and {more} more files"] if more > 0 else []
    return _cut("\n\n".join(["The files in conflict:", *blocks, *left_out]), FILES_CHARS + 500)


def _states_of(worktree: Path) -> dict[str, str]:
    listed = git("status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=no", cwd=worktree)
    return {line[3:]: _STATES[line[:2]] for line in listed.split("\0") if line[:2] in _STATES}


def _hunks(worktree: Path, path: str) -> str:
    """With both sides' lines between git's markers, without the heads that say nothing new."""
    options = ("--no-ext-diff", "--no-textconv", "--no-color", "--unified=3")
    try:
        shown = git("--literal-pathspecs", "diff", *options, "--", path, cwd=worktree)
    except GitError:
        return ""
    lines = presentable(shown, FILE_CHARS * 2).split("\n")
    start = next((number for number, line in enumerate(lines) if line.startswith("@@")), 0)
    return "\n".join(lines[start:]).rstrip()


def _side(worktree: Path, heading: str, tip: str, forks: Sequence[str], paths: Sequence[str]) -> str:
    """What touched these files on one side since both were one: merges, which name their beads, then commits."""
    range_ = (tip, *(f"^{fork}" for fork in forks), "--", *paths)
    found = [
        each for which in (("--first-parent", "--merges"), ("--no-merges",)) for each in _log(worktree, which, range_)
    ]
    listed = "\n\n".join(found) or "nothing that is a commit of its own"
    return f"{heading}\n\n{_cut(listed, SIDE_CHARS)}"


def _log(worktree: Path, which: Sequence[str], range_: Sequence[str]) -> list[str]:
    """Subject, body and trailers of each commit, the newest first."""
    options = (*which, f"--max-count={MOST_COMMITS}", "--no-color", "--format=%x00%h %an: %s%n%n%b")
    log = git("--literal-pathspecs", "-c", "log.showSignature=false", "log", *options, *range_, cwd=worktree)
    return [_cut(presentable(each).strip(), COMMIT_CHARS) for each in log.split("\0") if each.strip()]


def _cut(text: str, limit: int) -> str:
    """Its beginning."""
    return text if len(text) <= limit else f"{text[:limit]}\n[...]"
