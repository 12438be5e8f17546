"""Who a node is, and how much it can hold."""

from pathlib import Path

import pytest

from gastown.containers import Container
from gastown.errors import RuntimeUnavailable
from gastown.runtimes import identity

GB = 1024**3


def test_two_homes_of_a_machine_are_two_nodes(tmp_path: Path) -> None:
    """Nobody finds the attempts of another home."""
    assert identity.of_processes(tmp_path / "a") == identity.of_processes(tmp_path / "a")
    assert identity.of_processes(tmp_path / "a") != identity.of_processes(tmp_path / "b")


def test_a_machine_without_an_id_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.write_text("\n")
    full.write_text("0123\n")
    monkeypatch.setattr(identity, "MACHINE_ID", (tmp_path / "none", empty))
    named = identity.of_processes(tmp_path)
    monkeypatch.setattr(identity, "MACHINE_ID", (tmp_path / "none", empty, full))
    assert identity.of_processes(tmp_path) != named


def test_engines(tmp_path: Path) -> None:
    one = identity.of_engine({"ID": "AAAA:BBBB", "Name": "host"}, tmp_path)
    assert one is not None
    assert one.startswith("engine ")
    assert one != identity.of_engine({"ID": "CCCC", "Name": "host"}, tmp_path)
    assert one != identity.of_engine({"ID": "AAAA:BBBB"}, tmp_path / "other")
    assert identity.of_engine({}, tmp_path) is None


@pytest.mark.parametrize(("memory", "memory_mb", "fits"), [(8 * GB, 4096, 4), (GB, 4096, 1), (0, 64, 1), (GB, 512, 4)])
def test_how_many_containers(memory: int, memory_mb: int, fits: int) -> None:
    assert identity.room_for({"MemTotal": memory}, Container(memory_mb=memory_mb)) == fits


def test_an_engine_that_is_down_is_no_engine(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailable):
        identity.ask_engine(f"unix://{tmp_path}/none.sock")


@pytest.mark.docker
def test_a_real_engine_says_who_it_is(tmp_path: Path) -> None:
    facts = identity.ask_engine(None)
    assert identity.of_engine(facts, tmp_path) == identity.of_engine(identity.ask_engine(None), tmp_path)
    assert identity.room_for(facts, Container()) >= 1
