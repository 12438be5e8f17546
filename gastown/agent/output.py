"""The agent's output: from its pipe to a bounded file on disk, and from there to the API in numbered chunks.

The two halves do not wait for each other: a slow or dead API never blocks the agent.
"""

import base64
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from gastown.agent.client import Client, Denied, Fenced, Rejected, Unreachable
from gastown.agent.protocol import CHUNK_BYTES, LOG_BYTES, LogChunk
from gastown.agent.tail import last_lines

GATHER_S = 0.25  # output that comes within this time travels together
LAST_BYTES = 4096  # kept in memory, for the message of a failure


class Spool:
    """Output of one attempt on disk: a head that grows, and a ring that holds the last half of the limit."""

    def __init__(self, path: Path, limit_bytes: int = LOG_BYTES) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._half = max(1, limit_bytes // 2)
        self._head: BinaryIO = (path / "head").open("w+b", buffering=0)
        self._ring: BinaryIO = (path / "tail").open("w+b", buffering=0)
        self._changed = threading.Condition()
        self._head_size = self._ring_total = 0
        self._last = bytearray()
        self._lines_before = 0  # of what is kept in memory
        self._closed = False
        self.trouble = ""  # why output was lost on this side, such as a full disk
        self.total = 0

    def add(self, data: bytes) -> None:
        """Never blocks for long and never raises: output that the disk does not take is counted, and lost."""
        with self._changed:
            self.total += len(data)
            self._last += data
            self._lines_before += self._last.count(b"\n", 0, max(0, len(self._last) - LAST_BYTES))
            del self._last[:-LAST_BYTES]
            try:
                room = self._half - self._head_size
                if room > 0:
                    self._head_size += _write_at(self._head, self._head_size, data[:room])
                self._add_to_ring(data[room:] if room > 0 else data)
            except OSError as error:
                self.trouble = str(error)
            self._changed.notify_all()

    def note(self, text: str) -> None:
        """A line of our own in the stream."""
        self.add(b"gastown: " + text.encode(errors="replace") + b"\n")

    def last(self, size: int = 2048) -> str:
        """The last lines, in at most so many characters."""
        with self._changed:
            return last_lines(self._last.decode(errors="replace"), size, self._lines_before)

    def close(self) -> None:
        """No more output is to come: the tail may be sent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def release(self) -> None:
        """Close the files: everything was read."""
        self._head.close()
        self._ring.close()

    def next_chunk(self, position: int) -> tuple[bytes, int] | None:
        """What follows `position`, and the position after it; waits for it. None: there is nothing more to come."""
        with self._changed:
            self._changed.wait_for(lambda: position < self._head_size or self._closed)
            gather = not self._closed and self._head_size - position < CHUNK_BYTES and self._head_size < self._half
            if gather:
                deadline = time.monotonic() + GATHER_S
                while not self._closed and self._head_size - position < CHUNK_BYTES:
                    if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                        break
            if position < self._head_size:
                size = min(CHUNK_BYTES, self._head_size - position)
                return os.pread(self._head.fileno(), size, position), position + size
            return self._tail_chunk(position - self._head_size)

    def _tail_chunk(self, passed: int) -> tuple[bytes, int] | None:
        """`passed` counts the bytes after the head, those left out among them."""
        lost = max(0, self._ring_total - self._half)
        if passed >= self._ring_total:
            return None
        gap = b""
        if passed < lost:
            gap, passed = b"\n[... %d bytes left out ...]\n" % (lost - passed), lost
        start = passed % self._half
        size = min(CHUNK_BYTES - len(gap), self._ring_total - passed, self._half - start)
        return gap + os.pread(self._ring.fileno(), size, start), self._head_size + passed + size

    def _add_to_ring(self, data: bytes) -> None:
        while data:
            start = self._ring_total % self._half
            written = _write_at(self._ring, start, data[: self._half - start])
            self._ring_total += written
            data = data[written:]


def _write_at(file: BinaryIO, start: int, data: bytes) -> int:
    done = 0
    while done < len(data):
        done += os.pwrite(file.fileno(), data[done:], start + done)
    return done


class Sender(threading.Thread):
    """Sends a spool to the API. Each chunk until it is acknowledged; the next one only then."""

    def __init__(self, spool: Spool, client: Client, on_fenced: Callable[[], None]) -> None:
        super().__init__(name="logs", daemon=True)
        self._spool, self._client, self._on_fenced = spool, client, on_fenced
        self._ended = threading.Event()

    def run(self) -> None:
        position = seq = 0
        while not self._ended.is_set() and (chunk := self._spool.next_chunk(position)):
            data, position = chunk
            try:
                self._send(LogChunk(seq=seq, data=base64.b64encode(data).decode()))
            except Fenced:
                self._on_fenced()
                return
            seq += 1
        self._client.close()

    def finish(self, within_s: float) -> bool:
        """After the spool is closed: whether everything was sent within this time."""
        self.join(within_s)
        return not self.is_alive()

    def abandon(self) -> None:
        self._ended.set()

    def _send(self, chunk: LogChunk) -> None:
        pause = 0.25
        while not self._ended.is_set():
            try:
                self._client.once("POST", "logs", chunk.to_json())
                return
            except Rejected:
                return  # the same chunk would be rejected for ever, and hold up all that follow
            except (Unreachable, Denied):
                self._ended.wait(pause)
                pause = min(10.0, pause * 2)


class Pump(threading.Thread):
    """Reads a pipe to its end, into a spool."""

    def __init__(self, pipe: int, spool: Spool) -> None:
        super().__init__(name="pump", daemon=True)
        self._pipe, self._spool = pipe, spool

    def run(self) -> None:
        while True:
            try:
                data = os.read(self._pipe, CHUNK_BYTES)
            except OSError:
                return
            if not data:
                return
            self._spool.add(data)
