"""The images that the tests need, made from Debian's packages where no registry can be reached, and kept by content.

A tag such as `redis:7` that somebody has from elsewhere is used as it is, and never moved. One that was made here
carries the digest of all that it was made from, so that it is made anew when that changes, and else costs nothing.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.docker.engine import LOOK_TIMEOUT_S, NoEngine, call, environment

HERE = Path(__file__).parent
BASE = HERE / "base"
LABEL = "dev.gastown.made-from"
DEBIAN = "debian:bookworm-slim"
DEBIAN_RECIPE = "debian.sh"
DEBIAN_TIMEOUT_S = 150
BUILD_TIMEOUT_S = 600  # a minute on a quiet machine
PULL_TIMEOUT_S = 120


@dataclass(frozen=True)
class Base:
    """An image from a Dockerfile of `base/` and the files beside it that it copies."""

    tag: str
    recipe: str
    files: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        return digest_of(*((BASE / name).read_bytes() for name in (DEBIAN_RECIPE, self.recipe, *self.files)))


BASES = (
    Base("python:3.11-slim-bookworm", "python.Dockerfile"),
    Base("postgres:15", "postgres.Dockerfile", ("postgres-entry.sh",)),
    Base("redis:7", "redis.Dockerfile"),
    Base("rabbitmq:3", "rabbitmq.Dockerfile", ("rabbitmq-entry.sh",)),
)


def digest_of(*parts: bytes) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()[:16]


def made_from(tag: str) -> str | None:
    """The digest that the image was made from; "" for one that is not from here. None: there is no such image."""
    command = ("docker", "image", "inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', tag)
    done = subprocess.run(
        command, env=environment(), timeout=LOOK_TIMEOUT_S, capture_output=True, text=True, check=False
    )
    if done.returncode:
        if "no such image" in done.stderr.lower():
            return None
        raise NoEngine(f"the engine does not say whether it has {tag}: {done.stderr.strip()}")
    return done.stdout.strip().removeprefix("<no value>")


def ensure(tag: str, digest: str, make: Callable[[], None]) -> bool:
    """Make the image unless it is there already, as it should be or from elsewhere. True: it was made or fetched."""
    with _one_at_a_time(tag):
        present = made_from(tag)
        if present is not None and present in (digest, ""):
            return False
        make()
        return True


@contextmanager
def _one_at_a_time(tag: str) -> Iterator[None]:
    """Of all sessions on this machine, the first makes the image, and the others find it made."""
    name = f"gastown-test-{os.getuid()}-{tag.replace(':', '-').replace('/', '-')}.lock"
    with (Path(tempfile.gettempdir()) / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_debian(digest: str) -> None:
    """debian:bookworm-slim by debootstrap, which wants root. Raises NoEngine."""
    if os.geteuid() != 0 or shutil.which("debootstrap", path=environment()["PATH"]) is None:
        raise NoEngine("making it wants root and debootstrap")
    with tempfile.TemporaryDirectory(prefix="gastown-debian-") as folder:
        root = Path(folder) / "root"
        root.mkdir(mode=0o755)
        known = {"ROOT": str(root), "TAG": DEBIAN, "LABEL": LABEL, "DIGEST": digest}
        call("sh", str(BASE / DEBIAN_RECIPE), timeout_s=DEBIAN_TIMEOUT_S, more=known)


def pull(tag: str) -> None:
    call("docker", "pull", "--quiet", tag, timeout_s=PULL_TIMEOUT_S)


def build(tag: str, digest: str, context: Path, dockerfile: Path, *options: str) -> None:
    """Build one image with the classic builder. Raises NoEngine with the end of what it said."""
    command = (
        "docker",
        "build",
        "--force-rm",
        "--label",
        f"{LABEL}={digest}",
        "--file",
        str(dockerfile),
        "--tag",
        tag,
        *options,
    )
    call(*command, str(context), timeout_s=BUILD_TIMEOUT_S)


def ensure_debian() -> None:
    digest = digest_of((BASE / DEBIAN_RECIPE).read_bytes())

    def make() -> None:
        try:
            make_debian(digest)
        except NoEngine as error:
            try:
                pull(DEBIAN)
            except NoEngine as also:
                raise NoEngine(f"there is no image {DEBIAN}: {error}; {also}") from None

    _say(DEBIAN, ensure(DEBIAN, digest, make))


def ensure_base(base: Base) -> None:
    def make() -> None:
        build(base.tag, base.digest, BASE, BASE / base.recipe)

    _say(base.tag, ensure(base.tag, base.digest, make))


BEGAN = time.monotonic()


def _say(tag: str, made: bool) -> None:
    if made:
        sys.stderr.write(f"docker: made {tag} ({time.monotonic() - BEGAN:.0f} s after the start)\n")


def ensure_bases() -> None:
    """All of them, two at a time. Raises NoEngine, saying what could not be made and why."""
    ensure_debian()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(ensure_base, BASES))


ROOT = HERE.parent.parent
SOURCES = {
    "agent": ("Dockerfile", ".dockerignore", "gastown/agent"),
    "control": ("Dockerfile", ".dockerignore", "README.md", "gastown", "pyproject.toml", "requirements"),
}
WHEELS_TIMEOUT_S = 120
KEEP_S = 3600  # for sessions of other sources that run at the same time


def control() -> str:
    """The project's image with API, beat, worker and Flower, of the source as it is. Raises NoEngine."""
    return _project("control", "gastown")


