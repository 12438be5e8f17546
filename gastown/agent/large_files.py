"""Files that a repository keeps with git-lfs: a commit has pointers to them, and their content goes ways of its own.

The mirror keeps the content in its `lfs` folder, for all clones of this node. What a clone lacks is fetched while git
checks it out, and what a push brings is uploaded first: nobody then finds a pointer to what is on this node alone.
"""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from gastown.agent.git import GitError, git, succeeds

if TYPE_CHECKING:
    from gastown.agent.mirror import Mirror

POINTER_BYTES = 1024  # a pointer is smaller, as git-lfs has it
OBJECTS_AT_ONCE = 500  # 65 bytes each, on one command line
LENIENT = {"GIT_LFS_SKIP_DOWNLOAD_ERRORS": "1"}  # what cannot be had stays a pointer
_POINTER = re.compile(r"^version https://git-lfs\.github\.com/spec/v1\n(?:ext-.*\n)*oid sha256:([0-9a-f]{64})$", re.M)
_MISSING = re.compile(r"missing object|object does not exist|\[404\]", re.IGNORECASE)
_DEFAULT = {
    "clean": "git-lfs clean -- %f",
    "smudge": "git-lfs smudge -- %f",
    "process": "git-lfs filter-process",
    "required": "true",
}


def store(mirror: Path) -> Path:
    """Where the content is, by what its pointers say."""
    return mirror / "lfs"


def filters(mirror: Path) -> dict[str, str]:
    """The person's own settings of git-lfs, or its usual ones, for the configuration of a clone; none without git-lfs.

    An agent has another HOME, and would commit the content itself.
    """
    if shutil.which("git-lfs") is None:
        return {}
    try:
        listed = git("config", "-z", "--get-regexp", r"^filter\.lfs\.", cwd=mirror)
    except GitError as error:
        if error.exit_code != 1:
            raise
        return _DEFAULT
    pairs = (entry.partition("\n") for entry in listed.split("\0")[:-1])
    return {key.removeprefix("filter.lfs."): value for key, _, value in pairs}


def is_missing(error: GitError) -> bool:
    """Whether a checkout failed because the remote itself does not have the content of a pointer."""
    return "smudge" in error.output and bool(_MISSING.search(error.output))


def remarks(checkout: Path, failed: GitError | None = None) -> list[str]:
    """What to say of a checkout whose large files are pointers. Empty: it has none, or has them."""
    if failed is not None:
        found = re.search(r"Error downloading object: (.+?) \(", failed.output)
        which = f"{found[1]} and maybe others are" if found else "some are"
        return [f"of the files kept with git-lfs, {which} pointers here: the remote does not have them"]
    try:
        if shutil.which("git-lfs") is None and _has_some(checkout):
            return ["files kept with git-lfs are pointers here: git-lfs is not installed on this machine"]
    except GitError:
        return []
    return []


def upload(mirror: "Mirror", revisions: Sequence[str], timeout_s: float) -> None:
    """Bring the remote the content that these commits name and its branches do not, as far as this node has it.

    Raises GitError. Costs nothing where no large file was ever seen.
    """
    if not (store(mirror.path) / "objects").is_dir() or not revisions:
        return
    names = [name for name in _named(mirror.path, revisions) if _file(mirror.path, name).is_file()]
    if names and shutil.which("git-lfs") is None:
        words = "fatal: files kept with git-lfs are to be uploaded, and it is not installed on this machine any more"
        raise GitError("lfs push", words, 127)
    settings = [part for each in _destination(mirror, revisions[0]) for part in ("-c", each)]
    for first in range(0, len(names), OBJECTS_AT_ONCE):
        some = names[first : first + OBJECTS_AT_ONCE]
        push = (*settings, "lfs", "push", "--object-id", "origin", *some)
        git(*push, cwd=mirror.path, timeout_s=timeout_s, login=mirror.login)


def _named(mirror: Path, revisions: Sequence[str]) -> list[str]:
    since = ("--not", "--remotes=origin")
    small = ("--objects", "--no-object-names", f"--filter=blob:limit={POINTER_BYTES}")
    objects = git("rev-list", *small, *revisions, *since, cwd=mirror)
    if not objects:
        return []
    kinds = git("cat-file", "--batch-check=%(objecttype) %(objectname)", cwd=mirror, stdin=objects.encode())
    blobs = "".join(f"{line[5:]}\n" for line in kinds.splitlines() if line.startswith("blob "))
    content = git("cat-file", "--batch", cwd=mirror, stdin=blobs.encode()) if blobs else ""
    return list(dict.fromkeys(_POINTER.findall(content)))


def _file(mirror: Path, name: str) -> Path:
    return store(mirror) / "objects" / name[:2] / name[2:4] / name


def _destination(mirror: "Mirror", revision: str) -> list[str]:
    """The remote as git-lfs wants it, and the server that the repository itself names: a mirror has no files."""
    repository = mirror.repository
    local = os.path.isabs(repository)
    settings = [f"remote.origin.url={f'file://{quote(os.fsencode(repository))}' if local else repository}"]
    for key in ("lfs.url", "lfs.pushurl"):
        try:
            value = git("config", "--blob", f"{revision}:.lfsconfig", "--get", key, cwd=mirror.path)
        except GitError:
            continue  # no such file, or no such line in it
        settings.append(f"{key}={value.rstrip()}")
    return settings


def _has_some(checkout: Path) -> bool:
    where = ":(glob)**/.gitattributes"
    return succeeds("grep", "--cached", "--quiet", "--fixed-strings", "filter=lfs", "--", where, cwd=checkout)
