"""`make bench [BENCH=name]`: each bench prints rows that end in `ratio N`, measured in one run on this machine.

A stack of its own is started in a temporary home, and stopped at the end. Timings live here, never in tests.
"""

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

SLINGS = 50
IDLE_S = 120.0


def sling_to_exec(folder: Path) -> None:
    """From the commit of a sling to the agent's exec, the mirror warm; beside it a bare start of Python."""
    from gastown.commands import towns, work
    from gastown.db import in_transaction, transaction
    from gastown.models import Bead
    from gastown.presets.environment import capture
    from gastown.tasks.base import poke

    repository = folder / "repository"
    stamp = folder / "stamp"
    _make_repository(repository)
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
    print(
        f"sling-to-exec  {SLINGS} slings  p50 {p50:.0f} ms  p99 {p99:.0f} ms  bare python {python:.0f} ms  "
        f"p50 over bare {p50 - python:.0f} ms  ratio {p50 / python:.1f}"
    )


def idle(_: Path) -> None:
    """CPU of the whole idle stack, against one core, and how its memory grew."""
    before, memory = _usage(), _memory()
    time.sleep(IDLE_S)
    used, per_process = 0.0, {}
    for key, (name, cpu_s) in _usage().items():
        spent = cpu_s - before.get(key, (name, 0.0))[1]
        used += spent
        per_process[name] = per_process.get(name, 0.0) + spent
    for name, spent in sorted(per_process.items(), key=lambda item: -item[1])[:8]:
        print(f"  {name:30} {spent:6.2f} s")
    print(
        f"idle  {IDLE_S:.0f} s  {used:.2f} s CPU  {100 * used / IDLE_S:.2f} % of a core  "
        f"memory {memory:.0f} -> {_memory():.0f} MB  ratio {used / IDLE_S:.4f}"
    )


def _processes() -> list[psutil.Process]:
    from gastown.embedded import control
    from gastown.settings import get_settings

    stack = psutil.Process(control.read_status(get_settings()).pid)
    return [stack, *stack.children(recursive=True)]


def _usage() -> dict[tuple[int, float], tuple[str, float]]:
    found = {}
    for process in _processes():
        times = process.cpu_times()
        words = [word for word in process.cmdline()[:8] if not word.startswith(("-", "/"))]
        name = " ".join([process.name(), *words])[:30]
        found[(process.pid, process.create_time())] = (name, times.user + times.system)
    return found


def _memory() -> float:
    return sum(process.memory_full_info().pss for process in _processes()) / 1e6


def _make_repository(folder: Path) -> None:
    folder.mkdir()
    (folder / "README").write_text("a repository\n")
    identity = ["-c", "user.name=Bench", "-c", "user.email=bench@localhost", "-c", "init.defaultBranch=main"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "First"]):
        subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)


BENCHES: dict[str, Callable[[Path], None]] = {"sling-to-exec": sling_to_exec, "idle": idle}


def main(wanted: list[str]) -> int:
    unknown = [name for name in wanted if name not in BENCHES]
    if unknown:
        print(f"there is no bench {', '.join(unknown)}; there are {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="gt-bench-"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    os.environ |= {"GASTOWN_HOME": str(folder / "home"), "GASTOWN_API__BIND": f"127.0.0.1:{port}"}
    from gastown.embedded import control
    from gastown.settings import get_settings

    try:
        control.start_detached(get_settings())
        for name in wanted or BENCHES:
            BENCHES[name](folder)
    finally:
        control.stop(get_settings())
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
