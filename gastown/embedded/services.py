"""What a stack consists of, and how each part is started."""

import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from gastown.embedded import home, port, postgres, ready, redis
from gastown.embedded.service import Service
from gastown.settings import Settings

APP = "gastown.celery_app"
API = "gastown.api:create_app"
DRAIN = "gastown.cli.drain"  # started by name: this package knows nothing of runtimes

CONTROL_PROCESSES = WATCH_PROCESSES = 2  # a second one, for the time that one is busy
# a warm shutdown is for nothing when database and broker go as well
ORPHANED_WORKER = signal.SIGKILL
WORKERS = ("control", "watch", "worker", "merge")


def environment(settings: Settings, extra: dict[str, str]) -> dict[str, str]:
    """Ours, with these settings written out, so that each child reads the same. PGPORT and the like stay behind."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"GASTOWN_HOME": str(settings.home)} | dict(_variables(settings, "GASTOWN_")) | extra


def _variables(model: BaseModel, prefix: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name in sorted(model.model_fields_set):
        value, variable = getattr(model, name), prefix + name.upper()
        if isinstance(value, BaseModel):
            found += _variables(value, variable + "__")
        elif value is not None:
            found.append((variable, json.dumps(value) if isinstance(value, (dict, list)) else str(value)))
    return found


def servers(settings: Settings, lock: int) -> list[Service]:
    """Redis and Postgres, each unless a URL names another one."""
    data = settings.home
    found = []
    if settings.embedded_broker:
        found.append(
            Service(
                name="redis",
                argv=redis.command(data / "redis", settings.run_dir),
                log=home.log_file(data, "redis"),
                cwd=data / "run",
                env=postgres.environment(),
                stop_signal=redis.STOP_SIGNAL,
                pass_fds=[lock],
                before=lambda quick_deaths: redis.prepare_start(data / "redis", quick_deaths),
                is_ready=lambda pid: redis.is_ready(settings.run_dir),
            )
        )
    if settings.embedded_database:
        found.append(
            Service(
                name="postgres",
                argv=postgres.command(data / "pg", settings.run_dir),
                log=home.log_file(data, "postgres"),
                cwd=data / "run",
                env=postgres.environment(),
                stop_signal=postgres.STOP_SIGNAL,
                grace_s=30.0,
                prefix=postgres.prefix(),
                pass_fds=[lock],
                before=lambda quick_deaths: postgres.prepare_start(data / "pg"),
                is_ready=lambda pid: postgres.is_ready(data / "pg"),
            )
        )
    return found


def programs(settings: Settings, lock: int, api: socket.socket, app: str, env: dict[str, str]) -> list[Service]:
    """The Celery workers and the API: with these the stack is ready."""
    node = settings.node
    return [
        # ticks have processes of their own: however many starts or inspections hang, the town decides
        _worker(settings, lock, app, env, "control", ["control"], CONTROL_PROCESSES),
        _worker(settings, lock, app, env, "watch", [f"watch.{node}", "upkeep"], WATCH_PROCESSES),
        _worker(settings, lock, app, env, "worker", [f"node.{node}"], settings.worker_processes),
        _worker(settings, lock, app, env, "merge", ["merge"], settings.merge_processes),
        Service(
            name="api",
            argv=[sys.executable, "-P", "-m", "gastown.embedded.serve", API, str(api.fileno())],
            log=home.log_file(settings.home, "api"),
            cwd=settings.home / "run",
            env=env,
            pass_fds=[lock, api.fileno()],
            is_ready=lambda pid: port.answers(settings),
        ),
    ]


def beat(settings: Settings, lock: int, app: str, env: dict[str, str]) -> Service:
    """What fires the periodic tasks. It has nothing to add to a start, so it is started last."""
    return Service(
        name="beat",
        argv=[
            *_celery(app),
            "beat",
            f"--schedule={settings.home / 'run' / 'beat'}",
            "--pidfile=",
            *_level(settings),
        ],
        log=home.log_file(settings.home, "beat"),
        cwd=settings.home / "run",
        env=env,
        grace_s=5.0,
        pass_fds=[lock],
    )


def one_shot(settings: Settings, lock: int, module: str, env: dict[str, str], *arguments: str) -> Service:
    """A child that does one thing and ends: `prepare`, or the drain."""
    name = module.rpartition(".")[2]
    return Service(
        name=name,
        argv=[sys.executable, "-P", "-m", module, *arguments],
        log=home.log_file(settings.home, name),
        cwd=settings.home / "run",
        env=env,
        pass_fds=[lock],
    )


def _worker(
    settings: Settings, lock: int, app: str, env: dict[str, str], name: str, queues: list[str], processes: int
) -> Service:
    node = f"{name}@{settings.node}"
    told = ready.path(settings.home / "run", node)
    return Service(
        name=name,
        argv=worker_command(app, node, queues, processes),
        log=home.log_file(settings.home, name),
        cwd=settings.home / "run",
        env=env,
        orphan_signal=ORPHANED_WORKER,
        grace_s=30.0,  # a start that is under way: DESIGN 3 gives a runtime call 30 s
        pass_fds=[lock],
        before=lambda quick_deaths: told.unlink(missing_ok=True),
        is_ready=lambda pid: holds(told, pid),
    )


def worker_command(app: str, name: str, queues: Sequence[str], processes: int) -> list[str]:
    """A Celery worker that says when it consumes (`ready`). It sends events of tasks only when Flower asks for them."""
    return [sys.executable, "-P", "-m", "gastown.embedded.working", app, name, ",".join(queues), str(processes)]


def _celery(app: str) -> list[str]:
    return [sys.executable, "-P", "-m", "celery", "-A", app]


def _level(settings: Settings) -> list[str]:
    return [f"--loglevel={settings.log_level}"]


def holds(file: Path, pid: int) -> bool:
    try:
        return file.read_text() == str(pid)
    except OSError:
        return False
