"""What is quoted of a long output."""

import pytest

from gastown.agent.tail import ROOM, last_lines

LIMIT = ROOM + 20


@pytest.mark.parametrize(
    ("text", "before", "shown"),
    [
        ("short\nand whole\n", 0, "short\nand whole\n"),
        ("", 0, ""),
        ("first\n" + "second\n" * 8 + "the end", 0, "... 8 earlier lines\nsecond\nthe end"),  # in the middle of one
        ("x" * 60 + "\n12345678901234567890", 0, "... 1 earlier line\n12345678901234567890"),  # at the start of one
        ("x" * 60 + "the end", 0, "…" + "x" * 13 + "the end"),
        ("first\n" + "x" * 60 + "the end", 0, "... 1 earlier line\n…" + "x" * 13 + "the end"),
        ("x" * 60 + "the end\n", 0, "…" + "x" * 12 + "the end\n"),
        ("rest of one\nlast\n", 3, "... 4 earlier lines\nlast\n"),
        ("rest of one", 3, "... 3 earlier lines\n…rest of one"),
    ],
)
def test_a_long_text_is_cut_where_a_line_begins(text: str, before: int, shown: str) -> None:
    assert last_lines(text, LIMIT, before) == shown
    assert len(shown) <= LIMIT