def agent() -> str:
    """The project's image with git and the supervisor, of the source as it is. Raises NoEngine."""
    return _project("agent", "gastown-agent")


def _project(target: str, name: str) -> str:
    """Its tag tells sources apart, since several sessions may test at once; NAME:test is the latest.

    TESTS_CONTROL_IMAGE or TESTS_AGENT_IMAGE names one to be tested as it is.
    """
    given = os.environ.get(f"TESTS_{target.upper()}_IMAGE")
    if given:
        return given
    digest = digest_of(BASES[0].digest.encode(), *_source(target))
    tag = f"{name}:test-{digest}"

    def make() -> None:
        if target == "control":
            _wheelhouse()
        build(tag, digest, ROOT, ROOT / "Dockerfile", "--target", target)

    made = ensure(tag, digest, make)
    _say(tag, made)
    call("docker", "tag", tag, f"{name}:test", timeout_s=LOOK_TIMEOUT_S)
    if made:
        _forget_old(name, tag)
    return tag


def _source(target: str) -> Iterator[bytes]:
    for root in (ROOT / name for name in SOURCES[target]):
        for path in [root] if root.is_file() else sorted(root.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                yield str(path.relative_to(ROOT)).encode()
                yield path.read_bytes()


def _wheelhouse() -> None:
    """Packages for a build that cannot reach PyPI itself. Each run adds what is missing."""
    digest = digest_of(*((ROOT / "requirements" / name).read_bytes() for name in ("build.txt", "control.txt")))
    note = ROOT / "wheelhouse" / ".made-from"
    if not note.is_file() or note.read_text() != digest:
        call("make", "-C", str(ROOT), "wheelhouse", timeout_s=WHEELS_TIMEOUT_S)
        note.write_text(digest)


def _forget_old(name: str, newest: str) -> None:
    """Untag what sources of an hour ago and more were made into, unless a container still has it."""
    form = "{{.Repository}}:{{.Tag}} {{.CreatedAt}}"
    listed = call(
        "docker", "image", "ls", "--filter", f"label={LABEL}", "--format", form, name, timeout_s=LOOK_TIMEOUT_S
    )
    for line in listed.splitlines():
        tag, _, created_at = line.partition(" ")
        age_s = time.time() - datetime.strptime(created_at[:25], "%Y-%m-%d %H:%M:%S %z").timestamp()
        if tag.startswith(f"{name}:test-") and tag != newest and age_s > KEEP_S:
            subprocess.run(
                ("docker", "image", "rm", tag), env=environment(), timeout=60, capture_output=True, check=False
            )
