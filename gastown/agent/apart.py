"""What the agent starts is kept apart from its supervisor, which runs as the same user in the same container.

It can write to its own places in the bead's home and to none of the supervisor's, and neither look into the supervisor
and its git nor send them signals. By Landlock, which takes no privilege; a kernel without it (before 5.19) keeps nobody
apart.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # system calls, the same on each architecture
_VERSION_FLAG, _BENEATH = 1, 1  # LANDLOCK_CREATE_RULESET_VERSION, LANDLOCK_RULE_PATH_BENEATH
_OLDEST = 2  # before that, nothing can be moved from folder to folder
_TRUNCATES, _SCOPES = 3, 6  # versions that know of these
_WRITE_FILE, _REFER, _TRUNCATE = 1 << 1, 1 << 13, 1 << 14
_CHANGE = _WRITE_FILE | _REFER | sum(1 << bit for bit in range(4, 13))  # remove and make anything
_NO_SIGNALS = 1 << 1
_PR_SET_NO_NEW_PRIVS = 38

Confine = Callable[[], None]


def keeps_signals() -> bool:
    """Whether what is kept apart cannot signal its supervisor either."""
    return _version() >= _SCOPES


def _version() -> int:
    """Of Landlock in this kernel; below 1 there is none."""
    if sys.platform != "linux":
        return -1
    return int(ctypes.CDLL(None, use_errno=True).syscall(_CREATE, None, 0, _VERSION_FLAG))


def separation(home: Path, own: Collection[Path]) -> Confine | None:
    """What a child has to call between fork and exec; None where the kernel cannot do it.

    `own`: folders in `home`, each of which is there, that it may write to. Outside of `home` it may what it may.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = _version()
    if version < _OLDEST:
        return None
    rights = _CHANGE | (_TRUNCATE if version >= _TRUNCATES else 0)
    attributes = struct.pack("=QQQ", rights, 0, _NO_SIGNALS)
    rules = libc.syscall(_CREATE, attributes, 24 if version >= _SCOPES else 8, 0)
    if rules < 0:
        return None
    os.set_inheritable(rules, False)
    for folder in (*_around(home), *own):
        try:
            place = os.open(folder, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        libc.syscall(_ADD, rules, _BENEATH, struct.pack("=Qi", rights, place), 0)
        os.close(place)
    prctl, restrict, leave = libc.prctl, libc.syscall, libc._exit

    def confine() -> None:
        if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or restrict(_RESTRICT, rules, 0):
            leave(126)

    return confine


def _around(home: Path) -> Iterator[Path]:
    """Every folder but those on the way to `home`."""
    inside = home.resolve()
    while inside != inside.parent:
        try:
            beside = [entry.path for entry in os.scandir(inside.parent) if entry.is_dir(follow_symlinks=False)]
        except OSError:
            beside = []
        yield from (Path(path) for path in beside if Path(path) != inside)
        inside = inside.parent
