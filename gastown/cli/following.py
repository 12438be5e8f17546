"""Follows the output of a bead from attempt to attempt."""

import sys
from enum import Enum

from sqlalchemy.orm import Session

from gastown.cli import screen
from gastown.cli.ask import ask
from gastown.cli.beads import state_of, what_of
from gastown.cli.words import Stream, in_short, to_json
from gastown.errors import NotFound
from gastown.states import BeadStatus
from gastown.store import explain, listing
from gastown.store.beads import get_bead
from gastown.store.listing import AttemptRow, BeadRow
from gastown.store.output import Chunk, chunks_after


class Form(Enum):
    TEXT = "text"
    RAW = "raw"
    JSON = "json"


class Follower:
    """Prints what is new with each look; on standard error, what happens to the bead between the attempts."""

    def __init__(self, bead_id: str, *, attempt: int | None, everything: bool, form: Form) -> None:
        self._bead_id, self._wanted, self._form = bead_id, attempt, form
        self._from = 1 if everything else None  # the first attempt to show; None: not chosen yet
        self._seq: dict[int, int] = {}  # the last number printed, by attempt
        self._stream: Stream | None = None
        self._current: int | None = None
        self._said = self._last = ""
        self.attempts: list[AttemptRow] = []
        self._bead: BeadRow | None = None

    @property
    def over(self) -> bool:
        return self._bead is not None and self._bead.terminal

    def look(self) -> bool:
        """Print what has come since the last look. False: nothing had. Raises NotFound for bead or attempt."""
        self._bead, self.attempts = ask(self._read)
        came = False
        for attempt in self._shown():
            while chunks := self._chunks(attempt):
                came = True
                self._begin(attempt)
                for chunk in chunks:
                    self._print(attempt, chunk)
                self._seq[attempt.epoch] = chunks[-1].seq
        sys.stdout.flush()
        return came

    def tell(self) -> None:
        """Say how the bead stands, when that has changed."""
        row = self._bead
        if row is None:
            return
        words = f"{state_of(row).replace('_', ' ')}"
        if not row.live and row.status != BeadStatus.CLOSED:
            words += f": {in_short(what_of(row), 200)}" if what_of(row) else ""
        if words != self._said:
            self._said = words
            self._break_line()
            screen.note(f"-- {self._bead_id} {words}")

    def silence(self) -> str:
        """What to say of shown attempts that printed nothing."""
        last = self._shown()[-1]
        if last.live:
            return "no output yet"
        if last.exit_code is None:
            return f"no output; it ended: {last.code or last.status}".replace("_", " ")
        return f"no output; the agent exited with {last.exit_code}"

    def close(self) -> None:
        self._end_line()

    def _read(self, session: Session, town_id: int) -> tuple[BeadRow, list[AttemptRow]]:
        get_bead(session, self._bead_id, town_id)
        rows = listing.beads_by_id(session, town_id, [self._bead_id])
        return explain.with_live_holds(session, town_id, rows)[0], listing.list_attempts(session, self._bead_id)

    def _chunks(self, attempt: AttemptRow) -> list[Chunk]:
        return ask(lambda session, _: chunks_after(session, attempt, self._seq.get(attempt.epoch, -1)))

    def _shown(self) -> list[AttemptRow]:
        if self._wanted is not None:
            found = [each for each in self.attempts if each.epoch == self._wanted]
            if not found:
                hint = f"gastown attempts {self._bead_id}"
                raise NotFound("attempt", f"{self._wanted} on {self._bead_id}", hint=hint)
            return found
        if self._from is None and self.attempts:
            self._from = self.attempts[-1].epoch
        return [each for each in self.attempts if self._from is not None and each.epoch >= self._from]

    def _begin(self, attempt: AttemptRow) -> None:
        if self._current == attempt.epoch:
            return
        self._end_line()
        self._current = attempt.epoch
        self._stream = Stream(colours=sys.stdout.isatty())
        if len(self.attempts) > 1:
            screen.note(f"-- attempt {attempt.epoch} by {attempt.agent}")

    def _print(self, attempt: AttemptRow, chunk: Chunk) -> None:
        if self._form is Form.RAW:
            sys.stdout.buffer.write(chunk.data)
            return
        if self._form is Form.JSON:
            text = chunk.data.decode(errors="replace")
            line = {"bead": self._bead_id, "attempt": attempt.epoch, "seq": chunk.seq, "at": chunk.at, "text": text}
            sys.stdout.write(to_json(line, indent=None) + "\n")
            return
        assert self._stream is not None
        self._write(self._stream.feed(chunk.data))

    def _end_line(self) -> None:
        if self._stream is not None and self._form is Form.TEXT:
            self._write(self._stream.close())
        self._break_line()
        self._stream, self._current = None, None

    def _break_line(self) -> None:
        if self._last not in ("", "\n"):
            self._write("\n")

    def _write(self, text: str) -> None:
        if text:
            sys.stdout.write(text)
            self._last = text[-1]
