"""Recorded walks: what the specification says of them is kept with the tests, for clones that come without it."""

import gzip
import json
from dataclasses import asdict
from pathlib import Path

from tests.model.walks import Walk

PLACE = Path(__file__).with_name("histories.json.gz")


def read() -> list[Walk]:
    stored = json.loads(gzip.decompress(PLACE.read_bytes()))
    walks = [Walk(**each) for each in stored]
    for walk in walks:
        walk.steps = [(label, variant) for label, variant in walk.steps]
    return walks


def write(walks: list[Walk]) -> int:
    """How many bytes. The same walks give the same file."""
    text = json.dumps([asdict(walk) for walk in walks], separators=(",", ":"))
    PLACE.write_bytes(gzip.compress(text.encode(), mtime=0))
    return PLACE.stat().st_size
