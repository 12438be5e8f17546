"""The numbers in force: the settings', overridden by the town's, overridden by the rig's."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.models import Rig, Town
from gastown.reconcile.policy import Policy
from gastown.settings import get_settings


def policy_of(session: Session, rig_id: int) -> Policy:
    row = session.execute(
        select(Town.policy, Rig.policy).join(Rig, Rig.town_id == Town.id).where(Rig.id == rig_id)
    ).one()
    return Policy.of(get_settings().policy, row[0], row[1])


def rig_policies(session: Session, town_id: int) -> dict[int, Policy]:
    """Of every rig of the town, for a batch of beads."""
    rows = session.execute(
        select(Rig.id, Town.policy, Rig.policy).join(Town, Town.id == Rig.town_id).where(Town.id == town_id)
    )
    return {row[0]: Policy.of(get_settings().policy, row[1], row[2]) for row in rows}


def town_policy(session: Session, town_id: int) -> Policy:
    overrides = session.scalars(select(Town.policy).where(Town.id == town_id)).one()
    return Policy.of(get_settings().policy, overrides)
