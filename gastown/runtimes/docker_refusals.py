"""What an engine did not make or start, and whether that can be otherwise next time."""

import re

from gastown.errors import StartMisconfigured, StartRefused
from gastown.runtimes.docker_engine import EngineSaid

_HINTS = (  # what no second try mends, and what does
    (
        "bind source path does not exist",
        "a mount of the rig is not on the node, or GASTOWN_HOME is not at the same path for the engine",
    ),
    ("No such image", "on the node, docker pull {image}"),
    (r"network \S+ not found", "docker network ls, on the node; then gastown rig set RIG --network NAME"),
    (
        "executable file not found|exec: .*no such file",
        "the image {image} lacks a program: build it FROM Gastown's agent image",
    ),
    ("not a directory|Duplicate mount point|invalid mount", "correct the mounts: gastown rig set RIG --mount"),
)

_SETTLED = "not found|denied|unauthorized|unknown"  # what a registry says that knows; an image may be called anything
_PASSING = (  # one that was not there for a moment, or had too many pulls; as registries and Go say it
    r"toomanyrequests|too many requests|unexpected HTTP status: 5|timeout|timed out|deadline exceeded|\bEOF\b"
    "|connection reset|server misbehaving|temporary failure|unreachable|no route to host"
)
ENGINES_DISK = "docker system df, on the node, says what takes the space"


def refusal(said: EngineSaid, image: str) -> StartRefused:
    words = said.words
    for sign, hint in _HINTS:
        if re.search(sign, words):
            return StartMisconfigured(f"the engine refused its container: {words}", hint=hint.format(image=image))
    if said.status == 400:
        return StartMisconfigured(f"the engine refused its container: {words}", hint="gastown rig show RIG")
    hint = ENGINES_DISK if is_disk_full(words) else ""
    return StartRefused(f"the engine could not start its container: {words}", hint=hint)


def is_disk_full(words: str) -> bool:
    """As Go, Python and git say it."""
    return re.search("no space left on device|disk quota exceeded", words, re.IGNORECASE) is not None


def is_passing(words: str) -> bool:
    """Whether a pull that failed like this may work later with nothing put right."""
    return not re.search(_SETTLED, words, re.IGNORECASE) and re.search(_PASSING, words, re.IGNORECASE) is not None
