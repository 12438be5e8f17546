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
def stack_settings() -> Iterator[Settings]:
    """Those of a stack in a home whose path is too long for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="gt-"))
    settings = settings_of(folder / ("a-long-name-" * 8) / "home")
    try:
        yield settings
    finally:
        destroy(settings)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def stack(stack_settings: Settings) -> Settings:
    """A stack that is up; the same one as in the test before, unless that ended it."""
    control.start_detached(stack_settings)
    return stack_settings
