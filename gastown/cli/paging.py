"""Long output that a person reads at a terminal, page by page; exactly as it is when it goes elsewhere."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress

from gastown.cli.words import block

_LESS = {"LESS": "FRX", "LV": "-c"}  # as git has it: leave when it fits, take colours and nothing else, leave no blank


def is_terminal() -> bool:
    return sys.stdout.isatty()


def pager() -> str | None:
    """The command to page with; None: nobody looks, or there is none."""
    if not is_terminal():
        return None
    chosen = os.environ.get("GASTOWN_PAGER", os.environ.get("PAGER"))
    if chosen is None:
        return "less" if shutil.which("less") else None
    return chosen if chosen not in ("", "cat") else None


def show(text: str, command: str) -> None:
    """Hand text to a pager, until it ends. One that is left early, or does not start, is no error."""
    environment = {**_LESS, **os.environ}
    sys.stdout.flush()
    process = subprocess.Popen(command, shell=True, stdin=subprocess.PIPE, env=environment)  # as git and man take it
    with suppress(BrokenPipeError):
        process.communicate(os.fsencode(text))
    process.wait()
    if process.returncode == 127:
        write(text)


def write(text: str) -> None:
    """To a terminal without what could steer it; to anything else byte for byte, so that a patch stays one."""
    if is_terminal():
        sys.stdout.write(block(text) + "\n")
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(os.fsencode(text))
    sys.stdout.buffer.flush()
