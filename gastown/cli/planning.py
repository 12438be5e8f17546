"""A plan that was given as a file: read, and its beads assigned to rigs and agents."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from gastown.cli import reading, screen, slinging
from gastown.cli.words import in_short
from gastown.commands import plan_files
from gastown.commands.plan_formats import PlanFormat
from gastown.commands.plans import Plan
from gastown.models import Rig

PLAN_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class Assigned:
    """As `plans.sling_plan` wants it."""

    rigs: dict[str | None, Rig]  # by the name that a bead gives
    agents: dict[str, str]  # the preset of each bead, by its id in the plan


def read_plan(file: str, written: PlanFormat | None) -> Plan:
    """Says what was left out of it. Raises UsageError or NotFound."""
    source = "standard input" if file == "-" else file
    found = plan_files.read_plan(reading.read_text(file, PLAN_BYTES), source, written)
    for line in found.notes:
        screen.note(f"plan: {in_short(line)}")
    return found.plan


def assign(session: Session, town_id: int, plan: Plan, rig: str | None, agent: str | None) -> Assigned:
    """`rig` and `agent` for beads that name none. Raises NotFound, and UsageError for a bead that no agent can do."""
    rigs = {name: slinging.pick_rig(session, town_id, name or rig) for name in {bead.rig for bead in plan.bead}}
    wanted = {(bead.rig, bead.agent or agent) for bead in plan.bead}
    known = {(where, name): slinging.pick_agent(rigs[where], name) for where, name in wanted}
    agents = {}
    for bead in plan.bead:
        preset = known[bead.rig, bead.agent or agent]
        slinging.require_script(preset, bead.title, bead.body)
        agents[bead.id] = preset.name
    return Assigned(rigs, agents)
