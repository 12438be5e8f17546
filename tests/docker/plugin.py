"""What the marker `docker` means: such a test wants an engine. Without one it skips, or fails under TESTS_NEED_DOCKER.

`.ci/run` sets that once it has brought an engine up, so that tests which ran yesterday cannot quietly stop running.
"""

import os
from collections.abc import Iterator
from functools import cache

import pytest

from tests.docker import images
from tests.docker.engine import NoEngine, find
from tests.docker.litter import Session, sweep

NEEDED = "TESTS_NEED_DOCKER"


@cache
def why_not() -> str | None:
    """Why there can be no test with containers here. None: there can."""
    try:
        find()
        images.ensure_bases()
    except NoEngine as error:
        return str(error)
    sweep()
    return None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make the images before any test's time runs: minutes the first time, nothing later."""
    wanted = [item for item in session.items if item.get_closest_marker("docker")]
    if not wanted or session.config.option.collectonly or why_not() is not None:
        return
    used = {name for item in wanted for name in getattr(item, "fixturenames", ())}
    used |= {name for item in wanted for each in item.iter_markers("docker") for name in each.args}  # of parameters
    for fixture in used & IMAGES.keys():
        image(fixture)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("docker") is None:
        return
    reason = why_not()
    if reason is not None and os.environ.get(NEEDED):
        pytest.fail(f"{NEEDED} is set, and there is no Docker Engine: {reason}", pytrace=False)
    if reason is not None:
        pytest.skip(f"no Docker Engine: {reason}")


IMAGES = {"control_image": images.control, "agent_image": images.agent}


@cache
def image(fixture: str) -> str | NoEngine:
    """The tag of one of the project's images, or why it cannot be made."""
    try:
        return IMAGES[fixture]()
    except NoEngine as error:
        return error


def made(fixture: str) -> str:
    tag = image(fixture)
    if isinstance(tag, NoEngine):
        pytest.fail(f"the project's image cannot be made: {tag}", pytrace=False)
    return tag


@pytest.fixture(scope="session")
def litter() -> Iterator[Session]:
    """Names and labels of this session's containers, networks and volumes, all of which end with it."""
    session = Session()
    yield session
    session.remove_all()


@pytest.fixture(scope="session")
def control_image() -> str:
    """The project's own image with api, beat, worker and flower, of this source."""
    return made("control_image")


@pytest.fixture(scope="session")
def agent_image() -> str:
    """The project's own image with the supervisor, of this source."""
    return made("agent_image")
