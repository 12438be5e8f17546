"""What attempts left in this machine's mirror, and how a person gets it back."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from gastown.agent import archive, beadhomes, kept
from gastown.agent.archive import Attempt
from gastown.agent.git import GitError
from gastown.agent.kept import Work
from gastown.agent.mirror import Mirror
from gastown.agent.protocol import wip_ref
from gastown.cli import screen
from gastown.cli.ask import ask
from gastown.errors import GitFailed, NotFound, Refused, RepositoryUnavailable, UsageError
from gastown.models import Rig
from gastown.refinery.remote import translated
from gastown.refinery.repository import local_path
from gastown.settings import get_settings
from gastown.store import listing
from gastown.store.archive import Standing, standings
from gastown.store.beads import get_bead
from gastown.store.listing import AttemptRow

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@dataclass(frozen=True, kw_only=True)
class Kept:
    """An attempt, and its work if this machine has it."""

    row: AttemptRow
    work: Work | None
    until: datetime | None  # None: as long as the bead is unfinished

    def to_json(self) -> dict[str, Any]:
        work = None if self.work is None else {**asdict(self.work), "kept_until": self.until}
        return {**asdict(self.row), "work": work}


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What the rows say."""

    rig_id: int
    repository: str
    branch: str
    rows: list[AttemptRow]
    standing: Standing


def attempts_of(bead_id: str) -> list[Kept]:
    """Every attempt on a bead. Raises NotFound."""
    known = _known(bead_id)
    mirror = _mirror(known, bead_id)
    refs = archive.find(mirror) if mirror else {}
    return [_kept(known, mirror, refs, bead_id, row) for row in known.rows]


def _known(bead_id: str) -> _Known:
    def read(session: "Session", town_id: int) -> _Known:
        bead = get_bead(session, bead_id, town_id)
        rig = session.get_one(Rig, bead.rig_id)
        standing = standings(session, rig.id, [bead.id], get_settings().archive_days)[bead.id]
        rows = listing.list_attempts(session, bead.id)
        return _Known(rig_id=rig.id, repository=rig.repository, branch=rig.branch, rows=rows, standing=standing)

    return ask(read)


def _mirror(known: _Known, bead_id: str) -> Mirror | None:
    """This machine's, with all that its containers keep of this bead; None when it has neither."""
    home = get_settings().home
    contained = bead_id in beadhomes.names(home)
    if not contained and not (home / "mirrors" / f"{known.rig_id}.git").is_dir():
        return None
    mirror = Mirror.open(home, known.rig_id, known.repository)
    if contained:
        beadhomes.bring(mirror, wip_ref(bead_id, 1))
    return mirror


def _kept(
    known: _Known, mirror: Mirror | None, refs: Mapping[Attempt, Mapping[str, str]], bead_id: str, row: AttemptRow
) -> Kept:
    mine = refs.get(Attempt(bead_id, row.epoch), {})
    try:
        work = kept.work_of(mirror, mine, known.branch, row.base_sha, row.head_sha) if mirror and mine else None
    except GitError as error:
        raise GitFailed(error.command, error.output) from error
    return Kept(row=row, work=work, until=known.standing.kept_until(row.epoch))


def print_work(attempts: Sequence[Kept]) -> None:
    """One line for each attempt that left something."""
    held = [each for each in attempts if each.work is not None]
    if not held:
        return screen.say("\nnothing that they wrote is in this machine's mirror")
    heads = ("try", "commits", "files", "lines", "kept until", "ref")
    screen.say()
    screen.console().print(
        screen.table(heads, [_line(each.row.epoch, each.work, each.until) for each in held if each.work])
    )
    return screen.say(f"next: gastown attempts {_bead_of(held[0])} --restore {held[-1].row.epoch}")


def _line(epoch: int, work: Work, until: datetime | None) -> Sequence[str]:
    return (
        str(epoch),
        f"{work.commits}{' and uncommitted' if work.uncommitted else ''}",
        str(work.files),
        f"+{work.added} -{work.removed}",
        "its bead is over" if until is None else f"{until.astimezone():%Y-%m-%d}",
        work.ref,
    )


def _bead_of(attempt: Kept) -> str:
    assert attempt.work is not None
    return attempt.work.ref.split("/")[-2]


def restore(bead_id: str, epoch: int, branch: str | None) -> dict[str, Any]:
    """Make a branch of an attempt's work in the rig's repository, or say how to fetch it into a clone of that.

    Raises NotFound, UsageError for a name that is none, Refused for one that is taken.
    """
    known = _known(bead_id)
    name = branch or f"{bead_id}-{epoch}"
    if not kept.is_branch_name(name):
        raise UsageError(f"{name!r} is no name for a branch", hint="git help check-ref-format says which are")
    row = next((each for each in known.rows if each.epoch == epoch), None)
    if row is None:
        raise NotFound("attempt", f"{epoch} on {bead_id}", hint=f"gastown attempts {bead_id}")
    mirror = _mirror(known, bead_id)
    refs = archive.find(mirror) if mirror else {}
    found = _kept(known, mirror, refs, bead_id, row).work
    if mirror is None or found is None:
        hint = f"gastown attempts {bead_id} says of which there is any, on the machine {row.node}"
        raise NotFound("work", f"of attempt {epoch} on {bead_id} in this machine's mirror", hint=hint)
    answer = {"branch": name, "sha": found.sha, "repository": known.repository, "uncommitted": found.uncommitted}
    if local_path(known.repository) is None:
        return {**answer, "fetch": _fetch_command(mirror, Attempt(bead_id, epoch), found, name)}
    try:
        kept.make_branch(mirror, name, found.sha)
    except kept.BranchExists as error:
        hint = f"gastown attempts {bead_id} --restore {epoch} --branch ANOTHER"
        raise Refused(f"{error} in {known.repository}", hint=hint) from error
    except GitError as error:
        raise translated(error, known.repository) from error
    return {**answer, "fetch": None}


def _fetch_command(mirror: Mirror, attempt: Attempt, found: Work, name: str) -> str:
    """From the remote if it has the same commit, else from the mirror. Git itself refuses to overwrite a branch."""
    try:
        there = archive.find_remote(mirror).get(attempt, {})
    except GitError as error:
        known = translated(error, mirror.repository)
        if not isinstance(known, RepositoryUnavailable):
            raise known from error
        there = {}
    same = next((ref for ref, sha in there.items() if sha == found.sha), None)
    source, ref = (mirror.repository, same) if same else (str(mirror.path), found.ref)
    return shlex.join(["git", "fetch", source, f"{ref}:refs/heads/{name}"])


def print_restored(answer: Mapping[str, Any]) -> None:
    name, repository = answer["branch"], shlex.quote(answer["repository"])
    if answer["fetch"]:
        screen.say(f"{answer['sha'][:12]} is kept; in your clone of {answer['repository']}, make the branch {name}")
        screen.say(f"next: {answer['fetch']}")
        return
    screen.say(f"branch {name} of {answer['repository']} is at {answer['sha'][:12]}")
    if answer["uncommitted"]:
        screen.say(
            "its last commit holds work that was not committed; `git reset HEAD^` on it undoes that commit alone"
        )
    screen.say(f"next: git -C {repository} log --stat {shlex.quote(name)} --")
