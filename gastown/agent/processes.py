"""What the kernel knows about processes: who is alive, who descends from whom, who carries an environment mark.

Stdlib only, because the supervisor and the process runtime share it. Linux reads /proc; elsewhere `ps` answers, which
is slower and sees the environments of one's own processes only.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

LINUX = sys.platform.startswith("linux")
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36  # linux/prctl.h
_PF_FORKNOEXEC = 0x40  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None


class Process(NamedTuple):
    pid: int
    parent: int
    zombie: bool
    group: int
    started: str  # in the kernel's own unit; compares equal for the same process only
    executed: bool = True  # False: it was forked, and has not executed a program yet


def processes() -> Iterator[Process]:
    """Every process that can be seen. One that ends meanwhile is left out."""
    if not LINUX:
        yield from _ps()
        return
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (found := _read_stat(int(entry))):
            yield found


def look(pid: int) -> Process | None:
    """This process, or None when there is none."""
    if LINUX:
        return _read_stat(pid)
    return next((process for process in _ps() if process.pid == pid), None)


def birth(pid: int) -> str | None:
    """What tells this process from any other that ever had its pid, also on an earlier boot. None: it is not there."""
    process = look(pid)
    return f"{_boot()}:{process.started}" if process else None


def alive(pid: int, born: str) -> bool:
    """Whether the process born then still runs. A zombie does not."""
    process = look(pid)
    return process is not None and not process.zombie and f"{_boot()}:{process.started}" == born


def environment_of(pid: int) -> dict[bytes, bytes]:
    """The environment that a process was executed with. Empty when it is gone, hidden or without one."""
    if not LINUX:
        return _ps_environments().get(pid, {})
    return _parsed(_read(f"/proc/{pid}/environ"))


def marked(name: str, value: str | None = None) -> dict[int, dict[bytes, bytes]]:
    """The living processes with this variable (and value, if one is given) in their environment; never this process."""
    me, key, wanted = os.getpid(), os.fsencode(name), None if value is None else os.fsencode(value)
    found = {}
    for pid, environment in _environments(key + b"="):
        there = environment.get(key)
        if pid != me and there is not None and (wanted is None or there == wanted):
            found[pid] = environment
    return found


def descendants(*roots: int) -> set[int]:
    """The living processes below these; not these themselves."""
    children: dict[int, list[Process]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process)
    found: set[int] = set()
    todo = list(roots)
    while todo:
        for child in children.get(todo.pop(), ()):
            if child.pid not in found:
                todo.append(child.pid)
                if not child.zombie:
                    found.add(child.pid)
    return found


def zombie_children() -> set[int]:
    """Children of this process that ended and were not waited for."""
    me = os.getpid()
    return {process.pid for process in processes() if process.parent == me and process.zombie}


def send(pid: int, number: int) -> bool:
    """Signal a process. False: it is gone, or not ours to signal."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def end_all(find: Callable[[], Iterable[int]], *, deadline_s: float = 10.0) -> bool:
    """SIGKILL what `find` returns until two looks in a row find nothing: a look can miss a process that is being born.

    False: something is left after the deadline, such as a process that hangs in the kernel.
    """
    deadline = time.monotonic() + deadline_s
    empty = 0
    while empty < 2:
        found = set(find())
        empty = 0 if found else empty + 1
        for pid in found:
            send(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return not found
        if found:
            time.sleep(0.003)
    return True


def become_subreaper() -> None:
    """Orphans among the descendants of this process become its children, so that none gets out of sight."""
    if _libc is not None:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def hide() -> None:
    """Nobody but root may read this process's memory, environment and open files any more. Children that execute a
    program are not hidden."""
    if _libc is not None:
        _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def die_with(parent: int, confine: Callable[[], None] | None = None) -> None:
    """For a child between fork and exec: SIGKILL it when the thread that forked it ends. `confine` is done as well.

    A few system calls, and nothing that takes a lock: another thread of the parent may have held that.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(137)
    if confine is not None:
        confine()


@lru_cache(maxsize=1)
def _boot() -> str:
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
    return "boot"


def _read_stat(pid: int) -> Process | None:
    data = _read(f"/proc/{pid}/stat")
    if not data:
        return None
    fields = data[data.rfind(b")") + 2 :].split()  # the name before it may hold spaces and brackets
    executed = not int(fields[6]) & _PF_FORKNOEXEC
    return Process(pid, int(fields[1]), fields[0] in b"ZX", int(fields[2]), fields[19].decode(), executed)


def _environments(containing: bytes) -> Iterator[tuple[int, dict[bytes, bytes]]]:
    if not LINUX:
        yield from _ps_environments().items()
        return
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        data = _read(f"/proc/{entry}/environ")
        if containing in data:
            yield int(entry), _parsed(data)


def _parsed(environ: bytes) -> dict[bytes, bytes]:
    return dict(item.partition(b"=")[::2] for item in environ.split(b"\0") if item)


def _read(path: str) -> bytes:
    """A file in /proc; empty when its process is gone or hidden. `open` would take several times as long."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        parts = [os.read(descriptor, 65536)]
        while len(parts[-1]) > 4095:  # the kernel hands out a page at a time at the least
            parts.append(os.read(descriptor, 65536))
    except OSError:
        return b""
    finally:
        os.close(descriptor)
    return b"".join(parts)


def _ps_output(*arguments: str) -> list[bytes]:
    return subprocess.run(["ps", *arguments], capture_output=True, check=False, timeout=10).stdout.splitlines()


def _ps() -> Iterator[Process]:
    for line in _ps_output("-axo", "pid=,ppid=,pgid=,stat=,lstart="):
        pid, parent, group, state, started = line.split(None, 4)
        yield Process(int(pid), int(parent), state.startswith(b"Z"), int(group), "_".join(started.decode().split()))


def _ps_environments() -> dict[int, dict[bytes, bytes]]:
    """Words of the form NAME=value after the command; values with spaces are cut, which no mark of ours has."""
    found = {}
    for line in _ps_output("-axEwwo", "pid=,command="):
        pid, _, rest = line.strip().partition(b" ")
        found[int(pid)] = dict(word.partition(b"=")[::2] for word in rest.split() if b"=" in word)
    return found
