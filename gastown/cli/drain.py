"""End the running attempts of this machine so that they save what they have: `python -m gastown.cli.drain SECONDS`.

The supervisor of the stack runs it while API and database are still there to take the attempts' reports.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gastown.commands import towns
from gastown.db import in_transaction
from gastown.errors import GastownError
from gastown.runtimes.process import ProcessRuntime
from gastown.settings import get_settings

GRACE_S = 60.0


def drain(home: Path, *, grace_s: float = GRACE_S) -> int:
    """Stop every attempt of this home, all at once, each with `grace_s` to save its work; how many there were."""
    _announce()
    runtime = ProcessRuntime(home)
    names = runtime.list_names()
    if names:
        with ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(lambda name: runtime.stop(name, grace_s=grace_s), names))
    return len(names)


def _announce() -> None:
    """Attempts that stop now are asked to: without this, each would count as killed. With no database, so be it."""
    node = get_settings().node
    try:
        in_transaction(lambda session: towns.drain_node(session, node))
    except GastownError as error:
        sys.stdout.write(f"the drain of {node} could not be noted: {error}\n")


if __name__ == "__main__":
    sys.stdout.write(f"{drain(get_settings().home, grace_s=float(sys.argv[1]))} attempts stopped\n")
