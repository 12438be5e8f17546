"""The HTTP API. Each route parses, calls one command in a transaction of its own, and answers."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from gastown import migrations
from gastown.api.agents import router as agents
from gastown.api.health import router as health
from gastown.db import in_transaction
from gastown.errors import GastownError, NotFound, RequestError, TemporaryError
from gastown.store import services
from gastown.store.attempts import Fenced
from gastown.store.views import API

log = structlog.get_logger()


def create_app() -> FastAPI:
    app = FastAPI(title="Gastown", lifespan=_alive, docs_url=None, redoc_url=None)
    app.include_router(agents)
    app.include_router(health)
    app.add_exception_handler(Fenced, _fenced)
    app.add_exception_handler(GastownError, _problem)
    return app


@asynccontextmanager
async def _alive(_: FastAPI) -> AsyncIterator[None]:
    """While the API serves, it says so in the database: only then do leases run."""
    migrations.check()
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(ended,), name="api-beat", daemon=True)
    thread.start()
    yield
    ended.set()
    thread.join()


def _beat(ended: threading.Event) -> None:
    while not ended.is_set():
        try:
            in_transaction(lambda session: services.beat(session, API))
        except GastownError as error:
            log.warning("api_beat_failed", error=str(error))
        ended.wait(services.API_BEAT_S)


async def _fenced(_: Request, error: Exception) -> JSONResponse:
    return _answer(409, "fenced", str(error))


async def _problem(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GastownError)
    status = 500
    if isinstance(error, NotFound):
        status = 404
    elif isinstance(error, RequestError):
        status = 422
    elif isinstance(error, TemporaryError):
        status = 503
    return _answer(status, type(error).__name__, str(error), error.hint)


def _answer(status: int, title: str, detail: str, hint: str = "") -> JSONResponse:
    body = {"title": title, "status": status, "detail": detail} | ({"hint": hint} if hint else {})
    return JSONResponse(body, status_code=status, media_type="application/problem+json")
