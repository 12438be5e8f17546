"""The end of a long output, as it is quoted where something failed."""

ROOM = 40  # characters, for the line that says what is left out


def last_lines(text: str, limit: int, before: int = 0) -> str:
    """At most `limit` characters from the end of a text: whole lines, and how many are left out before them.

    `before`: that many lines are missing from the text already, and it begins in the middle of another one. Only a line
    that is longer than the limit is cut itself.
    """
    if len(text) <= limit and not before:
        return text
    kept = text[-(limit - ROOM) :]
    cut = len(kept) == len(text) or text[-len(kept) - 1] != "\n"
    if cut:
        _part, _, whole = kept.partition("\n")
        kept = whole if whole.strip() else f"…{kept}"
    earlier = before + text.count("\n") - kept.count("\n")
    return f"... {earlier} earlier line{'' if earlier == 1 else 's'}\n{kept}" if earlier else kept
