"""Text from a file or a pipe, for commands that have to be quick as well."""

import sys

from gastown.errors import NotFound, UsageError


def read_text(source: str, limit: int) -> str:
    """A file, or standard input for `-`, as text. Raises UsageError for what is not readable, not text, or too long."""
    if source == "-":
        return _decoded(sys.stdin.buffer.read(limit + 1), limit, "standard input")
    try:
        with open(source, "rb") as file:
            return _decoded(file.read(limit + 1), limit, source)
    except FileNotFoundError as error:
        raise NotFound("file", source, hint="check its path, or give - for a pipe") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"{source} cannot be read: {reason}", hint="give a text file, or - for standard input"
        ) from error


def _decoded(data: bytes, limit: int, source: str) -> str:
    if len(data) > limit:
        raise UsageError(f"{source} is larger than {limit} bytes", hint="put it into the repository, and name it")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} is not text: byte {error.start} is not UTF-8", hint="give a text file") from error
    if "\0" in text:
        raise UsageError(f"{source} is not text: it has a NUL at {text.index(chr(0))}", hint="give a text file")
    return text
