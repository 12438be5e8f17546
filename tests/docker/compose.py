"""Compose for the tests of docker-compose.yml: the one that is there, or Debian's, unpacked into a folder of our own.

Bookworm has no package of it, and that of trixie runs there too. Nothing is installed: apt fetches it from the mirror
of the machine's own sources, with lists of its own, and checks it as ever: by hashes in lists that Debian signed.

No third-party imports, so that it also runs before the virtual environment is made.
"""

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.docker.engine import NoEngine, call, environment

OLDEST = (2, 24)  # docs/operations.md
SUITE, PACKAGE = "trixie", "docker-compose"
PLUGIN = "usr/libexec/docker/cli-plugins/docker-compose"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
RELEASE = Path("/etc/os-release")
LOOK_TIMEOUT_S = 30
FETCH_TIMEOUT_S = 90  # five seconds on a quiet machine


@dataclass(frozen=True)
class Compose:
    """One that runs: `command` takes the arguments of `docker compose`."""

    command: tuple[str, ...]
    version: str
    where: str

    def __str__(self) -> str:
        return f"compose {self.version} ({self.where})"


class NoCompose(Exception):
    """There is none; the message says why, in words that fit behind 'because'."""


def ensure() -> Compose:
    """One that is there, else Debian's. Raises NoCompose, saying what is missing."""
    try:
        return find()
    except NoCompose as error:
        missing = str(error)
    try:
        _fetch()
    except (NoEngine, OSError) as error:
        raise NoCompose(f"{missing}, and {error}") from None
    return _look((str(kept()),), f"from Debian's {SUITE}")


def find() -> Compose:
    """The plugin of the docker command, else the one that was fetched before. Raises NoCompose."""
    try:
        return _look(("docker", "compose"), "found")
    except NoCompose:
        if kept().exists():
            return _look((str(kept()),), "kept here")
        raise


def kept() -> Path:
    """The path of a fetched one, for all checkouts of this user."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "gastown-test" / PACKAGE


def _look(command: tuple[str, ...], where: str) -> Compose:
    try:
        said = call(*command, "version", timeout_s=LOOK_TIMEOUT_S)
    except NoEngine as error:
        raise NoCompose(f"{error}") from None
    found = re.search(r"v?(\d+)\.(\d+)\S*", said)
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        raise NoCompose(f"`{said.strip()}` is older than {OLDEST[0]}.{OLDEST[1]}")
    return Compose(command, found[0].removeprefix("v"), where)


def _fetch() -> None:
    """Raises NoEngine or OSError. Whoever fetches at the same time replaces one whole file by another."""
    mirror = _mirror()
    with tempfile.TemporaryDirectory(prefix="gastown-compose-") as folder:
        root = Path(folder)
        for each in ("lists/partial", "cache/archives/partial", "tree"):
            (root / each).mkdir(parents=True)
        (root / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {SUITE} main\n")
        call("apt-get", "update", "--error-on=any", *_apart(root), timeout_s=FETCH_TIMEOUT_S)
        call("apt-get", "download", PACKAGE, *_apart(root), timeout_s=FETCH_TIMEOUT_S, folder=root)
        [package] = root.glob("*.deb")
        call("dpkg-deb", "--extract", str(package), str(root / "tree"), timeout_s=FETCH_TIMEOUT_S)
        kept().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        whole = kept().with_name(f"{PACKAGE}.{os.getpid()}")
        shutil.copy(root / "tree" / PLUGIN, whole)
        whole.replace(kept())


def _apart(root: Path) -> list[str]:
    """For apt, to leave the machine's own lists and sources alone."""
    known = {
        "Dir::State::Lists": root / "lists",
        "Dir::Cache": root / "cache",
        "Dir::Etc::SourceList": root / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",  # nobody else can see this folder
    }
    return [f"--option={name}={value}" for name, value in known.items()]


def _mirror() -> str:
    """The address from which this machine gets its own Debian. Raises NoEngine."""
    known = dict(line.split("=", 1) for line in _lines(RELEASE) if "=" in line)
    codename = known.get("VERSION_CODENAME", "").strip('"')
    if known.get("ID") != "debian" or shutil.which("apt-get", path=environment()["PATH"]) is None:
        raise NoEngine("Debian's can be fetched on Debian only")
    if not KEYRING.exists():
        raise NoEngine(f"there is no {KEYRING} to check Debian's with")
    form = "$(RELEASE) $(COMPONENT) $(REPO_URI)"
    listed = call("apt-get", "indextargets", "--format", form, "Created-By: Packages", timeout_s=LOOK_TIMEOUT_S)
    for line in listed.splitlines():
        release, component, address = line.split(" ", 2)
        if (release, component) == (codename, "main"):
            return address
    raise NoEngine(f"apt's sources name no mirror of {codename}")


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
