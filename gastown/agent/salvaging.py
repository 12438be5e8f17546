"""`python -m gastown.agent.salvaging HOME SHARED_HOME RIG BEAD`: keep what killed supervisors left, in a bead's mirror.

Run in a container, without a network: git would run what an agent wrote into the configuration of its clone.
"""

import sys
from pathlib import Path

from gastown.agent import journal
from gastown.agent.archive import SELF
from gastown.agent.mirror import Mirror
from gastown.agent.salvage import salvage

ALL_EPOCHS = 2**31


def run(home: Path, shared_home: Path, rig_id: int, bead_id: str) -> None:
    """Raises GitError and OSError."""
    mirror = Mirror.open(home, rig_id, "", shared_home)
    salvage(home, mirror, bead_id, ALL_EPOCHS, SELF, journal.note)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
