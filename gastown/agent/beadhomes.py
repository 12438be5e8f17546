"""Homes of single beads: what attempts in containers keep there is brought into the mirrors of their node.

An agent may write anything there, and git runs what the configuration of a repository names. So no git ever runs in one
of these: an empty repository of our own borrows its objects, and shows those refs that may be taken.
"""

import hashlib
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from gastown.agent import archive, large_files
from gastown.agent.git import GitError, git, succeeds
from gastown.agent.mirror import MODULES, Mirror
from gastown.agent.remaking import refs_in

log = logging.getLogger(__name__)
FOLDER = "beads"
SETTLED = (".start-", ".new-", ".gone-")  # beside worktrees: of what was never whole, or is saved
REFS_AT_ONCE = 200
_BEAD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MODULE = re.compile(r"[0-9a-f]{24}\.git")
_LARGE = re.compile(r"[0-9a-f]{64}")
_OF_BEAD = re.compile(r"refs/gastown/(?:wip|head|archive|left|merging|remote/\w+)/(?P<bead>[^/]+)/\d+(?:/.+)?")


class Untrusted(Exception):
    """A bead's home has what no supervisor leaves there, such as a link to somewhere else."""


def names(home: Path) -> list[str]:
    """The beads that have a home of their own on this node."""
    for going in (home / FOLDER).glob(".going-*"):
        shutil.rmtree(going, ignore_errors=True)
    for gone in (home / FOLDER).glob(".gone-*"):  # cut short before the last look, so it is whole
        own = gone.with_name(gone.name.removeprefix(".gone-"))
        if not own.exists():
            gone.rename(own)
    return sorted(path.name for path in (home / FOLDER).glob("*") if _BEAD.fullmatch(path.name) and path.is_dir())


def bring(mirror: Mirror, ref: str) -> None:
    """Before somebody looks for what this ref of an attempt names: bring it here, if this node made it.

    Never raises: who looks may find it elsewhere.
    """
    found = _OF_BEAD.fullmatch(ref)
    if found is None or not _BEAD.fullmatch(found["bead"]):
        return
    try:
        take(mirror, found["bead"])
    except (GitError, OSError, Untrusted) as error:
        log.warning("what %s has in its home was not brought into %s: %s", found["bead"], mirror.path, error)


def take(mirror: Mirror, bead_id: str) -> int:
    """Bring what this bead's home holds and its rig's mirror does not; how many refs. May be repeated, and at any time.

    Raises GitError, OSError and Untrusted; then the rest is not there yet.
    """
    own = mirror.path.parents[1] / FOLDER / bead_id / "mirrors"
    count = 0
    for source, node in _pairs(own, mirror):
        _check(source, node)
        count += _take(source, node, _missing(source, node, bead_id))
        _take_large_files(source, node)
    return count


def holds_more(mirror: Mirror, bead_id: str) -> str:
    """Why the home must stay although no attempt is under way; empty: all that it holds is in the node's mirrors.

    Raises GitError, OSError and Untrusted.
    """
    home = mirror.path.parents[1] / FOLDER / bead_id
    for folder in (home / "work").glob("*"):
        for entry in folder.iterdir() if folder.is_dir() else ():
            if not entry.name.startswith(SETTLED):
                return f"{entry} was not saved"
    for aside in [*home.glob("mirrors/*.damaged-*"), *home.glob(f"mirrors/{MODULES}/*.damaged-*")]:
        lost = aside / "gastown-lost-refs"
        if not lost.is_file() or lost.stat().st_size:
            return f"{aside} could not be read whole"
    for source, node in _pairs(home / "mirrors", mirror):
        _check(source, node)
        if missing := _missing(source, node, bead_id):
            return f"{source} has {next(iter(missing.values()))}"
    return ""


def _pairs(own: Path, mirror: Mirror) -> Iterator[tuple[Path, Mirror]]:
    """Each mirror of the home with that of the node: the rig's, and those of submodules."""
    rig = own / mirror.path.name
    if rig.is_dir():
        yield rig, mirror
    for path in sorted((own / MODULES).glob("*.git")):
        if _MODULE.fullmatch(path.name):
            node = Mirror(mirror.path.parent / MODULES / path.name, "")  # never fetched: its address is not known here
            if not node.path.is_dir():
                node.path.parent.mkdir(exist_ok=True)
                with node.locked():
                    node.make()
            yield path, node


