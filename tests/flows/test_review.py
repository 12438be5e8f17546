"""A reviewer that is a real program, on a real stack: it reads the head, and its word holds the merge or opens it."""

from collections.abc import Callable

from sqlalchemy import select

from gastown.db import transaction
from gastown.models import Bead
from gastown.states import Purpose
from tests.flows.town import Town, git, until

# It reads what its prompt tells it to, and would spoil the merge if anything that it commits got anywhere.
READER = """\
set -e
grep -q 'gastown self review changes' "$1"
test "$(git rev-parse HEAD)" = "$(sed -n 's/.*checked out, at \\([0-9a-f]*\\)\\..*/\\1/p' "$1")"
git diff --name-only origin/main...HEAD > "$TMPDIR/names"
test "$(cat "$TMPDIR/names")" = answer.txt
echo spoilt > answer.txt
git commit --quiet --all --message "A reader commits"
if git show HEAD^:answer.txt | grep -q 41; then
    echo "answer.txt: it is 42, not 41" | gastown self review changes -F -
    exit 3
fi
grep -q 'it is 42, not 41' "$1"
gastown self review approve --comment "right now"
gastown self review approve --comment "right now"
"""
MENDER = """\
grep -q 'it is 42, not 41' "$1" && echo 42 > answer.txt
"""


def preset(town: Town, name: str, script: str) -> None:
    folder = town.settings.home / "presets"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.sh").write_text(script)
    (folder / f"{name}.toml").write_text(f'argv = ["sh", "{folder / name}.sh", "{{prompt_file}}"]\n')


def made(town: Town, purpose: Purpose, bead_id: str) -> list[Bead]:
    with transaction() as session:
        query = select(Bead).where(Bead.purpose == purpose, Bead.mr_id == town.request(bead_id).id)
        return list(session.scalars(query.order_by(Bead.created_at)))


def all_over(town: Town, bead_id: str) -> Callable[[], bool]:
    return lambda: all(each.closed_at for purpose in Purpose for each in made(town, purpose, bead_id))


def test_what_a_reviewer_finds_is_mended_and_read_again_before_it_is_merged(town: Town) -> None:
    preset(town, "reader", READER)
    preset(town, "mender", MENDER)
    town.new_rig(review_agent="reader", rework_agent="mender")
    bead = town.sling("echo 41 > answer.txt")
    town.merged(bead)
    assert town.read("answer.txt") == "42"
    assert "spoilt" not in git("log", "-p", "main", cwd=town.repository)
    until("those who read and mended it are done", all_over(town, bead))
    first, second = made(town, Purpose.REVIEW, bead)
    [mended] = made(town, Purpose.REWORK, bead)
    assert [each.resolution for each in (first, second, mended)] == ["done"] * 3, town.tell(first.id)
    assert [len(town.attempts(each.id)) for each in (first, second, mended)] == [1, 1, 1]
    request = town.request(bead)
    assert request.reviewed_sha == request.head_sha == second.base_sha != first.base_sha
    assert (request.rounds, request.review_notes) == (1, "right now")
    said = [event.message for event in town.events(bead) if event.kind == "reviewed"]
    assert first.base_sha is not None
    assert said[0] == f"{first.id} asks for changes of {first.base_sha[:12]}: answer.txt: it is 42, not 41"
    assert len(said) == 2
