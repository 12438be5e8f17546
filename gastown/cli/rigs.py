"""Rigs on the screen: one a line, or one with its setup and gates."""

from collections.abc import Mapping, Sequence
from typing import Any

from gastown.cli import contained, screen
from gastown.cli.words import at, one_line, span
from gastown.gates import GATE_TIMEOUT_S, made_name
from gastown.states import Strategy
from gastown.store.rigs import RigRow


def print_list(rows: Sequence[RigRow]) -> None:
    if not rows:
        return screen.say("no rigs yet\nnext: gastown rig add PATH --gate CMD")
    heads = ("name", "branch", "agent", "gates", "open", "running", "merging", "repository")
    cells = [
        (
            row.name + (" (paused)" if row.paused_at else ""),
            row.branch,
            row.agent or "-",
            str(len(row.gates)),
            str(row.open_beads),
            str(row.running),
            str(row.merging),
            one_line(row.repository),
        )
        for row in rows
    ]
    return screen.console().print(screen.table(heads, cells, flexible=("repository",)))


def print_rig(row: RigRow) -> None:
    paused = f", paused since {at(row.paused_at)}" if row.paused_at else ""
    screen.say(f"rig {row.name}{paused}")
    lines = {
        "repository": one_line(row.repository),
        "branch": row.branch,
        "agent": row.agent or "none: each sling names one with --agent",
        "setup": one_line(row.setup) or "none",
        "merges": _merges(row),
        "rework": _rework(row),
        "nodes": f"those with {', '.join(map(one_line, row.node_labels))}" if row.node_labels else "any",
        "containers": contained.in_words(row.container) or "as its nodes and presets say",
        "reviews": f"{row.review_agent} has to approve each result" if row.review_agent else "none",
        "added": at(row.created_at),
        "beads": f"{row.open_beads} open, {row.running} running, {row.merging} merging",
        "environment": f"{row.variables} variables, as of rig add; rig set --environment takes them anew",
    }
    for key, value in lines.items():
        screen.say(f"  {key:<11} {value}")
    for gate in row.gates:
        screen.say(f"  {'gate':<11} {_gate(gate)}")
    if not row.gates:
        screen.say(f"  {'gate':<11} none: whatever an agent commits is merged unchecked")
    for key, value in sorted(row.policy.items()) if isinstance(row.policy, dict) else ():
        screen.say(f"  {'policy':<11} {one_line(key)} = {one_line(str(value), 100)}")
    if row.wrong:
        screen.say(f"  {'WRONG':<11} nothing is started: {one_line(row.wrong, 300)}")


def _merges(row: RigRow) -> str:
    by_hand = "by hand: each result is pushed as branch gt/BEAD; tried as " if row.strategy == Strategy.BRANCH else ""
    return by_hand + row.merge_method + (f", with {one_line(row.author)} as author" if row.author else "")


def _rework(row: RigRow) -> str:
    rounds = row.policy.get("rework_rounds") if isinstance(row.policy, dict) else None
    if rounds == 0:
        return "none: what holds a merge is for a person"
    who = row.rework_agent or "the agent that did the work, if it reads what it is told,"
    return f"{who} mends what holds a merge, before a person is asked"


def _gate(gate: Mapping[str, Any]) -> str:
    about = [
        f"in {one_line(gate['cwd'])}" if gate["cwd"] else "",
        f"with {', '.join(gate['environment'])}" if gate["environment"] else "",
        f"at most {span(gate['timeout_s'])}" if gate["timeout_s"] != GATE_TIMEOUT_S else "",
        f"up to {gate['retries'] + 1} tries" if gate["retries"] else "",
    ]
    name = "" if gate["name"] == made_name(gate["command"]) else f"{one_line(gate['name'])}: "
    more = ", ".join(each for each in about if each)
    return f"{name}{one_line(gate['command'])}" + (f" ({more})" if more else "")
