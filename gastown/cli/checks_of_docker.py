"""What `gastown doctor` looks at on a node whose agents run in containers.

One container is made as an attempt's would be, without a supervisor: it writes into a folder of the home and asks the
API. So it finds at once a home that is not at the same path for the engine, a user that may not write there, and an
address that does not work from inside.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gastown.cli.findings import Finding, Level
from gastown.cli.words import in_short
from gastown.containers import Container, layered
from gastown.errors import GastownError, RuntimeUnavailable
from gastown.runtimes import docker_making
from gastown.runtimes.docker_engine import Engine, EngineSaid
from gastown.runtimes.docker_images import SPOKEN
from gastown.settings import Settings

ENGINE_S = 10.0
RUN_S = 20.0
ROLE = "doctor"
NOTED = "written-from-inside"
# arguments: the file to write, the URL to ask. What it prints is the finding.
PROGRAM = """
import sys, urllib.request
where, url = sys.argv[1:]
try:
    open(where, "w").write("here")
except OSError as error:
    print("cannot write to its home:", error)
    sys.exit(3)
try:
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5).read()
except Exception as error:
    print(error)
    sys.exit(4)
"""
CANNOT_WRITE, CANNOT_REACH = 3, 4


def engine_is_usable(settings: Settings, *, quick: bool = False) -> list[Finding]:
    if settings.runtime != "docker":
        return [Finding("docker", Level.LEFT, "agents of this node run as processes")]
    engine = Engine(settings.docker.url, timeout_s=ENGINE_S)
    try:
        facts = engine.facts()
    except GastownError as error:
        return [Finding("docker", Level.BAD, str(error), error.hint)]
    except EngineSaid as said:
        return [Finding("docker", Level.BAD, f"the engine says: {said.words}", "see its log")]
    version, driver = facts.get("ServerVersion"), facts.get("Driver")
    found = [Finding("docker", Level.GOOD, f"engine {version} ({driver}), {facts.get('NCPU')} CPUs")]
    usable: list[tuple[str, Container]] = []
    for whose, container in _containers(settings):
        finding = _image(engine, whose, container)
        found.append(finding)
        if finding.level is Level.GOOD:
            usable.append((whose, container))
    if quick:
        return [*found, Finding("container", Level.LEFT, "none was started (--quick)")]
    if not usable:
        return [*found, Finding("container", Level.LEFT, "none was started: there is no usable image")]
    tried: dict[str, Finding] = {}  # once for each network
    for whose, container in usable:
        if container.network not in tried:
            tried[container.network] = _try(engine, settings, whose, container)
    return [*found, *tried.values()]


def _containers(settings: Settings) -> list[tuple[str, Container]]:
    """The node's, and those of the rigs that ask for another image or network. Without a database, the node's alone."""
    from sqlalchemy import select

    from gastown.db import transaction
    from gastown.models import Rig

    made = {"the node": layered(settings.docker.container)}
    try:
        with transaction() as session:
            for rig in session.scalars(select(Rig).order_by(Rig.name)):
                made[f"rig {rig.name}"] = layered(settings.docker.container, dict(rig.container or {}))
    except GastownError:
        pass  # said of the database, and here the node's own is still worth a look
    rigs_have_images = len(made) > 1 and all(each.image for name, each in made.items() if name != "the node")
    distinct: dict[tuple[str | None, str], tuple[str, Container]] = {}
    for whose, container in made.items():
        if whose == "the node" and container.image is None and rigs_have_images:
            continue
        distinct.setdefault((container.image, container.network), (whose, container))
    return list(distinct.values())


def _image(engine: Engine, whose: str, container: Container) -> Finding:
    """Whether it is there, with a supervisor that we understand. Nothing is pulled: that may take minutes."""
    image = container.image
    if image is None:
        hint = "gastown rig set RIG --image IMAGE, or docker.container.image in the node's settings"
        return Finding("image", Level.BAD, f"{whose} names no image for its containers", hint)
    build = f"docker pull {image}, or docker build -t {image} ... FROM Gastown's agent image (docs/containers.md)"
    try:
        with engine.asked(f"look at the image {image}") as client:
            labels = (client.inspect_image(image).get("Config") or {}).get("Labels") or {}
    except EngineSaid as said:
        if said.gone:
            return Finding("image", Level.BAD, f"{whose}: the image {image} is not on this node", build)
        return Finding("image", Level.BAD, f"{whose}: {image}: {said.words}", build)
    speaks = labels.get(docker_making.SUPERVISOR)
    if speaks is None:
        return Finding("image", Level.BAD, f"{whose}: the image {image} has no supervisor in it", build)
    if speaks not in {str(each) for each in SPOKEN}:
        what = f"{whose}: the supervisor in {image} speaks protocol {speaks[:20]}, which this Gastown does not"
        return Finding("image", Level.BAD, what, "build it anew, from the agent image of this version")
    return Finding("image", Level.GOOD, f"{whose}: {image}")


def _try(engine: Engine, settings: Settings, whose: str, container: Container) -> Finding:
    """One that writes into the home and asks the API, made like an attempt's, and removed."""
    place = docker_making.Place(home=settings.home, node=settings.node, user=settings.docker.user)
    url = settings.agent_url_from("docker", container.network)
    with _folder(place) as folder:
        try:
            code, said = _run(engine, place, container, folder, f"{url}/healthz")
        except EngineSaid as refused:
            what = f"{whose}: no container can be started: {refused.words}"
            return Finding("container", Level.BAD, what, "correct network, mounts or limits: gastown rig show RIG")
        except RuntimeUnavailable as error:
            return Finding("container", Level.BAD, f"{whose}: {error}", error.hint)
        arrived = (folder / NOTED).exists()
    if code == CANNOT_WRITE:
        uid, gid = place.ids
        hint = f"it runs as {uid}:{gid}; chown -R {uid}:{gid} {settings.home}/beads, or set docker.user"
        return Finding("container", Level.BAD, f"{whose}: a container {said}", hint)
    if code == CANNOT_REACH:
        what = f"{whose}: the API at {url} does not answer a container in network {container.network}: {said}"
        return Finding("container", Level.BAD, what, _to_reach(settings))
    if code != 0:
        what = f"{whose}: a container of {container.image} ended with {code}: {said or 'no output'}"
        return Finding("container", Level.BAD, what, "it has to have python3: docs/containers.md")
    if not arrived:
        what = f"what a container writes to {settings.home} does not arrive there: the engine has another folder there"
        return Finding(
            "container", Level.BAD, what, "mount the home into the worker at the path that it has on the host"
        )
    return Finding("container", Level.GOOD, f"one in network {container.network} wrote to its home and reached {url}")


