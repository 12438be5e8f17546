"""What became of it: each fault in two lines, and whether every bead is merged exactly once."""

from gastown.demo import repository
from gastown.demo.script import Fault, Kind, Play
from gastown.states import BeadStatus, Resolution
from gastown.store.listing import BeadRow

NAMES = {
    Kind.RAISE: "a start raises",
    Kind.REFUSE: "a start is refused",
    Kind.KILL_AGENT: "an agent is killed",
    Kind.KILL_WORKER: "the worker is killed",
}


def broken(fault: Fault) -> str:
    """What was broken."""
    match fault.kind:
        case Kind.RAISE:
            return f"the start of {fault.bead_id} raised an error"
        case Kind.REFUSE:
            return f"the start of {fault.bead_id} was refused"
        case Kind.KILL_AGENT:
            return f"the agent of {fault.bead_id} was killed (SIGKILL), its work uncommitted"
        case Kind.KILL_WORKER:
            return f"the worker was killed (SIGKILL) while it started {fault.bead_id}"


def mended(fault: Fault) -> str:
    """What Gastown did about it; empty as long as nothing is known."""
    if fault.recovery_s is None:
        return ""
    told = f"attempt 2 after {seconds(fault.recovery_s)}"
    if fault.kind is Kind.KILL_AGENT and fault.resumed:
        told += ", from the work that was left"
    if fault.kind is Kind.KILL_WORKER and fault.struck_at and fault.back_at:
        back_s = (fault.back_at - fault.struck_at).total_seconds()
        told = f"worker back after {seconds(back_s)}, {told}"
        others = len(fault.bystanders)
        if others and fault.unharmed:
            told += f"; {others} {'agent' if others == 1 else 'agents'} worked on"
    return told


def seconds(duration_s: float) -> str:
    return f"{duration_s:.2f} s" if duration_s < 1 else f"{duration_s:.1f} s"


def problems(play: Play) -> list[str]:
    """Whatever is not as it ought to be: beads by git and by rows, faults by what followed. Empty is good."""
    found = [play.stuck] if play.stuck else []
    merges = play.merges
    found += [each for row in play.rows for each in _problems_of(play, row, merges[row.id])]
    for fault in play.faults:
        if fault.struck_at is None:
            found.append(f"this fault did not strike: {NAMES[fault.kind]}")
        elif fault.next_at is None:
            found.append(f"{broken(fault)}, and no attempt followed")
        elif fault.kind is Kind.KILL_AGENT and not fault.resumed:
            found.append(f"{broken(fault)}, and its next attempt did not find that work")
        elif fault.kind is Kind.KILL_WORKER and not (fault.back_at and fault.bystanders and fault.unharmed):
            found.append(f"{broken(fault)}; it is not back, or its end reached the agents at work")
    return found


def _problems_of(play: Play, row: BeadRow, merges: int) -> list[str]:
    if row.resolution != Resolution.MERGED:
        ended = row.resolution or row.status
        reason = (row.failure if row.status == BeadStatus.FAILED else row.reason) or "nobody knows why"
        return [f"{row.id} is {ended.replace('_', ' ')}, not merged: {reason}"]
    found = []
    commits = repository.merge_commits(play.place.repository, row.id)
    if len(commits) != 1:
        found.append(f"{row.id} is merged by {len(commits)} commits: {', '.join(commits) or 'none'}")
    elif commits[0] != row.merged_sha:
        found.append(f"{row.id} is merged as {commits[0]} in git, and as {row.merged_sha} in the database")
    if merges != 1:
        found.append(f"the journal has {merges} merges of {row.id}")
    return found
