"""What is left of attempts on which nobody works any more: refs/gastown/archive/<bead>/<epoch>, in mirror and remote.

A ref moves there in three steps: the new name, a look whether it is there, and only then the old names go, each only
with the value that was read. Killed in between, both names are there, and the next run ends what this one began.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from gastown.agent.git import GitError, git
from gastown.agent.mirror import Mirror
from gastown.agent.protocol import SNAPSHOT, archive_ref
from gastown.agent.snapshot import Person, commit_tree

REFS_AT_ONCE = 200  # each of some hundred bytes, on one command line
REMOTE_TIMEOUT_S = 60.0
SELF = Person("gastown", "gastown@gastown.localhost")
_REF = re.compile(
    r"(?P<kind>refs/gastown/(?:wip|head|archive|left|merging|remote/(?:wip|head|archive))|refs/remotes/gastown/head)"
    r"/(?P<bead>[^/]+)/(?P<number>\d+)(?:/.+)?"
)
# What is brought under the one name; the first one that is there says what the files are like.
_MOVED = tuple(f"refs/gastown/{kind}" for kind in ("wip", "head", "archive", "remote/wip", "remote/head"))


class Attempt(NamedTuple):
    bead_id: str
    epoch: int  # 0: what merges of the bead left


Found = Mapping[Attempt, Mapping[str, str]]  # the refs of each, with their commits


def find(mirror: Mirror) -> dict[Attempt, dict[str, str]]:
    """Every ref of an attempt in the mirror. Raises GitError."""
    arguments = ("for-each-ref", "--format=%(objectname) %(refname)", "refs/gastown", "refs/remotes/gastown")
    return _by_attempt(line.split(" ", 1) for line in git(*arguments, cwd=mirror.path).split("\n")[:-1])


def find_remote(mirror: Mirror) -> dict[Attempt, dict[str, str]]:
    """The same on the remote, now. Raises GitError."""
    return _by_attempt(mirror.list_remote("refs/gastown/*", timeout_s=REMOTE_TIMEOUT_S))


def _by_attempt(listed: Iterable[Sequence[str]]) -> dict[Attempt, dict[str, str]]:
    found: dict[Attempt, dict[str, str]] = {}
    for sha, ref in listed:
        if name := _REF.fullmatch(ref):
            epoch = 0 if name["kind"].endswith("/merging") else int(name["number"])
            found.setdefault(Attempt(name["bead"], epoch), {})[ref] = sha
    return found


def archive(mirror: Mirror, found: Found, is_past: Callable[[Attempt], bool]) -> int:
    """Bring the refs of past attempts under their archive ref; how many attempts. May be repeated. Raises GitError."""
    count = 0
    for some in _some(found, is_past, names_to_move):
        new = {attempt: _tip(mirror, refs) for attempt, refs in some.items()}
        mirror.update_refs([f"update {archive_ref(*attempt)} {sha}" for attempt, sha in new.items()])
        there = find(mirror)
        safe = {each for each, sha in new.items() if there.get(each, {}).get(archive_ref(*each)) == sha}
        old = {ref: sha for each in safe for ref, sha in some[each].items() if ref != archive_ref(*each)}
        mirror.update_refs([f"delete {ref} {sha}" for ref, sha in old.items()])
        count += len(safe)
    return count


def archive_remote(mirror: Mirror, found: Found, is_past: Callable[[Attempt], bool]) -> int:
    """The same for what was pushed. Raises GitError when the remote does not answer; a refusal leaves what it has."""
    count = 0
    for some in _some(found, is_past, names_to_move):
        _bring(mirror, some)
        new = {attempt: _tip(mirror, refs) for attempt, refs in some.items()}
        refspecs, leases = [], []
        for attempt, sha in new.items():
            name = archive_ref(*attempt)
            refspecs.append(f"{sha}:{name}")
            leases.append(f"--force-with-lease={name}:{some[attempt].get(name, '')}")
        _try_push(mirror, refspecs, leases)
        there = find_remote(mirror)
        safe = {each for each, sha in new.items() if there.get(each, {}).get(archive_ref(*each)) == sha}
        old = {ref: sha for each in safe for ref, sha in some[each].items() if ref != archive_ref(*each)}
        _delete_remote(mirror, old)
        count += len(safe)
    return count


def drop(mirror: Mirror, found: Found, is_expired: Callable[[Attempt], bool]) -> int:
    """Remove every ref of attempts whose time is over; how many attempts. Raises GitError."""
    count = 0
    for some in _some(found, is_expired, lambda refs: refs):
        mirror.update_refs([f"delete {ref} {sha}" for refs in some.values() for ref, sha in refs.items()])
        count += len(some)
    return count


def drop_remote(mirror: Mirror, found: Found, is_expired: Callable[[Attempt], bool]) -> None:
    for some in _some(found, is_expired, lambda refs: refs):
        _delete_remote(mirror, {ref: sha for refs in some.values() for ref, sha in refs.items()})


def _some(
    found: Found,
    wanted: Callable[[Attempt], bool],
    of_interest: Callable[[Mapping[str, str]], Mapping[str, str]],
) -> Iterator[dict[Attempt, Mapping[str, str]]]:
    """The wanted attempts that have refs of interest, in handy portions."""
    each = ((attempt, of_interest(refs)) for attempt, refs in found.items() if wanted(attempt))
    remaining = iter([(attempt, refs) for attempt, refs in each if refs])
    while some := dict(islice(remaining, REFS_AT_ONCE)):
        yield some


def names_to_move(refs: Mapping[str, str]) -> dict[str, str]:
    """Those that are to be one, the leading one first; none when they are one already."""
    mine = {ref: sha for kind in _MOVED for ref, sha in refs.items() if ref.startswith(f"{kind}/")}
    return {} if all(ref.startswith("refs/gastown/archive/") for ref in mine) else mine


def _tip(mirror: Mirror, refs: Mapping[str, str]) -> str:
    """One commit that reaches all of these: the first one if it does, or another, or a snapshot made of them."""
    shas = list(dict.fromkeys(refs.values()))
    tops = git("merge-base", "--independent", *shas, cwd=mirror.path).split() if len(shas) > 1 else shas
    if len(tops) == 1:
        return tops[0]
    first, rest = shas[0], [sha for sha in tops if sha != shas[0]]
    parent = mirror.resolve(f"{first}^1") if mirror.is_snapshot(first) else None
    message = f"Work that was kept under several names\n\n{SNAPSHOT}: archive\n"
    return commit_tree(mirror.path, f"{first}^{{tree}}", [*([parent] if parent else []), first, *rest], message, SELF)


def _bring(mirror: Mirror, some: Found) -> None:
    """What another node pushed comes here first: only who has a commit can give it another name."""
    wanted = {ref: sha for refs in some.values() for ref, sha in refs.items() if mirror.resolve(sha) is None}
    if wanted:
        mirror.fetch(*(f"+{ref}:refs/gastown/remote/{ref.removeprefix('refs/gastown/')}" for ref in wanted))


def _delete_remote(mirror: Mirror, refs: Mapping[str, str]) -> None:
    remaining = iter(refs.items())
    while some := list(islice(remaining, REFS_AT_ONCE)):
        _try_push(mirror, [f":{ref}" for ref, _ in some], [f"--force-with-lease={ref}:{sha}" for ref, sha in some])


def _try_push(mirror: Mirror, refspecs: Sequence[str], options: Sequence[str]) -> None:
    """Each ref is taken or refused on its own; who needs to know looks at what is there afterwards."""
    try:
        mirror.push(*refspecs, options=options, timeout_s=REMOTE_TIMEOUT_S)
    except GitError as error:
        if not (error.refused or error.stale):
            raise
