"""Upkeep of this node's mirrors and worktrees: what past attempts left is kept under one name, and in the end dropped.

Git here and rows there: neither is locked meanwhile. Each step only takes names away whose commits it has just seen
under another one, or whose time was over when the rows were read.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import structlog

from gastown.agent import archive, processes, runs, upkeep
from gastown.agent.archive import Attempt
from gastown.agent.git import GitError
from gastown.agent.mirror import Mirror
from gastown.agent.salvage import salvage
from gastown.agent.workspace import leftovers
from gastown.db import in_transaction
from gastown.store.archive import Standing, rigs_of, rigs_of_beads, standings
from gastown.tasks.bead_homes import follow_remotes, tidy_bead_homes

log = structlog.get_logger()


def tidy_repositories(home: Path, keep_days: float) -> None:
    """Salvage the worktrees of past attempts, archive their refs, drop those whose time is over. One run at a time.

    What cannot be done for one rig, because its remote is away, waits for the next run and holds nothing else up.
    """
    with _alone(home) as alone:
        if not alone:
            return
        tidy_bead_homes(home, keep_days)
        mirrors = _mirrors(home)
        _each(mirrors, partial(_salvage, home, keep_days))
        _each(mirrors, partial(_archive, keep_days))
        _each(mirrors, partial(_tend, home))
        follow_remotes(home)


def _each(mirrors: list[tuple[int, Mirror]], work: Callable[[int, Mirror], None]) -> None:
    for rig_id, mirror in mirrors:
        try:
            work(rig_id, mirror)
        except (GitError, OSError) as error:
            log.warning("repository_not_tidied", rig=rig_id, error=str(error))


def _mirrors(home: Path) -> list[tuple[int, Mirror]]:
    names = {int(path.stem): path for path in (home / "mirrors").glob("*.git") if path.stem.isdigit()}
    known = in_transaction(lambda session: rigs_of(session, names))
    return [(rig_id, Mirror.open(home, rig_id, repository)) for rig_id, repository in sorted(known.items())]


def _salvage(home: Path, keep_days: float, rig_id: int, mirror: Mirror) -> None:
    """Of beads that are over nobody comes for a worktree any more: the supervisor was killed, and there is no next."""
    beads = [path.name for path in (home / "work").glob("*") if path.is_dir()]
    own = [bead for bead, rig in in_transaction(lambda session: rigs_of_beads(session, beads)).items() if rig == rig_id]
    known = in_transaction(lambda session: standings(session, rig_id, own, keep_days))
    for bead_id, standing in known.items():
        if None in standing.ended.values():
            continue  # an attempt is under way, and sees to what its predecessors left
        known_until = max(standing.ended, default=0) + 1  # of an attempt that began since, nothing may be touched
        past = max((epoch for epoch in leftovers(home, bead_id, known_until) if standing.is_past(epoch)), default=0)
        if past and not processes.marked(runs.BEAD, bead_id):
            salvage(home, mirror, bead_id, past + 1, archive.SELF, partial(_note, bead_id))


def _note(bead_id: str, words: str) -> None:
    log.info("worktree_salvaged", bead=bead_id, note=words)


def _archive(keep_days: float, rig_id: int, mirror: Mirror) -> None:
    """Here first. What the remote has comes after, since it may not answer."""
    found = archive.find(mirror)
    is_past, is_over = _standing(rig_id, found, keep_days)
    for attempt, refs in found.items():
        if is_over(attempt) and archive.names_to_move(refs):
            upkeep.note_late(mirror, attempt.bead_id)  # never archived here, so nobody can have seen it

    def is_expired(attempt: Attempt) -> bool:
        return is_over(attempt) and not upkeep.is_late(mirror, attempt.bead_id, keep_days)

    dropped = archive.drop(mirror, found, is_expired)
    if dropped:
        upkeep.note_dropped(mirror)
    upkeep.forget_late(mirror, keep_days)
    kept = {attempt: refs for attempt, refs in found.items() if not is_expired(attempt)}
    moved = archive.archive(mirror, kept, is_past)
    pushed = archive.find_remote(mirror)
    is_past, is_over = _standing(rig_id, pushed, keep_days)
    archive.drop_remote(mirror, pushed, is_over)
    kept = {attempt: refs for attempt, refs in pushed.items() if not is_over(attempt)}
    moved_there = archive.archive_remote(mirror, kept, is_past)
    if dropped or moved or moved_there:
        log.info("attempts_archived", rig=rig_id, archived=moved, on_remote=moved_there, dropped=dropped)


def _tend(home: Path, rig_id: int, mirror: Mirror) -> None:
    done = upkeep.tend(mirror)
    if upkeep.is_due(mirror, home):
        upkeep.prune(mirror)
        done.append("pruned")
    if done:
        log.info("mirror_packed", rig=rig_id, done=done)


def _standing(
    rig_id: int, found: archive.Found, keep_days: float
) -> tuple[Callable[[Attempt], bool], Callable[[Attempt], bool]]:
    """Whether an attempt is past, and whether its time is over. Of beads that nobody here knows, neither."""
    beads = {attempt.bead_id for attempt in found}
    known: dict[str, Standing] = in_transaction(lambda session: standings(session, rig_id, beads, keep_days))

    def is_past(attempt: Attempt) -> bool:
        return attempt.bead_id in known and known[attempt.bead_id].is_past(attempt.epoch)

    def is_expired(attempt: Attempt) -> bool:
        return attempt.bead_id in known and known[attempt.bead_id].is_expired(attempt.epoch)

    return is_past, is_expired


@contextmanager
def _alone(home: Path) -> Iterator[bool]:
    """Whether no other process of this node is at it; the lock goes with the process."""
    (home / "mirrors").mkdir(parents=True, exist_ok=True)
    file = os.open(home / "mirrors" / "upkeep.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(file)
