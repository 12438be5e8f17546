"""Options that several commands have, worded once."""

from typing import Annotated

import typer

from gastown.commands.plan_formats import PlanFormat
from gastown.gates import MergeMethod

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RigName = Annotated[str | None, typer.Option("--rig", "-r", metavar="RIG", help="The rig.")]
Agent = Annotated[str | None, typer.Option("--agent", "-a", metavar="PRESET", help="The agent preset.")]
ReviewAgent = Annotated[
    str | None,
    typer.Option("--review-agent", metavar="PRESET|none", help="Has to approve each result before it is merged."),
]
ReworkAgent = Annotated[
    str | None,
    typer.Option("--rework-agent", metavar="PRESET|none", help="Mends what holds a merge; else who did the work."),
]
NodeLabels = Annotated[
    list[str] | None,
    typer.Option("--node-label", metavar="LABEL", help="Run it only on nodes with this label; several are possible."),
]
Branch = Annotated[str | None, typer.Option("--branch", "-b", help="The target of merges; default: where HEAD is.")]
Setup = Annotated[str | None, typer.Option("--setup", metavar="CMD", help="Run first in each fresh worktree.")]
Gates = Annotated[
    list[str] | None, typer.Option("--gate", metavar="CMD", help="Must pass before a merge; several are possible.")
]
GatesFile = Annotated[
    str | None,
    typer.Option(
        "--gates-file", metavar="FILE", help="[[gate]] tables: name, command, timeout_s, retries, environment, cwd."
    ),
]
Method = Annotated[
    MergeMethod | None,
    typer.Option("--merge-method", help="What the target gets: a merge commit, one commit, or the commits anew."),
]
Merge = Annotated[
    str | None,
    typer.Option(
        "--merge", metavar="direct|branch", help="Gastown merges, or pushes branch gt/BEAD for a person to merge."
    ),
]
Author = Annotated[
    str | None,
    typer.Option("--author", metavar="'NAME <MAIL>'", help="Of merge and squash commits; '' for who did the work."),
]
PlanFile = Annotated[
    str | None,
    typer.Option("--file", "-f", metavar="PLAN", help="A plan: .toml, .yaml, or .jsonl of bd export; - for a pipe."),
]
Format = Annotated[
    PlanFormat | None, typer.Option("--format", help="How the plan is written; default: as its suffix says, else TOML.")
]
AllowRed = Annotated[bool, typer.Option("--allow-red", help="Take it although setup or a gate fails as it is.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most so many.")]
BeadId = Annotated[str, typer.Argument(metavar="BEAD", help="The id of a bead, such as gt-7k3fq.")]
Policies = Annotated[
    list[str] | None,
    typer.Option("--policy", metavar="KEY=VALUE", help="A number of the rules; gastown config show lists them all."),
]
Unset = Annotated[list[str] | None, typer.Option("--unset", metavar="KEY", help="Take such a number back.")]
