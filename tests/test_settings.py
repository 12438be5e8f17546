"""Settings: where they come from, and what is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gastown import settings
from gastown.errors import UsageError


def test_a_policy_number_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GASTOWN_POLICY__MAX_RUNNING", "2")
    monkeypatch.setenv("GASTOWN_POLICY__BACKOFF_S", "[0, 5]")
    assert settings.load().policy == {"max_running": 2, "backoff_s": [0, 5]}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("GASTOWN_POLICY__MAX_RUNNING", "two", "max_running = 'two'"),
        ("GASTOWN_POLICY", '{"backof_s": [1]}', "backof_s"),
        ("GASTOWN_POLICY", '{"heartbeat_s": 30, "heartbeat_lease_s": 45}', "shorter than two heartbeats"),
        ("GASTOWN_API__BIND", "8484", "host:port"),
        ("GASTOWN_WORKER_PROCESSES", "many", "worker_processes"),
        ("GASTOWN_BROKR_URL", "redis://localhost", "unknown setting GASTOWN_BROKR_URL"),
    ],
)
def test_nonsense_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=said):
        settings.load()


def test_an_unknown_key_in_the_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings.config_file().parent.mkdir(parents=True)
    settings.config_file().write_text("nodes = 'a'\n")
    with pytest.raises(UsageError, match="nodes"):
        settings.load()


@pytest.mark.parametrize(
    "process",
    [
        ["-m", "celery", "-A", "gastown.celery_app", "worker"],
        ["-m", "celery", "-A", "gastown.celery_app", "beat"],
        ["-m", "gastown.embedded.serve", "gastown.api:create_app", "0"],
        ["-m", "gastown.cli", "why"],
    ],
    ids=["worker", "beat", "api", "cli"],
)
def test_no_process_starts_with_numbers_that_make_no_sense(process: list[str], own_home: Path) -> None:
    environment = os.environ | {"GASTOWN_POLICY__HEARTBEAT_LEASE_S": "15"}
    answer = subprocess.run(
        [sys.executable, "-P", *process], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert answer.returncode != 0
    assert "heartbeat_lease_s = 15 is shorter than two heartbeats of 10 s" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.stderr.count("\n") <= 2
