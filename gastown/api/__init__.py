"""The HTTP API. Each route parses, calls one command in a transaction of its own, and answers."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException

from gastown import migrations
from gastown.api.agents import router as agents
from gastown.api.gathering import Gathered
from gastown.api.health import router as health
from gastown.api.metrics import router as metrics
from gastown.db import in_transaction
from gastown.errors import GastownError, NotFound, RequestError, TemporaryError
from gastown.store import services
from gastown.store.attempts import Fenced
from gastown.store.views import API

log = structlog.get_logger()


def create_app() -> FastAPI:
    app = FastAPI(title="Gastown", lifespan=_alive, docs_url=None, redoc_url=None)
    app.state.gathered = Gathered()
    app.include_router(agents)
    app.include_router(health)
    app.include_router(metrics)
    app.add_exception_handler(Fenced, _fenced)
    app.add_exception_handler(GastownError, _problem)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _unreadable)
    app.add_exception_handler(DataError, _unstorable)
    app.add_exception_handler(UnicodeEncodeError, _unstorable)
    app.add_exception_handler(Exception, _fault)
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
        except Exception:  # without this thread no lease runs, so the town would stand still for good
            log.exception("api_beat_raised")
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


async def _refused(_: Request, error: Exception) -> JSONResponse:
    """No token, no such route, no such method, no JSON."""
    assert isinstance(error, HTTPException)
    answer = _answer(422 if error.status_code == 400 else error.status_code, "refused", str(error.detail))
    answer.headers.update(error.headers or {})
    return answer


async def _unreadable(_: Request, error: Exception) -> JSONResponse:
    """Says where and why, and never repeats what was sent: it may be a secret, or nothing that JSON can hold."""
    assert isinstance(error, RequestValidationError)
    found = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()]
    return _answer(422, "unreadable", "; ".join(found[:10]).encode(errors="replace").decode())


async def _unstorable(_: Request, error: Exception) -> JSONResponse:
    """A NUL character, half a character, a number that is too large: the database never takes it."""
    reason = error.orig if isinstance(error, DataError) else error
    return _answer(422, "unstorable", str(reason).splitlines()[0])


async def _fault(_: Request, error: Exception) -> JSONResponse:
    return _answer(500, "fault", "an error of Gastown's own; its log has the details")


def _answer(status: int, title: str, detail: str, hint: str = "") -> JSONResponse:
    body = {"title": title, "status": status, "detail": detail} | ({"hint": hint} if hint else {})
    return JSONResponse(body, status_code=status, media_type="application/problem+json")
