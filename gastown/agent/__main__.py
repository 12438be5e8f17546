"""`python -m gastown.agent`: the runtime writes a Launch to standard input; see `launch` and `supervise`."""

from gastown.agent.launch import launch
from gastown.agent.protocol import Launch
from gastown.agent.runs import RunFiles


def run(message: Launch, files: RunFiles) -> int:
    from gastown.agent.supervise import Supervision  # after the fork: the runtime does not wait for these imports

    return Supervision(message, files).run()


if __name__ == "__main__":
    launch(run)
