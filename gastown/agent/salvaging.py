"""`python -m gastown.agent.salvaging HOME SHARED_HOME RIG BEAD [EPOCH]`: keep what attempts before it left.

Run in a container, without a network: git would run what an agent wrote into the configuration of its clone.
"""

import sys
from pathlib import Path

from gastown.agent import journal
from gastown.agent.archive import SELF
from gastown.agent.mirror import Mirror
from gastown.agent.salvage import salvage

ALL_EPOCHS = 2**31


def run(home: Path, shared_home: Path, rig_id: int, bead_id: str, epoch: int = ALL_EPOCHS) -> None:
    """Bring it into the bead's mirror. `epoch`: the next attempt's, which may be at work by now. Raises GitError and
    OSError."""
    mirror = Mirror.open(home, rig_id, "", shared_home)
    salvage(home, mirror, bead_id, epoch, SELF, journal.note)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], *map(int, sys.argv[5:6]))
