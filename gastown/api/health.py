"""Whether the API is there, and whether it can serve."""

from fastapi import APIRouter

from gastown.db import transaction
from gastown.errors import DatabaseUnavailable
from gastown.store import services
from gastown.store.views import API

router = APIRouter()


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz")
def readyz() -> dict[str, str]:
    """503 by way of DatabaseUnavailable when Postgres is away or does not take the sign of life that leases need."""
    with transaction() as session:
        if services.is_silent(session, API):
            raise DatabaseUnavailable(
                f"the API could not say for {services.SILENCE_S:.0f} s that it is alive", hint="see log/api.log"
            )
    return {"status": "ready"}
