"""Benches of the whole stack: a real worker, broker, database and agent processes, started in a temporary home."""

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench.report import row

SLINGS = 50
IDLE_S = 120.0


@contextmanager
def live_stack(**environment: str) -> Iterator[Path]:
    """A stack of its own, up; its folder. It is stopped at the end."""
    folder = Path(tempfile.mkdtemp(prefix="gt-bench-"))
    (folder / "faults").mkdir()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    os.environ |= {"GASTOWN_HOME": str(folder / "home"), "GASTOWN_API__BIND": f"127.0.0.1:{port}", **environment}
    os.environ["GASTOWN_FAULTS"] = str(folder / "faults")
    from gastown.embedded import control
    from gastown.settings import get_settings

    try:
        control.start_detached(get_settings(), app="gastown.demo.faulty_app", env=dict(os.environ))
        yield folder
    finally:
        control.stop(get_settings())
        shutil.rmtree(folder)


def sling_to_exec() -> None:
    with live_stack() as folder:
        _sling_to_exec(folder)


def _sling_to_exec(folder: Path) -> None:
    """From the commit of a sling to the agent's exec, the mirror warm; beside it a bare start of Python."""
    from gastown.commands import towns, work
    from gastown.db import in_transaction, transaction
    from gastown.models import Bead
    from gastown.presets.environment import capture
    from gastown.tasks.base import poke

    repository = folder / "repository"
    stamp = folder / "stamp"
    make_repository(repository)
    new = towns.NewRig(
        name="bench", repository=str(repository), branch="main", agent="shell", environment=capture(os.environ)
    )

    def sling() -> str:
        def write(session):  # type: ignore[no-untyped-def]
            town = towns.ensure_town(session, "default")
            rig = towns.get_rig(session, town, "bench")
            return work.sling(session, town, rig, work.NewBead(title="stamp", body=f"date +%s%N > {stamp}"))

        return in_transaction(write)

    in_transaction(lambda session: towns.add_rig(session, towns.ensure_town(session, "default"), new).id)
    taken, bare = [], []
    for number in range(SLINGS + 1):
        stamp.unlink(missing_ok=True)
        bead_id = sling()
        committed = time.time_ns()
        poke()
        while True:
            with transaction() as session:
                if session.get_one(Bead, bead_id).status == "closed":
                    break
            time.sleep(0.02)
        if number:  # the first one makes the mirror
            taken.append((int(stamp.read_text()) - committed) / 1e6)
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        bare.append((time.perf_counter() - began) * 1e3)
    p50, p99 = statistics.median(taken), statistics.quantiles(taken, n=100)[98]
    python = statistics.median(bare)
    figures = f"p50 {p50:.0f} ms  p99 {p99:.0f} ms  bare python {python:.0f} ms  p50 over it {p50 - python:.0f} ms"
    row(f"sling-to-exec  {SLINGS} slings", figures, ratio=p50 / python, of="p50 to bare python:")


def idle() -> None:
    """CPU of the whole idle stack, against one core, and how its memory grew."""
    with live_stack():
        _idle()


def _idle() -> None:
    before, memory = _usage(), _memory()
    time.sleep(IDLE_S)
    used, per_process = 0.0, {}
    for key, (name, cpu_s) in _usage().items():
        spent = cpu_s - before.get(key, (name, 0.0))[1]
        used += spent
        per_process[name] = per_process.get(name, 0.0) + spent
    for name, spent in sorted(per_process.items(), key=lambda item: -item[1])[:8]:
        print(f"  {name:30} {spent:6.2f} s")
    grown = f"PSS {memory:.0f} -> {_memory():.0f} MB"
    row(f"idle  {IDLE_S:.0f} s", f"{used:.2f} s CPU", grown, ratio=used / IDLE_S, of="to one core:")


def processes() -> list[psutil.Process]:
    from gastown.embedded import control
    from gastown.settings import get_settings

    stack = psutil.Process(control.read_status(get_settings()).pid)
    return [stack, *stack.children(recursive=True)]


def _usage() -> dict[tuple[int, float], tuple[str, float]]:
    found = {}
    for process in processes():
        times = process.cpu_times()
        words = [word for word in process.cmdline()[:8] if not word.startswith(("-", "/"))]
        name = " ".join([process.name(), *words])[:30]
        found[(process.pid, process.create_time())] = (name, times.user + times.system)
    return found


def _memory() -> float:
    return sum(process.memory_full_info().pss for process in processes()) / 1e6


def make_repository(folder: Path) -> None:
    folder.mkdir()
    (folder / "README").write_text("a repository\n")
    identity = ["-c", "user.name=Bench", "-c", "user.email=bench@localhost", "-c", "init.defaultBranch=main"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "First"]):
        subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)
