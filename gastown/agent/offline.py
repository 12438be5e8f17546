"""No network for a process and all that it starts, without any privilege: a filter of system calls that it keeps.

The supervisor of a container needs the API and the remote, so the container has a network. What it starts for the agent
gets sockets of the Unix family alone: those reach programs of the same container, and nobody else.
"""

import ctypes
import errno
import platform
import socket
import struct
import sys
from collections.abc import Callable
from typing import NamedTuple

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2  # linux/prctl.h, linux/seccomp.h
_ALLOW, _DENY = 0x7FFF0000, 0x00050000 | errno.EACCES  # SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO with its number
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # linux/bpf_common.h: LD|W|ABS, JMP|JEQ|K, JMP|JGE|K, RET|K
_CALL, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; the argument's lower half
_FOREIGN_CALLS = 0x40000000  # x86_64: calls of the x32 ABI have this bit, and numbers of their own


class _Machine(NamedTuple):
    audit: int  # linux/audit.h
    socket: int
    socketpair: int
    io_uring_setup: int  # through such a ring a socket is made without a system call


_MACHINES = {
    "x86_64": _Machine(0xC000003E, 41, 53, 425),
    "aarch64": _Machine(0xC00000B7, 198, 199, 425),
}


class CannotConfine(Exception):
    """This kernel or processor has no such filter."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def confinement() -> Callable[[], None]:
    """What a child has to call between fork and exec. It exits with 126 where the kernel does not take the filter.

    Raises CannotConfine.
    """
    machine = _MACHINES.get(platform.machine()) if sys.platform == "linux" else None
    if machine is None:
        raise CannotConfine(f"network `none` is not to be had on {sys.platform} {platform.machine()}")
    instructions = _instructions(machine)
    program = _Program(len(instructions) // 8, instructions)
    prctl, leave = ctypes.CDLL(None, use_errno=True).prctl, ctypes.CDLL(None)._exit
    reference = ctypes.byref(program)

    def confine() -> None:
        if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(_PR_SET_SECCOMP, _MODE_FILTER, reference, 0, 0):
            leave(126)

    return confine


def _instructions(machine: _Machine) -> bytes:
    """Each jump counts the instructions it leaps over, first if it is so, then if it is not."""
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 0, 9, machine.audit),  # of another architecture's calls none is known: deny
        (_LOAD, 0, 0, _CALL),
        (_AT_LEAST, 7, 0, _FOREIGN_CALLS),  # deny
        (_EQUAL, 6, 0, machine.io_uring_setup),  # deny
        (_EQUAL, 2, 0, machine.socket),
        (_EQUAL, 1, 0, machine.socketpair),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 0, 1, socket.AF_UNIX),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _DENY),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
