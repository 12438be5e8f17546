"""Stacks of their own for the tests here."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from stacks import destroy, settings_of

from gastown.embedded import control
from gastown.settings import Settings


@pytest.fixture(scope="module")
def stack() -> Iterator[Settings]:
    """A stack that is up, in a home whose path is too long for sockets. A test that ends it starts it again."""
    folder = Path(tempfile.mkdtemp(prefix="gt-"))
    settings = settings_of(folder / ("a-long-name-" * 8) / "home")
    try:
        assert control.start_detached(settings)
        yield settings
    finally:
        destroy(settings)
        shutil.rmtree(folder, ignore_errors=True)
