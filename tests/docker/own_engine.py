"""A second Docker Engine of a test's own, to be killed, stopped and filled up, which nobody else notices.

It lives in namespaces of its own (network, mounts, processes): it takes no bridge from the first engine, its mounts are
nobody's, and all of it ends with one process, also when this one is killed, since that process reads our pipe.
"""

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.docker.engine import LOOK_TIMEOUT_S, NoEngine, call, environment
from tests.docker.litter import docker

SIZE_MB = 640  # its whole disk, in memory: the agent image takes 270
DISK_MB = 24
START_S, END_S, LOAD_S = 30.0, 20.0, 120.0
BRIDGE = "172.31.251.1/24"
CLONE_NEWNET = 0x40000000
CGROUPS = Path("/sys/fs/cgroup")
BLOCK = 1 << 20


def why_not() -> str | None:
    """Why there can be none here. None: there can."""
    if os.geteuid() != 0:
        return "only root can start a second engine"
    for program in ("dockerd", "containerd", "unshare", "nsenter"):
        if shutil.which(program, path=environment()["PATH"]) is None:
            return f"there is no {program}"
    tried = subprocess.run(
        (*OWN, "mount", "-t", "tmpfs", "none", "/mnt"), env=environment(), capture_output=True, text=True, check=False
    )
    return f"root may not mount here: {tried.stderr.strip()}" if tried.returncode else None


# What the first engine unmounts must be unmounted here too, or it could not remove it; nothing goes the other way.
OWN = ("unshare", "--net", "--mount", "--propagation=slave", "--pid", "--fork", "--kill-child", "--mount-proc", "--")


