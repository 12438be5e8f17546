"""The executable specification, which lies outside the repository, and its states in the words of `states.py`."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from tests.model.states import MOVING, State, agent_line, bead_line, dispatch_line, phase_of, rest_lines

REPOSITORY = Path(__file__).resolve().parents[2]
MISSING = "the specification is not here: put it at ../shared/model/dispatch_model.py, or its path into DISPATCH_MODEL"


def path() -> Path | None:
    """Where it is. None: this clone came without it."""
    given = os.environ.get("DISPATCH_MODEL")
    found = Path(given) if given else REPOSITORY.parent / "shared" / "model" / "dispatch_model.py"
    return found if found.is_file() else None


def load() -> Any:
    """The module. Raises FileNotFoundError."""
    found = path()
    if found is None:
        raise FileNotFoundError(MISSING)
    if "dispatch_model" not in sys.modules:
        described = importlib.util.spec_from_file_location("dispatch_model", found)
        assert described is not None
        assert described.loader is not None
        module = importlib.util.module_from_spec(described)
        sys.modules["dispatch_model"] = module
        described.loader.exec_module(module)
    return sys.modules["dispatch_model"]


def lines(state: Any) -> State:
    """A state of the specification as `states.observe` words those of the product."""
    merging = None if state.merge is None else state.merge[1]
    found = []
    for number, bead in enumerate(state.beads):
        mr = None if bead.mr is None else phase_of(bead.mr, bead.mr[0] == merging)
        # what may still be attempted or merged is always looked at again by the product, for it may ask for more
        awake = bead.wake or bead.status in MOVING
        found.append(bead_line(number, bead.status, awake, bead.floor, mr, bead.target))
    found += [agent_line(number, agent.status, agent.hook) for number, agent in enumerate(state.agents)]
    for number, row in enumerate(state.rows):
        found.append(dispatch_line(number, row.bead, row.agent, row.status, state.boxes[number]))
    messages = [f"{kind}({number})" for kind, number in state.messages]
    workers = [f"{job[0]}({job[1]}) {job[2]}" for job in state.workers if job]
    merge = None if state.merge is None else f"of {state.merge[1]} at {state.merge[2]}"
    return found + rest_lines(messages, list(state.late), workers, merge)
