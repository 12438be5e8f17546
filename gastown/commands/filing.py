"""Work that an agent files from inside its attempt.

Bounded (G6): agents that make work for agents never get tired of it, one bead that files the next one least of all.
"""

import hashlib
import json
import re
from pathlib import Path
from uuid import UUID

from sqlalchemy.orm import Session

from gastown.agent.protocol import Filed, NewWork
from gastown.commands.plans import RUN_LABEL
from gastown.commands.work import NewBead, check_new_bead, sling
from gastown.errors import Refused, UsageError
from gastown.models import Agent, Bead, Dispatch, Rig
from gastown.presets import load_preset, require_program
from gastown.store import attempts, listing
from gastown.store.moves import lock_beads, record
from gastown.store.policies import environment_of

FROM_LABEL, FAMILY_LABEL = "from:", "family:"  # from:<bead>:<key>, family:<the bead that a person made>
BEADS_OF_ONE = 50  # filed by one bead's agents in all its attempts: a long list of findings, not a loop
BEADS_OF_FAMILY = 200  # everything that follows from one bead; 50 of each alone would allow 2,500 in two steps
AFTER = 50  # blockers of one bead: each costs a lock and an edge
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def file_bead(session: Session, dispatch_id: UUID, work: NewWork, home: Path) -> Filed:
    """A new bead on the attempt's own rig, or the one that was filed under this key before, whatever became of it.

    Raises Fenced, UsageError, NotFound, and Refused above the bounds. Two beads of one family that file at the same
    moment may pass its bound by one.
    """
    _lock_in_order(session, dispatch_id, work)
    bead, dispatch = attempts.admit(session, dispatch_id)
    label = f"{FROM_LABEL}{bead.id}:{_key_of(work)}"
    family = next((each for each in bead.labels if each.startswith(FAMILY_LABEL)), FAMILY_LABEL + bead.id)
    members = listing.labels_of(session, bead.town_id, family)
    before = next((each for each, labels in members.items() if label in labels), None)
    if before is not None:
        return Filed(id=before, created=False)
    _check_bounds(bead, family, members)
    rig, agent = session.get_one(Rig, bead.rig_id), session.get_one(Agent, dispatch.agent_id)
    new = NewBead(
        title=work.title,
        body=work.body,
        priority=work.priority,
        after=work.after,
        agent=work.agent or dispatch.preset or None,
        labels=[label, family, *(each for each in bead.labels if each.startswith(RUN_LABEL))],
    )
    _check(new, rig, home)
    filed = sling(session, bead.town_id, rig, new, actor=agent.name)
    message = f"{filed}: {new.title}"
    record(session, bead.town_id, "filed", message, actor=agent.name, bead_id=bead.id, dispatch_id=dispatch_id)
    return Filed(id=filed, created=True)


def _lock_in_order(session: Session, dispatch_id: UUID, work: NewWork) -> None:
    """The attempt's bead and those that the new one waits for, in the one order that nobody deadlocks in."""
    if len(work.after) > AFTER:
        raise UsageError(f"it waits for {len(work.after)} beads, at most {AFTER} are possible", hint="chain them")
    dispatch = session.get(Dispatch, dispatch_id)
    if dispatch is not None and work.after:
        lock_beads(session, {dispatch.bead_id, *work.after})


def _key_of(work: NewWork) -> str:
    if not work.key:
        content = [work.title, work.body, work.priority, sorted(work.after), work.agent]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    if not KEY.fullmatch(work.key):
        raise UsageError(f"{work.key[:80]!r} cannot be a key", hint="up to 64 letters, digits, dots, dashes")
    return work.key


def _check_bounds(bead: Bead, family: str, members: dict[str, list[str]]) -> None:
    own = sum(any(each.startswith(f"{FROM_LABEL}{bead.id}:") for each in labels) for labels in members.values())
    if own >= BEADS_OF_ONE:
        raise Refused(
            f"{bead.id} has filed {own} beads, and no bead may file more",
            hint="put the rest into the body of one of them, or ask a person: gastown self escalate",
        )
    if len(members) >= BEADS_OF_FAMILY:
        root = family.removeprefix(FAMILY_LABEL)
        raise Refused(
            f"{len(members)} beads follow from {root} already, and no more may",
            hint="ask a person to go on: gastown self escalate",
        )


def _check(new: NewBead, rig: Rig, home: Path) -> None:
    """What a person's `sling` checks: text that can be stored, an agent that is there, a script if it runs one."""
    check_new_bead(new)
    if new.agent is None:
        return  # `sling` refuses it
    preset = load_preset(new.agent, home)
    require_program(preset, environment_of(rig))
    if preset.runs_scripts and not new.body.strip():
        what = f"the agent {preset.name} runs a bead's body as a script, and this one has none"
        raise UsageError(what, hint="--body 'commands', -F script.sh, or another --agent")
