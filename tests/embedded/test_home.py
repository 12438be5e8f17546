"""What can be wrong with a home before anything is started, and how it is told."""

import os
from pathlib import Path

import pytest

from gastown.embedded import home
from gastown.errors import UsageError
from gastown.settings import Settings


def test_a_home_that_is_a_file(own_home: Path) -> None:
    own_home.write_text("")
    with pytest.raises(UsageError, match="is not a folder"):
        home.prepare(Settings(home=own_home))


def test_a_home_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written: Not a directory") as caught:
        home.prepare(Settings(home=tmp_path / "file" / "home"))
    assert "GASTOWN_HOME=" in caught.value.hint


def test_a_home_that_does_not_take_files() -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        home.prepare(Settings(home=Path("/proc/gastown")))


def test_a_folder_with_other_things_in_it_keeps_its_permissions(own_home: Path) -> None:
    own_home.mkdir(mode=0o755)
    (own_home / "letters").mkdir()
    home.prepare(Settings(home=own_home))
    assert own_home.stat().st_mode & 0o777 == 0o755
    assert (own_home / "run").stat().st_mode & 0o777 == 0o700


def test_an_empty_home_with_a_configuration_is_closed(own_home: Path) -> None:
    own_home.mkdir(mode=0o755)
    (own_home / "gastown.toml").write_text("")
    home.prepare(Settings(home=own_home))
    assert own_home.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_a_folder_for_sockets_that_somebody_else_made(own_home: Path) -> None:
    (own_home / "run").mkdir(parents=True)
    os.chown(own_home / "run", 12345, 12345)
    with pytest.raises(UsageError, match="belongs to somebody else \\(uid 12345\\)"):
        home.prepare(Settings(home=own_home))


def test_a_folder_for_sockets_that_is_a_link(own_home: Path, tmp_path: Path) -> None:
    own_home.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (own_home / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="folder for the sockets"):
        home.prepare(Settings(home=own_home))


def test_a_log_is_bounded_and_its_writer_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "LOG_BYTES", 1000)
    log = tmp_path / "worker.log"
    with home.open_log(log) as writer:
        writer.write(b"x" * 1500 + b"end")
        writer.flush()
        home.bound_log(log)
        writer.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "worker.log.1").read_bytes() == b"x" * 997 + b"end"
    assert home.last_line(log) == "new"
