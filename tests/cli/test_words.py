"""Text from strangers on a terminal (S72, S73)."""

import os
import random
from datetime import UTC, datetime
from uuid import UUID

import pytest

from gastown.cli.words import Stream, block, in_short, one_line, size, span, to_json

EVIL = "\x1b]0;title\x07\x1b[2J\x1b[31mred\x1b[0m\x9b2J\x00\x07\u202eback\u2028line"


@pytest.mark.parametrize("show", [one_line, block, in_short])
def test_nothing_steers_the_terminal(show) -> None:
    shown = show(EVIL)
    assert "red" in shown
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or char in "\u202e\u2028" for char in shown)
    assert "title" not in shown


def test_one_line_is_one_line_and_bounded() -> None:
    assert one_line("a\n b\r\n\tc") == "a b c"
    assert one_line("x" * 50, 10) == "x" * 9 + "…"
    assert in_short("exit 3\n\nbroke\n") == "exit 3 / broke"


def test_brackets_and_quotes_stay() -> None:
    text = "[bold]'x'[/bold] <b>&amp; \"; DROP TABLE beads;--"
    assert one_line(text) == text


def test_colours_stay_on_a_terminal_and_are_ended() -> None:
    stream = Stream(colours=True)
    assert stream.feed(b"\x1b[31mred\x1b[2J\n") == "\x1b[31mred\n"
    assert stream.close() == "\x1b[0m"


def test_a_stream_may_be_cut_anywhere() -> None:
    data = "é\r\n\x1b[1;31mred\x1b[0m \x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ 😀 a\rb\n".encode()
    whole = Stream(colours=True)
    expected = whole.feed(data) + whole.close()
    for position in range(len(data)):
        stream = Stream(colours=True)
        assert stream.feed(data[:position]) + stream.feed(data[position:]) + stream.close() == expected


def test_binary_is_never_fatal_and_never_control() -> None:
    noise = random.Random(7)
    for _ in range(200):
        stream = Stream(colours=False)
        shown = "".join(stream.feed(noise.randbytes(noise.randrange(300))) for _ in range(3)) + stream.close()
        assert "\x1b" not in shown
        assert not any(ord(char) < 32 and char not in "\n\t" for char in shown)


def test_an_escape_that_never_ends_holds_nothing_back_for_ever() -> None:
    stream = Stream(colours=True)
    shown = stream.feed(b"\x1b]0;" + b"x" * 20_000)
    assert shown.count("x") == 20_000


def test_five_megabytes_are_quick() -> None:
    stream = Stream(colours=True)
    assert len(stream.feed(b"x" * 5_000_000)) == 5_000_000
    assert len(stream.feed(os.urandom(500_000))) > 0


def test_json_has_times_with_a_zone() -> None:
    value = {"at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "id": UUID(int=1)}
    assert '"2026-01-02T03:04:05+00:00"' in to_json(value)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0.0 s"), (0.26, "0.3 s"), (59, "59 s"), (61, "1 min 01 s"), (3700, "1 h 01 min"), (90000, "1 d 01 h")],
)
def test_span(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_size() -> None:
    assert (size(999), size(1500), size(64_000_000)) == ("999 B", "1.5 kB", "64.0 MB")
