"""What heartbeats cost: 1,000 attempts with a connection each, a real API process, and Postgres as the stack runs it.

Bar (DESIGN 10): less than 20 % of a core for both processes together, at one heartbeat each 10 s.
"""

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from bench.server import execute, ground

AGENTS = 1000
PERIOD_S = 10.0
ROUNDS = 3  # of all agents; one before them makes connections and warms caches up
BAR = 0.20  # of a core
# the answer's length is read from its head: what follows is not looked at, as a supervisor would do it with its own CPU
BODY = json.dumps({"phase": "agent", "progressed": True, "tool_running": False, "cost_usd": 0.25}).encode()


def heartbeats() -> None:
    """CPU of the API process and of Postgres, per heartbeat and as a share of one core at 100 heartbeats a second."""
    with ground() as home:
        _attempts()
        with socket.create_server(("127.0.0.1", 0), backlog=2 * AGENTS) as listener:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            argv = [sys.executable, "-m", "gastown.embedded.serve", "gastown.api:create_app", str(listener.fileno())]
            api = subprocess.Popen(argv, pass_fds=[listener.fileno()])
        try:
            postgres = int((home / "pg" / "postmaster.pid").read_text().splitlines()[0])
            spent, wall_s, failed = asyncio.run(_load(address, {"api": api.pid, "postgres": postgres}))
        finally:
            api.terminate()
            api.wait()
    share = sum(spent.values()) / wall_s
    each = {name: f"{1e3 * cpu_s / (ROUNDS * AGENTS):.2f} ms" for name, cpu_s in spent.items()}
    print(
        f"heartbeats  {AGENTS} agents, one each {PERIOD_S:.0f} s  {failed} failed  "
        + "  ".join(f"{name} {text} CPU each" for name, text in each.items())
        + f"  {100 * share:.1f} % of a core, bar {100 * BAR:.0f} %  ratio {share / BAR:.2f}"
    )


def _token(number: int) -> str:
    return f"token-{number:04}"


def _attempts() -> None:
    """Running attempts, each with its bead, its agent and its token, as many as there are agents."""
    values = ", ".join(f"({n}, '\\x{hashlib.sha256(_token(n).encode()).hexdigest()}'::bytea)" for n in range(AGENTS))
    execute(
        f"""CREATE TEMP TABLE given (n, hash) AS VALUES {values};
        INSERT INTO towns (name) VALUES ('bench');
        INSERT INTO nodes (name, runtime, capacity) VALUES ('bench', 'process', {AGENTS});
        INSERT INTO rigs (town_id, name, repository, branch) SELECT id, 'bench', '/nowhere', 'main' FROM towns;
        INSERT INTO beads (id, town_id, rig_id, title, status, started_at)
            SELECT 'gt-' || n, town_id, id, 'work', 'in_progress', gastown_now() FROM rigs, given;
        INSERT INTO agents (town_id, rig_id, name, status, bead_id)
            SELECT town_id, rig_id, id, 'working', id FROM beads;
        INSERT INTO dispatches (town_id, rig_id, bead_id, agent_id, node_id, epoch, preset, status, queued_at,
                                starting_at, started_at, heartbeat_at, lease_expires_at, progress_at, phase)
            SELECT a.town_id, a.rig_id, a.bead_id, a.id, nodes.id, 1, 'shell', 'running', now, now, now, now,
                   now + interval '1 hour', now, 'agent' FROM agents a, nodes, gastown_now() now;
        INSERT INTO api_tokens (town_id, dispatch_id, name, token_hash)
            SELECT d.town_id, d.id, 'attempt 1', given.hash FROM dispatches d JOIN given ON d.bead_id = 'gt-' || n;
        ANALYZE"""
    )


async def _load(address: str, processes: dict[str, int]) -> tuple[dict[str, float], float, int]:
    """CPU seconds by process, the time it took, and how many heartbeats were not answered with 200."""
    parts = urlsplit(address)
    agents = [_Agent(parts.hostname or "", parts.port or 0, _token(n)) for n in range(AGENTS)]
    failed = await _round(agents)
    if failed == AGENTS:
        raise RuntimeError("the API answers no heartbeat")
    before, began, failed = _cpu(processes), time.monotonic(), 0
    for _ in range(ROUNDS):
        failed += await _round(agents)
    return {name: after - before[name] for name, after in _cpu(processes).items()}, time.monotonic() - began, failed


async def _round(agents: list["_Agent"]) -> int:
    """One heartbeat of each, spread evenly over the period. How many failed."""
    began = time.monotonic()
    beats = []
    for number, agent in enumerate(agents):
        await asyncio.sleep(max(0.0, began + number * PERIOD_S / len(agents) - time.monotonic()))
        beats.append(asyncio.create_task(agent.beat()))
    failed = sum(not ok for ok in await asyncio.gather(*beats))
    await asyncio.sleep(max(0.0, began + PERIOD_S - time.monotonic()))
    return failed


class _Agent:
    """One connection, kept as a supervisor's `http.client` keeps it, and made anew when it was closed."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self._host, self._port = host, port
        head = f"POST /agent/v1/heartbeat HTTP/1.1\r\nHost: {host}:{port}\r\nAccept-Encoding: identity\r\n"
        head += (
            f"Content-Length: {len(BODY)}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\r\n"
        )
        self._request = head.encode() + BODY
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def beat(self) -> bool:
        for _ in range(2):
            with suppress(OSError, asyncio.IncompleteReadError):
                return await self._exchange()
            self._streams = None
        return False

    async def _exchange(self) -> bool:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(self._request)
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().splitlines() if line.startswith(b"content-length:"))
        await reader.readexactly(length)
        return head.startswith(b"HTTP/1.1 200 ")


def _cpu(processes: dict[str, int]) -> dict[str, float]:
    """Of each process and all below it, also of what has ended below it meanwhile."""
    found = {}
    for name, pid in processes.items():
        root = psutil.Process(pid)
        own = root.cpu_times()
        below = [each.cpu_times() for each in root.children(recursive=True)]
        found[name] = own.user + own.system + own.children_user + own.children_system
        found[name] += sum(each.user + each.system for each in below)
    return found


if __name__ == "__main__":
    heartbeats(Path(os.devnull))
