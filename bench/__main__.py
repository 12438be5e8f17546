"""`make bench [BENCH=name]`: each bench prints rows that end in `ratio N`, measured in one run on this machine.

Each runs in a process of its own, with servers of its own in a temporary folder. Timings live here, never in tests.
docs/benchmarks.md has what was measured, on what, and what the ratios are to.
"""

import importlib
import subprocess
import sys

BENCHES = {
    "idle-tick": "ticks.idle_tick",
    "working-tick": "ticks.working_tick",
    "dispatching": "ticks.dispatching",
    "creating": "creating.creating",
    "heartbeats": "heartbeats.heartbeats",
    "first-retry": "retrying.first_retry",
    "hanging-start": "retrying.hanging_start",
    "merging": "merging.merging",
    "sling-to-exec": "stack.sling_to_exec",
    "repositories": "repositories.worktrees",
    "containers": "containers.containers",
    "fleet": "fleet.fleet",
    "idle": "stack.idle",
}


def main(wanted: list[str]) -> int:
    if wanted[:1] == ["--only"]:  # in the process of this one bench
        module, _, function = BENCHES[wanted[1]].partition(".")
        getattr(importlib.import_module(f"bench.{module}"), function)()
        return 0
    unknown = [name for name in wanted if name not in BENCHES]
    if unknown:
        print(f"there is no bench {', '.join(unknown)}; there are {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    failed = [name for name in wanted or BENCHES if _run(name)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str) -> int:
    return subprocess.run([sys.executable, "-m", "bench", "--only", name], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