def _to_reach(settings: Settings) -> str:
    if settings.api.agent_url is not None:
        return "correct api.agent_url, or the network of the rig"
    if settings.api.host in ("127.0.0.1", "localhost", "::1"):
        return f"api.bind is {settings.api.bind}, which only this machine reaches: bind 0.0.0.0, or set api.agent_url"
    return "open the port to containers (firewall), or set api.agent_url"


@contextmanager
def _folder(place: docker_making.Place) -> Iterator[Path]:
    """Where beads have their homes, as the user that containers run as would get one."""
    above = place.home / "beads"
    above.mkdir(mode=0o711, parents=True, exist_ok=True)
    folder = above / f".doctor-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    try:
        if os.getuid() == 0:
            os.chown(folder, *place.ids)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(engine: Engine, place: docker_making.Place, container: Container, folder: Path, url: str) -> tuple[int, str]:
    """Its exit code, and what it printed. Raises EngineSaid, RuntimeUnavailable."""
    network = "bridge" if container.network == docker_making.NO_NETWORK else container.network
    plan = docker_making.Plan(
        command=("python3", "-c", PROGRAM, str(folder / NOTED), url),
        environment=container.environment,
        labels={f"{docker_making.LABEL}role": ROLE, docker_making.HOME: place.mark},
        container=container,
        folder=Path("/"),
        writable=(folder,),
        readable=(),
        network=network,
    )
    name = f"gastown-doctor-{secrets.token_hex(4)}"
    patient = engine.with_timeout(RUN_S)
    try:
        with patient.asked("try a container") as client:
            made: dict[str, Any] = docker_making.configuration(
                client, place, plan, image=str(container.image), cpus=engine.cpus
            )
            client.create_container(name=name, **made)
            client.start(name)
            code = int(client.wait(name, timeout=RUN_S)["StatusCode"])
            said = client.logs(name, stdout=True, stderr=True, tail=5)
        return code, in_short(bytes(said).decode(errors="replace"), 300)
    finally:
        patient.remove(name)
