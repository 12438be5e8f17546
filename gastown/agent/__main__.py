"""`python -m gastown.agent [--foreground]`: the runtime writes a Launch to standard input; see `launch`."""

import sys

from gastown.agent.launch import launch, launch_here
from gastown.agent.protocol import Launch
from gastown.agent.runs import RunFiles


def run(message: Launch, files: RunFiles) -> int:
    from gastown.agent.supervise import Supervision  # late: no runtime waits for these imports

    return Supervision(message, files).run()


if __name__ == "__main__":
    if "--foreground" in sys.argv[1:]:
        launch_here(run)
    launch(run)
