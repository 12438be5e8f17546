"""G1, G2: whatever a start answers, whatever is true, and whatever the broker does. Cell by cell."""

from dataclasses import dataclass, field

import pytest

from tests import tables
from tests.flows.directing import WORKERS, Director
from tests.flows.matrix import CELLS, EXPECTED, TOWN_POLICY, Cell, Played
from tests.flows.oracles import problems_of, row_of
from tests.flows.town import Town, run_town

pytestmark = pytest.mark.timeout(900)  # the first test waits for the whole matrix to be played
TITLE = "outcome matrix: (answer, really started, message) and what came of it"
HEAD = (
    *("answer", "started", "message", "attempts", "settled by", "after", "retry"),
    *("no process", "fenced", "agents"),
)


@dataclass
class Run:
    town: Town
    played: dict[Cell, Played] = field(default_factory=dict)
    broken: str = ""


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All cells that were asked for, played on one stack, which is gone again when the first test looks at them."""
    asked = {item.callspec.params.get("cell") for item in request.session.items if hasattr(item, "callspec")}
    cells = [cell for cell in CELLS if cell in asked] or CELLS[:1]
    with (
        run_town(tmp_path_factory.mktemp("matrix"), policy=TOWN_POLICY, worker_processes=WORKERS) as town,
        pytest.MonkeyPatch.context() as patch,
    ):
        found = Run(town)
        try:
            with town.entered(patch):
                found.played = Director(town).play(cells)
        except AssertionError as error:
            found.broken = str(error)
    rows = [row_of(found.played[cell], town) for cell in CELLS if cell in found.played]
    line = "{:26} {:7} {:7} {:26} {:13} {:>7} {:>7} {:>10} {:>7} {:>6}"
    tables.add(TITLE, *(line.format(*row) for row in (HEAD, *rows)))
    return found


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_cell(run: Run, cell: Cell) -> None:
    assert cell in run.played, run.broken
    played = run.played[cell]
    problems = problems_of(played, run.town)
    assert not problems, "\n".join([f"{cell}:", *problems, played.story])


def test_nothing_is_broken_afterwards(run: Run) -> None:
    """No invariant, and every decision that the matrix led to replays."""
    assert not run.broken, run.broken


def test_the_matrix_is_whole() -> None:
    assert len(CELLS) == len(set(CELLS)) == 54
    assert {(cell.outcome, cell.started) for cell in CELLS} == set(EXPECTED)
