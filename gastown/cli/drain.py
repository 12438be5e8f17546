"""End the running attempts of this machine so that they save what they have: `python -m gastown.cli.drain SECONDS`.

The supervisor of the stack runs it while API and database are still there to take the attempts' reports.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gastown.agent.command import end_abandoned
from gastown.agent.runs import node_mark
from gastown.commands import towns
from gastown.db import in_transaction
from gastown.errors import GastownError, RuntimeUnavailable
from gastown.runtimes import registry
from gastown.settings import get_settings

GRACE_S = 60.0


def drain(home: Path, *, grace_s: float = GRACE_S) -> int:
    """Stop every attempt of this home, all at once, each with `grace_s` to save its work; how many there were.

    Raises RuntimeUnavailable at the end, naming those that could not be stopped: one must not cost the others' work.
    """
    end_abandoned(node_mark(home))  # gates of merges whose worker is gone
    runtime = registry.FACTORIES[get_settings().runtime]()
    names = runtime.list_names()
    if not names:
        return 0
    _announce()

    def stop(name: str) -> str | None:
        try:
            runtime.stop(name, grace_s=grace_s)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is said, and the others are stopped)
            return f"{name}: {error}"
        return None

    with ThreadPoolExecutor(len(names)) as pool:
        failures = [failure for failure in pool.map(stop, names) if failure is not None]
    if failures:
        what = f"{len(failures)} of {len(names)} attempts could not be stopped: {'; '.join(failures)}"
        raise RuntimeUnavailable(what, hint="gastown down")
    return len(names)


def _announce() -> None:
    """Attempts that stop now are asked to: without this, each would count as killed. With no database, so be it."""
    node = get_settings().node
    try:
        in_transaction(lambda session: towns.drain_node(session, node))
    except GastownError as error:
        sys.stderr.write(f"the drain of {node} could not be noted: {error}\n")


def main() -> int:
    try:
        stopped = drain(get_settings().home, grace_s=float(sys.argv[1]))
    except GastownError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(f"{stopped} attempts stopped\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
