"""Whether an image can run an attempt: it is there, or can be had in time, and has the supervisor in it."""

from typing import Any

from gastown.agent.protocol import PROTOCOL
from gastown.errors import RuntimeUnavailable, StartMisconfigured, StartRefused
from gastown.runtimes.docker_engine import Engine, EngineDown, EngineSaid, unexpected
from gastown.runtimes.docker_making import SUPERVISOR
from gastown.runtimes.docker_refusals import ENGINES_DISK, is_disk_full, is_passing

PULL_S = 25.0  # the whole start may take 60 s
SPOKEN = (PROTOCOL, PROTOCOL - 1)  # the API serves both: attempts outlive an upgrade


def require(engine: Engine, image: str | None, *, supervised: bool) -> str:
    """The id of the image, pulled if it is not there. `supervised`: it has to have a supervisor that we understand.

    Raises StartMisconfigured for what a person has to put right, StartRefused for what may be had later.
    """
    if image is None:
        raise StartMisconfigured(
            "no image is set for its containers",
            hint="gastown rig set RIG --image IMAGE, or docker.container.image in the node's settings",
        )
    try:
        found = _look(engine, image)
        if found is None:
            _pull(engine, image)
            found = _look(engine, image)
    except RuntimeUnavailable as error:
        raise StartRefused(str(error), hint=error.hint) from error
    if found is None:
        raise _not_had(image, "it was pulled, and is gone again")
    if supervised:
        check_supervisor(image, found)
    return str(found["Id"])


def _look(engine: Engine, image: str) -> dict[str, Any] | None:
    try:
        with engine.asked(f"look at the image {image}") as client:
            return dict(client.inspect_image(image))
    except EngineSaid as said:
        if said.gone:
            return None
        if said.status == 400:
            raise StartMisconfigured(f"{image!r} is no image: {said.words}", hint=_hint(image)) from said
        raise unexpected(said, f"look at the image {image}") from said


def _pull(engine: Engine, image: str) -> None:
    """Once, in the time that a start has: what takes longer is not for a start to wait for."""
    try:
        for said in engine.pulled(image, PULL_S):
            if "error" in said:
                raise _not_had(image, str(said["error"]))
    except EngineSaid as said:
        raise _not_had(image, said.words) from said
    except EngineDown:
        raise
    except RuntimeUnavailable as error:
        what = f"the image {image} is not on this node, and pulling it was not over in time: {error}"
        raise StartRefused(what, hint=_hint(image)) from error


def _not_had(image: str, why: str) -> StartRefused:
    if is_disk_full(why):
        return StartRefused(f"the image {image} cannot be pulled, the disk is full: {why[:300]}", hint=ENGINES_DISK)
    if is_passing(why):
        what = f"the image {image} is not on this node, and its registry fails: {why[:300]}"
        return StartRefused(what, hint=_hint(image))
    return StartMisconfigured(
        f"the image {image} is not on this node and cannot be pulled: {why[:300]}", hint=_hint(image)
    )


def _hint(image: str) -> str:
    return f"on the node, `docker pull {image}` or `docker build -t {image} ...`; then gastown bead retry"


def check_supervisor(image: str, found: dict[str, Any]) -> None:
    """Raises StartMisconfigured when it has none, or one that is too old or too new. `found`: `docker inspect`."""
    labels = (found.get("Config") or {}).get("Labels") or {}
    said = labels.get(SUPERVISOR)
    if said is None:
        raise StartMisconfigured(
            f"the image {image} has no supervisor in it (no label {SUPERVISOR})",
            hint="build it FROM Gastown's agent image: docs/containers.md",
        )
    if said not in {str(each) for each in SPOKEN}:
        spoken = " and ".join(str(each) for each in sorted(SPOKEN))
        raise StartMisconfigured(
            f"the supervisor in the image {image} speaks protocol {said[:20]}, and this Gastown {spoken}",
            hint="build the image anew, from the agent image of this version",
        )
