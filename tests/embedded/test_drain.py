"""The drain: attempts end and say so; with --leave-agents they go on."""

import uuid
from pathlib import Path

import pytest
from stacks import wait_for

from gastown.cli.drain import drain
from gastown.errors import RuntimeUnavailable
from gastown.runtimes import RunSpec
from gastown.runtimes.process import ProcessRuntime

pytestmark = pytest.mark.flow


def test_every_attempt_of_the_home_ends_and_no_other(own_home: Path, tmp_path: Path) -> None:
    """The API of these is not there: they wait for it, as they should, until they are told to stop."""
    ours, theirs = ProcessRuntime(own_home), ProcessRuntime(tmp_path / "another")
    names = [str(uuid.uuid4()) for _ in range(3)]
    for runtime, name in ((ours, names[0]), (ours, names[1]), (theirs, names[2])):
        (tmp_path / "another").mkdir(exist_ok=True)
        own_home.mkdir(exist_ok=True)
        runtime.start(RunSpec(name=name, bead_id="gt-1", epoch=1, api_url="http://127.0.0.1:1", token="t"))
    try:
        wait_for(lambda: len(ours.list_names()) == 2, "both run")
        assert drain(own_home, grace_s=20) == 2
        assert ours.list_names() == []
        assert theirs.list_names() == [names[2]]
        assert drain(own_home) == 0
    finally:
        theirs.stop(names[2], grace_s=0)
        for name in names[:2]:
            ours.stop(name, grace_s=0)


def test_one_that_cannot_be_stopped_is_named_and_the_others_are_stopped(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = []

    def stop(self: ProcessRuntime, name: str, *, grace_s: float) -> None:
        if name == "a":
            raise RuntimeUnavailable("it hangs")
        stopped.append(name)

    monkeypatch.setattr(ProcessRuntime, "list_names", lambda self: ["a", "b", "c"])
    monkeypatch.setattr(ProcessRuntime, "stop", stop)
    with pytest.raises(RuntimeUnavailable, match="1 of 3 attempts could not be stopped: a: it hangs"):
        drain(own_home)
    assert sorted(stopped) == ["b", "c"]