def _check(source: Path, node: Mirror) -> None:
    """Folders and files and nothing else, borrowing from the node's own mirror and nobody else."""
    for each in (source.parents[1], source.parent, source):
        if each.is_symlink():
            raise Untrusted(f"{each} is a link")
    folders = [os.fspath(source)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                kind = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(kind):
                    folders.append(entry.path)
                elif not stat.S_ISREG(kind):
                    raise Untrusted(f"{entry.path} is neither a file nor a folder")
    for lender in _lenders(source):
        if lender.resolve() != node.path.resolve() / "objects":
            raise Untrusted(f"{source} borrows from {lender}")


def _lenders(source: Path) -> list[Path]:
    file = source / "objects" / "info" / "alternates"
    lines = file.read_bytes().split(b"\n") if file.is_file() else []
    return [Path(os.fsdecode(line)) for line in lines if line]


def _missing(source: Path, node: Mirror, bead_id: str) -> dict[str, str]:
    """What to take: the ref it gets here -> the ref it has there."""
    held = archive.find(node)
    missing = {}
    for ref, sha in refs_in(source).items():
        if ref.startswith(("refs/remotes/", "refs/tags/", "refs/gastown/remote/")):
            continue  # the remote's own
        found = _OF_BEAD.fullmatch(ref)
        mine = found is not None and found["bead"] == bead_id
        name = ref if mine else f"refs/gastown/left/{bead_id}/0/{ref.removeprefix('refs/')}"
        here = {sha for attempt, refs in held.items() if attempt.bead_id == bead_id for sha in refs.values()}
        if not _reaches(node, here, sha):
            missing[name] = ref
    return missing


def _reaches(node: Mirror, here: set[str], sha: str) -> bool:
    if sha in here:
        return True
    known = [each for each in here if node.resolve(each)]
    if not known or node.resolve(sha) is None:
        return False
    return not git("rev-list", "--max-count=1", sha, "--not", *known, "--", cwd=node.path).strip()


def _take(source: Path, node: Mirror, wanted: Mapping[str, str]) -> int:
    if not wanted:
        return 0
    refs = refs_in(source)
    _keep_replaced(node, {name: refs[ref] for name, ref in wanted.items()})
    with tempfile.TemporaryDirectory(prefix="gastown-") as folder:
        view = Path(folder) / "view.git"
        Mirror.make_bare(view)
        with (view / "config").open("a") as config:  # what these say comes from there as well, and need not be true
            config.write("[core]\n\tcommitGraph = false\n\tmultiPackIndex = false\n")
        (view / "objects" / "info").mkdir(exist_ok=True)
        (view / "objects" / "info" / "alternates").write_bytes(os.fsencode(source / "objects") + b"\n")
        lines = "".join(f"{refs[ref]} {ref}\n" for ref in sorted(set(wanted.values())))
        (view / "packed-refs").write_bytes(os.fsencode(lines))
        specs = [f"+{ref}:{name}" for name, ref in wanted.items()]
        for first in range(0, len(specs), REFS_AT_ONCE):
            node.take(view, specs[first : first + REFS_AT_ONCE])
    return len(wanted)


def _keep_replaced(node: Mirror, wanted: Mapping[str, str]) -> None:
    """A ref of ours that would move to where it does not contain what it had stays under another name."""
    lines = []
    for name, sha in wanted.items():
        before = node.resolve(name)
        if before is None or before == sha:
            continue
        if node.resolve(sha) is None or not succeeds("merge-base", "--is-ancestor", before, sha, cwd=node.path):
            kind, _, rest = name.removeprefix("refs/gastown/").partition("/")
            bead_id, epoch = rest.split("/")[:2]
            lines.append(f"update refs/gastown/left/{bead_id}/{epoch}/replaced/{kind}/{before} {before}")
    node.update_refs(lines)


def _take_large_files(source: Path, node: Mirror) -> None:
    """Content is named by its hash, and shared by all beads of the rig: it is what it says, or it is not taken."""
    for file in (large_files.store(source) / "objects").glob("*/*/*"):
        name = file.name
        target = large_files.store(node.path) / "objects" / name[:2] / name[2:4] / name
        if not _LARGE.fullmatch(name) or target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        made = target.with_name(f".{name}.{os.getpid()}")
        try:
            shutil.copyfile(file, made)
            with made.open("rb") as content:
                if hashlib.file_digest(content, "sha256").hexdigest() == name:
                    made.replace(target)
        finally:
            made.unlink(missing_ok=True)


def remove(home: Path, bead_id: str, may_go: Callable[[], bool]) -> bool:
    """Remove a bead's home, unless `may_go` says no at the last moment: who starts from now on makes another."""
    own, gone, going = (home / FOLDER / f"{prefix}{bead_id}" for prefix in ("", ".gone-", ".going-"))
    if not may_go():  # so that hardly any start finds it away for the moment of the last look
        return False
    shutil.rmtree(gone, ignore_errors=True)
    own.rename(gone)
    if not may_go():
        if not own.exists():
            gone.rename(own)
        return False
    gone.rename(going)  # from here on it is not whole, and nobody may work in it again
    shutil.rmtree(going, ignore_errors=True)
    return True
