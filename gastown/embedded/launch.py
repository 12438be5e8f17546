"""Start a program that ends when its parent does: `python -I -S launch.py PARENT_PID SIGNAL PROGRAM [ARGUMENT]...`

A script on its own (standard library only), since it also runs behind `unshare` or `setpriv`: the kernel forgets a
parent-death signal when credentials change, so it has to be asked for after that, just before the program.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    """Become the program. On Linux the kernel sends it SIGNAL when the thread that started it ends, however it ends."""
    parent, signal_number, *program = arguments
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "the kernel refuses a parent-death signal")
        if os.getppid() != int(parent):  # it ended before the signal was asked for
            sys.exit(1)
    os.execv(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
