"""Text for terminals: whatever somebody wrote into a title or a log, nothing of it can steer the terminal."""

import codecs
import json
import re
import unicodedata
from dataclasses import asdict, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI
    r"|\x1b[\]PX^_][^\x07\x1b\x9c]{0,4096}(?:\x07|\x1b\\|\x9c)"  # OSC, DCS and the like, with their text
    r"|\x1b[ -/]*[0-~]"  # everything shorter
)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b\x9c]{0,4096}\x1b?|[ -/]*)?\Z")
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m\Z")
_NEWLINE = re.compile(r"\r+\n|\r")
RESET = "\x1b[0m"
UNSHOWN = "\N{REPLACEMENT CHARACTER}"


def one_line(text: str, limit: int = 0) -> str:
    """Text from anywhere on one line: escape sequences gone, other control characters visible."""
    shown = "".join(char if _harmless(char) else UNSHOWN for char in " ".join(_ESCAPES.sub("", text).split()))
    return shown if not limit or len(shown) <= limit else shown[: limit - 1] + "…"


def in_short(text: str, limit: int = 0) -> str:
    """A message of several lines on one."""
    return one_line(" / ".join(line for line in text.splitlines() if line.strip()), limit)


def block(text: str) -> str:
    """The same for text that keeps its lines."""
    plain = _NEWLINE.sub("\n", _ESCAPES.sub("", text)).rstrip("\n")
    return "".join(char if char in "\n\t" or _harmless(char) else UNSHOWN for char in plain)


def _harmless(char: str) -> bool:
    """Printable, and neither a control character, nor half of a surrogate pair, nor one that turns text around."""
    return char.isprintable() or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


class Stream:
    """Turns the bytes of a log into text that is safe to show, whatever the bytes and wherever chunks are cut."""

    def __init__(self, *, colours: bool) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._colours, self._coloured, self._rest = colours, False, ""

    def feed(self, data: bytes, *, final: bool = False) -> str:
        text = self._rest + self._decoder.decode(data, final)
        cut = None if final else _UNFINISHED.search(text)
        text, self._rest = (text, "") if cut is None else (text[: cut.start()], text[cut.start() :])
        if not final and text.endswith("\r"):  # a newline may follow in the next chunk
            text, self._rest = text[:-1], "\r" + self._rest
        parts, position = [], 0
        for escape in _ESCAPES.finditer(text):
            parts += [self._clean(text[position : escape.start()]), self._keep(escape.group())]
            position = escape.end()
        return "".join([*parts, self._clean(text[position:])])

    def close(self) -> str:
        """What is left, and the end of any colour."""
        rest = self.feed(b"", final=True)
        return rest + RESET if self._coloured else rest

    def _keep(self, escape: str) -> str:
        if not self._colours or not _COLOUR.match(escape):
            return ""
        self._coloured = True
        return escape

    def _clean(self, text: str) -> str:
        text = _NEWLINE.sub("\n", text)
        return "".join(char if char in "\n\t" or _harmless(char) else UNSHOWN for char in text)


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Dataclasses, times (ISO 8601 with zone) and ids as JSON."""
    return json.dumps(value, default=_plain, indent=indent)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID | Enum):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON")


def at(moment: datetime | None) -> str:
    """A time of day here, with the date when it is another day's."""
    if moment is None:
        return "-"
    here = moment.astimezone()
    same_day = here.date() == datetime.now(here.tzinfo).date()
    return f"{here:%H:%M:%S}" if same_day else f"{here:%Y-%m-%d %H:%M}"


def span(seconds: float) -> str:
    """A duration in at most two units."""
    whole = round(seconds)
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02} h"


def size(count: int) -> str:
    """Bytes for people."""
    if count < 1000:
        return f"{count} B"
    for unit, whole in (("kB", 1000), ("MB", 1_000_000)):
        if count < 1000 * whole:
            return f"{count / whole:.1f} {unit}"
    return f"{count / 1_000_000_000:.1f} GB"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
