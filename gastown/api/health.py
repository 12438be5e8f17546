"""Whether the API is there, and whether it can serve."""

from fastapi import APIRouter
from sqlalchemy import text

from gastown.db import transaction

router = APIRouter()


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz")
def readyz() -> dict[str, str]:
    """503 by way of DatabaseUnavailable when Postgres is away."""
    with transaction() as session:
        session.execute(text("SELECT 1"))
    return {"status": "ready"}
