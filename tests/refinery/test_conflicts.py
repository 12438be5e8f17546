"""What an agent is told of a conflict: the files as git left them, and what both sides meant."""

from dataclasses import replace

import pytest

from gastown.gates import MergeMethod
from gastown.refinery import conflicts
from gastown.refinery.merging import Held
from tests.refinery.rig import Rig, commit


def held(rig: Rig, job: object, **changes: object) -> Held:
    outcome = rig.prepare(job, **changes)  # type: ignore[arg-type]
    assert isinstance(outcome, Held)
    return outcome


@pytest.mark.parametrize("method", list(MergeMethod))
def test_both_sides_are_told_with_their_reasons(checkout: Rig, method: MergeMethod) -> None:
    job = checkout.work("gt-1", {"code.py": "one = 11\n"})
    commit(checkout.remote, {"other": "x"}, "not about code.py")
    commit(checkout.remote, {"code.py": "one = 2\n"}, "Count from two\n\nBecause of zero.\n\nGastown-Bead: gt-other")
    told = held(checkout, job, method=method).output
    assert "code.py: both sides changed the same lines" in told
    for line in ("one = 11", "one = 2", "<<<<<<<", ">>>>>>>"):
        assert line in told
    work, _, target = told.partition("What main did to them meanwhile")
    assert "Ada: work on gt-1" in work
    assert "Count from two\n\nBecause of zero.\n\nGastown-Bead: gt-other" in target
    assert "not about code.py" not in told


def test_what_is_deleted_or_added_by_both_says_so(checkout: Rig) -> None:
    job = checkout.work("gt-1", {"code.py": "one = 11\n", "new": "mine\n", ":(top)odd": "mine\n"})
    (checkout.remote / "code.py").unlink()
    commit(checkout.remote, {"new": "theirs\n", ":(top)odd": "theirs\n"}, "away with it")
    told = held(checkout, job).output
    assert "code.py: the target deleted it, and the work changed it" in told
    assert "new: both sides added it, differently" in told
    assert ":(top)odd: both sides added it" in told
    assert "away with it" in told


def test_however_much_there_is_it_stays_short_and_keeps_its_beginning(checkout: Rig) -> None:
    files = {f"file-{number:03}": "mine " * 2000 + "\n" for number in range(150)}
    job = checkout.work("gt-1", files)
    for _ in range(30):
        last = {name: f"theirs {number} " * 1000 for number, name in enumerate(files)}
        commit(checkout.remote, {next(iter(files)): str(_)}, "word " * 500)
    commit(checkout.remote, last, "all of them")
    told = held(checkout, job).output
    assert len(told) <= conflicts.DETAIL_CHARS
    assert told.startswith("The files in conflict:\n\nfile-000: both sides added it")
    for heading in ("What the work did to these files", "What main did to them meanwhile"):
        assert heading in told


def test_binary_files_and_bytes_that_are_no_text(checkout: Rig) -> None:
    job = checkout.work("gt-1", {"image": "\x00\x01mine"})
    commit(checkout.remote, {"image": "\x00\x02theirs"}, "a picture")
    told = held(checkout, replace(job, title="x")).output
    assert "image: both sides added it" in told
    assert "\x00" not in told
