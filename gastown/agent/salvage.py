"""What earlier attempts on a bead left on this node: their processes end, their work is kept, their worktrees go."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from gastown.agent import processes, runs
from gastown.agent.git import GitError
from gastown.agent.mirror import Mirror
from gastown.agent.snapshot import Person
from gastown.agent.workspace import Workspace, leftovers


def end_earlier(home: Path, bead_id: str, epoch: int) -> bool:
    """End every process of attempts on this bead with a lower epoch; never one of this epoch or a later one."""
    node = runs.node_mark(home).encode()

    def find() -> list[int]:
        return [
            pid
            for pid, environment in processes.marked(runs.BEAD, bead_id).items()
            if environment.get(runs.NODE.encode()) == node and _epoch(environment) < epoch
        ]

    return processes.end_all(find)


def at_work(home: Path, dispatch_id: str) -> str | None:
    """Another attempt whose supervisor lives, of those in this home; also one in another container.

    For the home of a single bead: all attempts in it but one are over, or superseded and about to end.
    """
    for lock in (home / "runs").glob("*/lock"):
        if lock.parent.name == dispatch_id:
            continue
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return lock.parent.name
        finally:
            os.close(descriptor)
    return None


def salvage(
    home: Path, mirror: Mirror, bead_id: str, epoch: int, person: Person, note: Callable[[str], None]
) -> list[str]:
    """Keep the work in worktrees of earlier epochs; returns the refs it is under now.

    A worktree whose work cannot be kept stays where it is, and the attempt goes on without it. One salvage at a time,
    since housekeeping does the same for beads that are over: a look at half a worktree would be kept as deletions.
    """
    kept = []
    with mirror.locked("salvage"):
        for earlier in leftovers(home, bead_id, epoch):
            workspace = Workspace(home, mirror, bead_id, earlier, person, note)
            try:
                if workspace.save():
                    kept.append(workspace.wip_ref)
                    note(f"kept what attempt {earlier} left uncommitted or unpushed: {workspace.wip_sha}")
                workspace.remove()
            except (GitError, OSError) as error:
                note(f"the worktree of attempt {earlier} stays at {workspace.path}: {error}")
    return kept


def _epoch(environment: dict[bytes, bytes]) -> int:
    value = os.fsdecode(environment.get(runs.EPOCH.encode(), b""))
    return int(value) if value.isdigit() else 2**62
