"""Which attempts are past, and until when what they left is kept. Reads only."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.models import Bead, Dispatch, MergeRequest, Rig
from gastown.states import LIVE, TERMINAL, MergeStatus


@dataclass(kw_only=True)
class Standing:
    """A bead and its attempts, as far as their work goes. Epoch 0 stands for what its merges left."""

    closed_at: datetime | None  # None: the bead is unfinished
    now: datetime
    keep: timedelta
    ended: dict[int, datetime | None] = field(default_factory=dict)  # by epoch; None: it is live
    names: set[str] = field(default_factory=set)  # what a runtime calls its attempts
    wanted: set[int] = field(default_factory=set)  # their heads are about to be merged

    @property
    def is_over(self) -> bool:
        """The bead is, and so is each attempt on it, as far as the rows know."""
        return self.closed_at is not None and None not in self.ended.values()

    def is_past(self, epoch: int) -> bool:
        """Nobody will add to it: it ended, and either the bead is over or a later attempt took its place."""
        superseded = self.closed_at is not None or epoch < max(self.ended, default=0)
        return superseded and self.ended.get(epoch) is not None and epoch not in self.wanted

    def kept_until(self, epoch: int) -> datetime | None:
        """None: for as long as the bead is unfinished, or a merge is about to take it."""
        if self.closed_at is None or self.wanted:
            return None
        ended = self.ended.get(epoch) if epoch else self.closed_at
        return None if ended is None else max(ended, self.closed_at) + self.keep

    def is_expired(self, epoch: int) -> bool:
        end = self.kept_until(epoch)
        return end is not None and end <= self.now


def standings(session: Session, rig_id: int, bead_ids: Collection[str], keep_days: float) -> dict[str, Standing]:
    """Those of these beads that are known here; of any other, nobody here may touch the refs."""
    now = session.scalars(select(gastown_now())).one()
    wanted_beads = (Bead.rig_id == rig_id, Bead.id.in_(list(bead_ids)))
    found = {
        row.id: Standing(
            closed_at=(row.closed_at or now) if row.status in TERMINAL else None,
            now=now,
            keep=timedelta(days=keep_days),
        )
        for row in session.execute(select(Bead.id, Bead.status, Bead.closed_at).where(*wanted_beads))
    }
    attempts = select(Dispatch.id, Dispatch.bead_id, Dispatch.epoch, Dispatch.status, Dispatch.ended_at)
    for attempt in session.execute(attempts.where(Dispatch.bead_id.in_(list(found)))):
        found[attempt.bead_id].ended[attempt.epoch] = None if attempt.status in LIVE else attempt.ended_at
        found[attempt.bead_id].names.add(str(attempt.id))
    unfinished = MergeRequest.status.not_in((MergeStatus.CLOSED, MergeStatus.FAILED))
    # the head may be that of a rework bead, which is over long before it is merged
    merges = select(Dispatch.bead_id, Dispatch.epoch).join(MergeRequest, Dispatch.id == MergeRequest.dispatch_id)
    for wanted in session.execute(merges.where(Dispatch.bead_id.in_(list(found)), unfinished)):
        found[wanted.bead_id].wanted.add(wanted.epoch)
    return found


def rigs_of(session: Session, rig_ids: Collection[int]) -> dict[int, str]:
    """The repository of each of these rigs that is known here."""
    rows = session.execute(select(Rig.id, Rig.repository).where(Rig.id.in_(list(rig_ids))))
    return {row.id: row.repository for row in rows}


def description_of(session: Session, bead_id: str) -> tuple[str | None, dict[str, Any]]:
    """(preset of its last attempt, what its rig says of containers)"""
    last = select(Dispatch.preset).where(Dispatch.bead_id == bead_id).order_by(Dispatch.epoch.desc()).limit(1)
    container = select(Rig.container).join(Bead, Bead.rig_id == Rig.id).where(Bead.id == bead_id)
    return session.scalars(last).first(), session.scalars(container).one()


def rigs_of_beads(session: Session, bead_ids: Collection[str]) -> dict[str, int]:
    """The rig of each of these beads that is known here."""
    rows = session.execute(select(Bead.id, Bead.rig_id).where(Bead.id.in_(list(bead_ids))))
    return {row.id: row.rig_id for row in rows}
