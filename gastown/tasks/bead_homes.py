"""Upkeep of the homes that attempts in containers had: their work goes to this node's mirror, and then they go.

A home goes when its bead is over, no container of it is there, and all that it holds is in the mirror (G3). What cannot
be brought there stays for as long as any work is kept, at least from when it was first seen; a person is told of it.
"""

import shlex
from collections.abc import Collection
from pathlib import Path

import structlog

from gastown.agent import beadhomes, upkeep
from gastown.agent.beadhomes import Untrusted
from gastown.agent.git import GitError
from gastown.agent.mirror import Mirror
from gastown.agent.workspace import leftovers
from gastown.commands import described
from gastown.db import in_transaction
from gastown.errors import GastownError
from gastown.runtimes import CommandSpec, Runtime, registry
from gastown.settings import get_settings
from gastown.store import escalations
from gastown.store.archive import Standing, description_of, rigs_of, rigs_of_beads, standings

log = structlog.get_logger()

SALVAGE = ("python3", "-P", "-m", "gastown.agent.salvaging")
SALVAGE_S = 60.0  # for one bead; housekeeping has 120 s, and goes on an hour later


def tidy_bead_homes(home: Path, keep_days: float) -> None:
    """One run at a time; see `tidy_repositories`. What cannot be done for one bead holds no other up."""
    there = beadhomes.names(home)
    beads = in_transaction(lambda session: rigs_of_beads(session, there))
    for rig_id, mirror in _mirrors(home, set(beads.values())):
        own = [bead_id for bead_id, rig in beads.items() if rig == rig_id]
        for bead_id in own:
            try:
                _tidy(home, mirror, rig_id, bead_id, keep_days)
            except (GitError, OSError, Untrusted, GastownError) as error:
                log.warning("bead_home_not_tidied", bead=bead_id, error=str(error))


def follow_remotes(home: Path) -> None:
    """The next container borrows from the node's mirror, into which nobody else may ever fetch: no merges are here.

    Last of all, since a remote may not answer.
    """
    there = beadhomes.names(home)
    beads = in_transaction(lambda session: rigs_of_beads(session, there))
    for rig_id, mirror in _mirrors(home, set(beads.values())):
        try:
            mirror.fetch()
        except GitError as error:
            log.warning("mirror_not_fetched", rig=rig_id, error=str(error))


def _mirrors(home: Path, rig_ids: Collection[int]) -> list[tuple[int, Mirror]]:
    rigs = in_transaction(lambda session: rigs_of(session, rig_ids))
    return [(rig_id, Mirror.open(home, rig_id, repository)) for rig_id, repository in sorted(rigs.items())]


def _tidy(home: Path, mirror: Mirror, rig_id: int, bead_id: str, keep_days: float) -> None:
    standing = _standing(rig_id, bead_id, keep_days)
    if standing is None:
        return
    if standing.is_over and standing.is_expired(0):
        upkeep.note_late(mirror, bead_id)
    late = upkeep.is_late(mirror, bead_id, keep_days)
    expired = not late and standing.is_over and all(standing.is_expired(epoch) for epoch in (0, *standing.ended))
    runtime = registry.get("docker")
    gone = standing.is_over and not standing.names.intersection(runtime.list_names())
    try:
        past = max(standing.ended, default=0) + 1  # the bead may be retried at any moment, and get an attempt
        why = _bring(home, mirror, bead_id, past, runtime if gone else None)
    except (GitError, OSError, Untrusted, GastownError) as error:
        why = str(error)
    if why:
        log.warning("bead_home_stays", bead=bead_id, reason=why)
        if late:
            _tell(home, bead_id, why, keep_days)
    if not gone or (why and not expired):
        return

    def may_go() -> bool:
        now = _standing(rig_id, bead_id, keep_days)
        return now is not None and now.is_over and not now.names.intersection(runtime.list_names())

    if beadhomes.remove(home, bead_id, may_go):
        log.info("bead_home_removed", bead=bead_id)


def _bring(home: Path, mirror: Mirror, bead_id: str, past: int, runtime: Runtime | None) -> str:
    """Its work, into the mirror; with a runtime, also what nobody saved. Why the home must stay then; empty: it need
    not. Raises GitError, OSError, Untrusted and GastownError: it must, and the rest is not there yet."""
    taken = beadhomes.take(mirror, bead_id)
    if runtime is not None and leftovers(home / beadhomes.FOLDER / bead_id, bead_id, past):
        _salvage(runtime, home, mirror, bead_id, past)
        taken += beadhomes.take(mirror, bead_id)
    if taken:
        log.info("bead_home_taken", bead=bead_id, refs=taken)
    return "" if runtime is None else beadhomes.holds_more(mirror, bead_id)


def _tell(home: Path, bead_id: str, why: str, keep_days: float) -> None:
    own, node = home / beadhomes.FOLDER / bead_id, get_settings().node
    words = (
        f"work of {bead_id} on node {node} cannot be saved: {why}. {own} stays there for {keep_days:g} days from when "
        "that was seen, and then goes: copy from it what you need"
    )
    in_transaction(lambda session: escalations.raise_of_home(session, bead_id, node, words))


def _salvage(runtime: Runtime, home: Path, mirror: Mirror, bead_id: str, epoch: int) -> None:
    """Of a supervisor that was killed. In a container: what an agent left there is not for git on this machine."""
    own = home / beadhomes.FOLDER / bead_id
    preset, of_rig = in_transaction(lambda session: description_of(session, bead_id))
    container = described.container(preset, {**of_rig, "network": "none"})
    arguments = map(str, (own, home, mirror.path.stem, bead_id, epoch))
    result = runtime.run(
        CommandSpec(
            command=shlex.join([*SALVAGE, *arguments]),
            cwd=own,
            environment={"PYTHONPATH": "/opt/gastown"},
            timeout_s=SALVAGE_S,
            container=container,
            readable=(mirror.path,),
        )
    )
    said = result.output.decode(errors="replace").strip()[-2000:]
    log.info("bead_home_salvaged", bead=bead_id, exit_code=result.exit_code, said=said)


def _standing(rig_id: int, bead_id: str, keep_days: float) -> Standing | None:
    return in_transaction(lambda session: standings(session, rig_id, [bead_id], keep_days)).get(bead_id)