class OwnEngine:
    """`folder` has a short path (its socket is in there), and is removed by who made it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, f"unix://{folder}/s"
        self._data, self._mark = folder / "data", f"gt-engine-{secrets.token_hex(4)}"
        self.disk = folder / "disk"  # a small one, the same in here and there
        for each in (self._data, self.disk):
            each.mkdir(parents=True)
        self._daemon: subprocess.Popen[bytes] | None = None
        self._live_restore = False
        call("mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", str(self.disk), timeout_s=LOOK_TIMEOUT_S)
        try:
            self._root = self._hold()
        except BaseException:
            self._unmount()
            raise
        self._inside("sh", "-ec", f"mount -t tmpfs -o size={SIZE_MB}m none {self._data} && ip link set lo up")

    def _hold(self) -> int:
        """The process that is the first in its namespaces, and ends when its standard input does: our end of the pipe.

        It reaps by itself whatever is left to it, as its children's ends are none of its business.
        """
        self._holder = subprocess.Popen(
            (*OWN, "env", "--ignore-signal=CHLD", "cat"),
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.write(b"up\n")
        self._holder.stdin.flush()
        if self._holder.stdout.readline() != b"up\n":
            raise NoEngine("no namespaces of its own")
        return _child_of(self._holder.pid)

    def _entering(self, *command: str) -> tuple[str, ...]:
        return ("nsenter", f"--target={self._root}", "--net", "--mount", "--pid", "--", *command)

    def _inside(self, *command: str) -> str:
        return call(*self._entering(*command), timeout_s=LOOK_TIMEOUT_S)

    # --- its life

    def start(self, *, live_restore: bool = False) -> None:
        """Returns when it answers. Does nothing when it runs like this. Raises NoEngine."""
        if self._daemon is not None:
            if live_restore is self._live_restore:
                return
            self.stop()
        self._live_restore = live_restore
        options = ("--live-restore",) if live_restore else ()
        with (self.folder / "log").open("ab") as log:
            self._daemon = subprocess.Popen(
                self._entering(
                    *("dockerd", f"--host={self.url}", "--storage-driver=overlay2", f"--data-root={self._data}"),
                    *(f"--exec-root={self.folder}/exec", f"--pidfile={self.folder}/pid", f"--bip={BRIDGE}"),
                    *("--iptables=false", "--ip6tables=false", f"--cgroup-parent=/{self._mark}", *options),
                ),
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + START_S
        while True:
            try:
                self.docker("version")
            except NoEngine as error:
                if self._daemon.poll() is None and time.monotonic() < until:
                    time.sleep(0.05)
                    continue
                raise NoEngine(f"the second engine does not start: {error}\n{self.log()}") from error
            return

    def kill(self) -> None:
        """SIGKILL for dockerd alone, as when it runs out of memory. Containers and containerd are not asked."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """In order, as for an upgrade."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        assert self._daemon is not None, "it does not run"
        os.kill(self._pid, how)
        self._daemon.wait(timeout=END_S)
        self._daemon = None

    def pause(self) -> None:
        """It accepts connections, and does nothing more."""
        os.kill(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        """nsenter too: it stops when its child does, and would reap nobody."""
        if self._daemon is not None:
            os.kill(self._pid, signal.SIGCONT)
            os.kill(self._daemon.pid, signal.SIGCONT)

    @property
    def runs(self) -> bool:
        return self._daemon is not None

    @property
    def _pid(self) -> int:
        assert self._daemon is not None, "it does not run"
        return _child_of(self._daemon.pid)

    def close(self) -> None:
        """Everything of it ends, is unmounted and removed, whatever state it is in."""
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self.resume()
        self._holder.stdin.close()
        self._holder.wait(timeout=END_S)
        self._holder.stdout.close()
        if self._daemon is not None:
            self._daemon.wait(timeout=END_S)
        self._unmount()
        for group in CGROUPS.glob(f"**/{self._mark}"):
            for folder, _, _ in os.walk(group, topdown=False):
                with suppress(OSError):  # it goes with the next one's, or with the machine
                    os.rmdir(folder)

    def _unmount(self) -> None:
        call("umount", "--lazy", str(self.disk), timeout_s=LOOK_TIMEOUT_S)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2000:]

    # --- what is in it

    def docker(self, *command: str) -> str:
        return docker("--host", self.url, *command)

    def state_of(self, container: str) -> str:
        return self.docker("inspect", "--format", "{{.State.Status}}", container)

    @contextmanager
    def stuck_starts(self) -> Iterator[None]:
        """Meanwhile no process of a container gets on, so a start of one goes on for as long."""
        freezers = (CGROUPS / "freezer" / self._mark / "freezer.state", CGROUPS / self._mark / "cgroup.freeze")
        freezer = freezers[0] if (CGROUPS / "freezer").is_dir() else freezers[1]
        freezer.parent.mkdir(exist_ok=True)
        words = ("FROZEN", "THAWED") if freezer == freezers[0] else ("1", "0")
        freezer.write_text(words[0])
        try:
            yield
        finally:
            freezer.write_text(words[1])

    def begins(self, container: str) -> bool:
        """Whether the first of what a start makes is there."""
        return any(CGROUPS.glob(f"*/{self._mark}/{container}")) or (CGROUPS / self._mark / container).is_dir()

    def processes(self, container: str) -> list[str]:
        """The command lines of what runs in it, whatever the engine says."""
        groups = [*CGROUPS.glob(f"*/{self._mark}/{container}"), CGROUPS / self._mark / container]
        pids = {pid for each in groups if each.is_dir() for pid in (each / "cgroup.procs").read_text().split()}
        return [Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in sorted(pids)]

    def load(self, image: str) -> None:
        """From the first engine. Raises NoEngine."""
        archive = self.folder / "image.tar"
        try:
            docker("save", f"--output={archive}", image, timeout_s=LOAD_S)
            docker("--host", self.url, "load", "--quiet", f"--input={archive}", timeout_s=LOAD_S)
        finally:
            archive.unlink(missing_ok=True)

    def clear(self) -> None:
        """No containers."""
        if names := self.docker("ps", "--all", "--quiet").split():
            self.docker("rm", "--force", "--volumes", *names)

    def fill(self) -> None:
        """Its disk, to the last byte."""
        fill(self._filling)

    def empty(self) -> None:
        self._filling.unlink(missing_ok=True)

    @property
    def _filling(self) -> Path:
        return Path(f"/proc/{self._root}/root{self._data}/filling")

    def listener(self) -> socket.socket:
        """A port on all addresses of its network, for a server of this process: containers find it as their host."""
        made: list[socket.socket | OSError] = []

        def make() -> None:
            try:
                with open(f"/proc/{self._root}/ns/net") as network:
                    if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                made.append(socket.create_server(("0.0.0.0", 0)))
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=make)  # a thread of its own, since it stays in that network
        thread.start()
        thread.join()
        [found] = made
        if isinstance(found, OSError):
            raise found
        return found


def fill(file: Path) -> None:
    """Write until the disk takes no more, not even one byte."""
    with file.open("wb", buffering=0) as full:
        for size in (BLOCK, 4096, 1):
            with suppress(OSError):
                while full.write(bytes(size)) == size:
                    pass


def _child_of(pid: int) -> int:
    [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)
