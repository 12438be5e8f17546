"""The output of attempts, as numbered chunks of bytes."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.models import LogChunk
from gastown.store.listing import AttemptRow

BATCH = 32  # chunks of 64 KB at most


@dataclass(frozen=True)
class Chunk:
    seq: int
    at: datetime
    data: bytes


def chunks_after(session: Session, attempt: AttemptRow, seq: int) -> list[Chunk]:
    """The next BATCH chunks that are numbered above `seq`; the first is 0."""
    query = (
        select(LogChunk.seq, LogChunk.at, LogChunk.data)
        .where(LogChunk.day == attempt.queued_at.date(), LogChunk.dispatch_id == attempt.id, LogChunk.seq > seq)
        .order_by(LogChunk.seq)
        .limit(BATCH)
    )
    return [Chunk(*row) for row in session.execute(query)]
