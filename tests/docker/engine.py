"""A Docker Engine for the tests marked `docker`: one that is there, or one that root starts from Debian's packages.

No third-party imports, so that it also runs before the virtual environment is made.
"""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

LOOK_TIMEOUT_S = 10
INSTALL_TIMEOUT_S = 150
START_TIMEOUT_S = 45
END_TIMEOUT_S = 30
PACKAGES = ("docker.io", "debootstrap", "iptables", "ca-certificates")
STATE = Path("/run/gastown-test-engine")  # pid and log of an engine that we started; gone with the machine
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # `env -i` leaves less


@dataclass(frozen=True)
class Engine:
    """One that answers."""

    version: str
    started_here: bool = False

    def __str__(self) -> str:
        return f"engine {self.version} ({'started here' if self.started_here else 'found'})"


class NoEngine(Exception):
    """There is none; the message says why, in words that fit behind 'because'."""


def deadline(within_s: float) -> None:
    """From now on, and for all of this process, nothing that is called here lasts longer than this altogether."""
    _until.append(time.monotonic() + within_s)


_until: list[float] = []


def environment() -> dict[str, str]:
    """Of every docker, apt and debootstrap that is run: found also under `env -i`, and asking nothing."""
    path = os.environ.get("PATH", "")
    return {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))} | {
        "PATH": f"{path}:{SYSTEM_PATH}" if path else SYSTEM_PATH,
        "DEBIAN_FRONTEND": "noninteractive",
        "DOCKER_BUILDKIT": "0",  # a client without the buildx plugin builds like this only
        "LC_ALL": "C.UTF-8",
    }


def call(*command: str, timeout_s: float, more: dict[str, str] | None = None, folder: Path | None = None) -> str:
    """The output of a command. Raises NoEngine with the end of what it said, also when it took too long."""
    timeout_s = min([timeout_s, *(max(0.1, until - time.monotonic()) for until in _until)])
    try:
        done = subprocess.run(
            command,
            env=environment() | (more or {}),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            capture_output=True,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NoEngine(f"`{' '.join(command[:3])}` took more than {timeout_s:.0f} s") from None
    except OSError as error:
        raise NoEngine(f"`{command[0]}` cannot be run: {error.strerror}") from None
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        last = [line for line in words if line.strip()][-4:]
        raise NoEngine(f"`{' '.join(command[:3])}` failed: {' | '.join(last)}")
    return done.stdout


def find() -> Engine:
    """The engine of DOCKER_HOST, or of the usual socket. Raises NoEngine."""
    if shutil.which("docker", path=environment()["PATH"]) is None:
        raise NoEngine("there is no docker command on PATH")
    version = call("docker", "version", "--format", "{{.Server.Version}}", timeout_s=LOOK_TIMEOUT_S).strip()
    return Engine(version, started_here=_our_pid() is not None)


def bring_up() -> Engine:
    """One that is there, else one of our own. Raises NoEngine, saying what is missing."""
    try:
        return find()
    except NoEngine as error:
        missing = str(error)
    if os.environ.get("DOCKER_HOST"):
        raise NoEngine(f"DOCKER_HOST is set, and {missing}")
    if os.geteuid() != 0:
        raise NoEngine(f"{missing}, and only root can start one")
    if shutil.which("dockerd", path=environment()["PATH"]) is None:
        _install()
        try:
            return find()  # where there is an init system, the package has started it
        except NoEngine:
            pass
    return _start()


def _install() -> None:
    if shutil.which("apt-get", path=environment()["PATH"]) is None:
        raise NoEngine("there is no dockerd, and no apt-get to install one")
    until = time.monotonic() + INSTALL_TIMEOUT_S
    call("apt-get", "update", "-qq", timeout_s=INSTALL_TIMEOUT_S)
    command = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES)
    call(*command, timeout_s=max(1.0, until - time.monotonic()))


def _start() -> Engine:
    """dockerd, in a session of its own, so that it outlives this process; `end` ends it."""
    STATE.mkdir(mode=0o700, exist_ok=True)
    with (STATE / "log").open("wb") as log:
        process = subprocess.Popen(
            ("dockerd",), env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    (STATE / "pid").write_text(str(process.pid))
    until, why = time.monotonic() + START_TIMEOUT_S, "it never answered"
    while time.monotonic() < until:
        if process.poll() is not None:
            (STATE / "pid").unlink(missing_ok=True)
            said = (STATE / "log").read_text(errors="replace").strip().splitlines()
            raise NoEngine(f"dockerd ended at once: {' | '.join(said[-2:])}")
        try:
            return find()
        except NoEngine as error:
            why = str(error)
        time.sleep(0.2)
    end()
    raise NoEngine(f"dockerd did not answer within {START_TIMEOUT_S} s: {why}")


def _our_pid() -> int | None:
    """Of the engine that we started, if that still runs."""
    try:
        pid = int((STATE / "pid").read_text())
        runs = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    except (OSError, ValueError):
        return None
    return pid if Path(os.fsdecode(runs)).name == "dockerd" else None


def end() -> None:
    """End the engine that we started, with the containers in it. One that was found is left alone."""
    pid = _our_pid()
    if pid is None:
        return
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + END_TIMEOUT_S
    while _our_pid() is not None and time.monotonic() < until:
        time.sleep(0.1)
    if _our_pid() is not None:
        os.kill(pid, signal.SIGKILL)
    (STATE / "pid").unlink(missing_ok=True)
