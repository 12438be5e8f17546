"""What the gates said of a merge, kept with its request."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from gastown.models import MergeRequest
from gastown.states import MERGING
from gastown.store.moves import lock_bead, record
from gastown.store.orders import MergeOrder


def note_gates(session: Session, order: MergeOrder, runs: Sequence[Mapping[str, Any]]) -> bool:
    """Keep it, before the push; a flaky gate is named in the journal. False: the merge is somebody else's by now."""
    bead = lock_bead(session, order.bead_id)
    statement = (
        update(MergeRequest)
        .where(
            MergeRequest.id == order.id,
            MergeRequest.merge_epoch == order.merge_epoch,
            MergeRequest.status.in_(MERGING),
        )
        .values(gate_runs=list(runs))
        .returning(MergeRequest.id)
    )
    ours = session.execute(statement.execution_options(synchronize_session=False)).first() is not None
    if bead is None or not ours:
        return False
    for run in runs:
        if run["tries"] > 1:
            message = f"gate {run['name']} passed only at try {run['tries']} of {run['allowed']}"
            record(session, bead.town_id, "gate_flaky", message, actor="refinery", bead_id=bead.id)
    return True
