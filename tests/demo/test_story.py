"""What the demo says of its faults, and what it takes for a problem."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gastown.demo import repository, story
from gastown.demo.script import Fault, Kind

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.fixture
def merge(tmp_path: Path) -> Callable[[str], str]:
    """Merge a bead in a repository as the refinery does; the merge commit."""
    repository.make(tmp_path)

    def merge(bead_id: str) -> str:
        repository.git("checkout", "-q", "-B", "work", cwd=tmp_path)
        repository.git("commit", "-q", "--allow-empty", "-m", "Work", cwd=tmp_path)
        repository.git("checkout", "-q", "main", cwd=tmp_path)
        message = f"Merge {bead_id}\n\nGastown-Bead: {bead_id}\n"
        repository.git("merge", "-q", "--no-ff", "-m", message, "work", cwd=tmp_path)
        return repository.git("rev-parse", "main", cwd=tmp_path)

    return merge


def played(folder: Path, *, merges: int = 1, faults: tuple[Fault, ...] = (), stuck: str = "", **row: Any) -> Any:
    """A play with one bead."""
    values = {"id": "gt-aaaaa", "status": "closed", "resolution": "merged", "merged_sha": None, "failure": None}
    bead = SimpleNamespace(**values | {"reason": "closed"} | row)
    place = SimpleNamespace(repository=folder)
    return SimpleNamespace(rows=[bead], place=place, merges={"gt-aaaaa": merges}, faults=faults, stuck=stuck)


def test_merged_once_is_no_problem(tmp_path: Path, merge: Callable[[str], str]) -> None:
    assert story.problems(played(tmp_path, merged_sha=merge("gt-aaaaa"))) == []


def test_merged_twice_is_one(tmp_path: Path, merge: Callable[[str], str]) -> None:
    first, second = merge("gt-aaaaa"), merge("gt-aaaaa")
    (problem,) = story.problems(played(tmp_path, merged_sha=second))
    assert first in problem
    assert second in problem


def test_other_commit_in_the_database_is_one(tmp_path: Path, merge: Callable[[str], str]) -> None:
    merge("gt-aaaaa")
    (problem,) = story.problems(played(tmp_path, merged_sha="f" * 40))
    assert "in the database" in problem


def test_two_merges_in_the_journal_are_one(tmp_path: Path, merge: Callable[[str], str]) -> None:
    (problem,) = story.problems(played(tmp_path, merged_sha=merge("gt-aaaaa"), merges=2))
    assert "2 merges" in problem


def test_failed_bead_says_why(tmp_path: Path) -> None:
    found = story.problems(played(tmp_path, status="failed", resolution=None, failure="exit 3", stuck="too slow"))
    assert found == ["too slow", "gt-aaaaa is failed, not merged: exit 3"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(Kind.RAISE, "gt-aaaaa"), "did not strike"),
        (Fault(Kind.REFUSE, "gt-aaaaa", struck_at=NOON), "no attempt followed"),
        (Fault(Kind.KILL_AGENT, "gt-aaaaa", struck_at=NOON, next_at=later(1)), "did not find that work"),
        (Fault(Kind.KILL_WORKER, "gt-aaaaa", struck_at=NOON, next_at=later(1), back_at=later(1)), "at work"),
    ],
)
def test_fault_without_its_consequence(tmp_path: Path, merge: Callable[[str], str], fault: Fault, words: str) -> None:
    (problem,) = story.problems(played(tmp_path, merged_sha=merge("gt-aaaaa"), faults=(fault,)))
    assert words in problem


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(Kind.RAISE, "gt-aaaaa", struck_at=NOON), ""),
        (Fault(Kind.RAISE, "gt-aaaaa", struck_at=NOON, next_at=later(0.054)), "attempt 2 after 0.05 s"),
        (
            Fault(Kind.KILL_AGENT, "gt-aaaaa", struck_at=NOON, next_at=later(4.6), resumed=True),
            "attempt 2 after 4.6 s, from the work that was left",
        ),
        (
            Fault(
                Kind.KILL_WORKER,
                "gt-aaaaa",
                struck_at=NOON,
                next_at=later(3),
                back_at=later(2),
                bystanders={"gt-bbbbb": 1},
            ),
            "worker back after 2.0 s, attempt 2 after 3.0 s; 1 agent worked on",
        ),
    ],
)
def test_mended_fits_a_line(fault: Fault, words: str) -> None:
    assert story.mended(fault) == words
    assert len(f"      -> {words}") <= 80
    assert len(f"100.0 s  {story.broken(fault)}") <= 80
