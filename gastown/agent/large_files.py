"""Files that a repository keeps with git-lfs. Git runs that by itself where it is installed; else one sees pointers."""

import shutil
from pathlib import Path

from gastown.agent.git import GitError, succeeds


def remarks(checkout: Path) -> list[str]:
    """What to say of a checkout whose large files are pointers. Empty: it has none, or has them."""
    try:
        if not _has_some(checkout):
            return []
        if shutil.which("git-lfs") is None:
            return ["files kept with git-lfs are pointers here: git-lfs is not installed on this machine"]
        if not succeeds("config", "--get", "filter.lfs.process", cwd=checkout):
            return ["files kept with git-lfs are pointers here: run `git lfs install` once on this machine"]
    except GitError:
        return []
    return []


def _has_some(checkout: Path) -> bool:
    where = ":(glob)**/.gitattributes"
    return succeeds("grep", "--cached", "--quiet", "--fixed-strings", "filter=lfs", "--", where, cwd=checkout)
