"""Issues as Beads exports them (`bd export`): one JSON object a line, taken as a plan.

Closed issues are done, so whoever waits for one waits no more. An epic is no work of its own: its issues carry its
label and wait for what it waits for, and who waits for the epic waits for all of them. What is put off (deferred,
pinned) or is no work (messages, gates) is left out, together with all that waits for it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gastown.commands.plans import BEADS, LABELS, PlannedBead, check_bead, is_label
from gastown.errors import UsageError

DONE = frozenset({"closed", "tombstone"})
PUT_OFF = frozenset({"deferred", "pinned"})
NO_WORK = frozenset({"message", "merge-request", "molecule", "gate", "agent", "role", "rig", "convoy", "event", "slot"})
WAITS = frozenset({"", "blocks", "waits-for"})
PARENT, IF_FAILED = "parent-child", "conditional-blocks"  # the latter: runs only if the other one fails
PRIORITIES = ("critical", "high", "medium", "low", "low")  # Beads has five, the last is the backlog
SECTIONS = {"design": "Design", "acceptance_criteria": "Acceptance criteria", "notes": "Notes"}
NAMED = 8  # of a list in a note
# Of no use to a plan; other unknown fields are named.
# fmt: off
_PASSED_OVER = frozenset(
    (
        "_type", "issue_id", "assignee", "owner", "estimated_minutes", "created_at", "created_by", "updated_at",
        "closed_at", "close_reason", "started_at", "external_ref", "source_system", "source_repo", "spec_id",
        "comments", "comment_count", "dependency_count", "dependent_count", "parent", "compaction_level",
        "compacted_at", "compacted_at_commit", "original_size", "deleted_at", "deleted_by", "delete_reason",
        "original_type", "closed_by_session", "sender", "due_at", "defer_until", "content_hash", "metadata",
        "ephemeral", "is_template",
    )
)
# fmt: on


class _Dependency(BaseModel):
    model_config = ConfigDict(strict=True)

    depends_on_id: str
    type: str = ""


class Issue(BaseModel):
    """A line. Fields that hold nothing are not written, among them a priority of 0."""

    model_config = ConfigDict(extra="allow", strict=True)

    id: str = Field(min_length=1, max_length=100)
    title: str = ""
    description: str | None = None
    design: str | None = None
    acceptance_criteria: str | None = None
    notes: str | None = None
    status: str | None = None
    priority: int = Field(default=0, ge=0, le=4)
    issue_type: str | None = None
    labels: list[str] | None = None
    dependencies: list[_Dependency] | None = None

    @property
    def done(self) -> bool:
        return self.status in DONE

    @property
    def is_epic(self) -> bool:
        return self.issue_type == "epic"

    @property
    def put_off(self) -> str:
        """Why nobody works on it, though it is not done; empty for work."""
        extra = self.model_extra or {}
        if self.status in PUT_OFF:
            return str(self.status)
        if self.issue_type in NO_WORK:
            return f"a {self.issue_type}"
        if extra.get("is_template") or extra.get("ephemeral"):
            return "a template" if extra.get("is_template") else "ephemeral"
        return "runs only if another one fails" if any(self.others(IF_FAILED)) else ""

    def others(self, *types: str) -> Iterator[str]:
        return (each.depends_on_id for each in self.dependencies or [] if each.type in types)


@dataclass
class _Export:
    """The issues of a file, and what is found out about them."""

    issues: dict[str, Issue]
    lines: dict[str, int]
    parents: dict[str, list[str]] = field(default_factory=dict)
    children: dict[str, list[str]] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)  # waited for, and not in the file
    upwards: set[str] = field(default_factory=set)  # wait for an issue that they are part of

    def __post_init__(self) -> None:
        for issue in self.issues.values():
            self.parents[issue.id] = [each for each in issue.others(PARENT) if each in self.issues]
            for parent in self.parents[issue.id]:
                self.children.setdefault(parent, []).append(issue.id)

    def ancestors(self, name: str) -> list[str]:
        return _reach(name, self.parents)

    def waits_for(self, name: str) -> list[str]:
        """What it waits for and what it is part of waits for; epics as the issues below them."""
        above = self.ancestors(name)
        found: dict[str, None] = {}
        for each in (name, *above):
            for other in self.issues[each].others(*WAITS):
                if other not in self.issues:
                    self.missing.add(other)
                elif other in (name, *above):
                    self.upwards.add(name)
                else:
                    found |= dict.fromkeys(self._work_of(other))
        found.pop(name, None)
        return list(found)

    def _work_of(self, name: str) -> list[str]:
        issue = self.issues[name]
        if issue.done:
            return []
        if not issue.is_epic or issue.put_off:
            return [name]
        below = [self.issues[each] for each in _reach(name, self.children)]
        return [each.id for each in below if not each.done and not each.is_epic]


def read_issues(text: str, source: str) -> tuple[list[PlannedBead], list[str]]:
    """(the beads, what is to be said of the rest). Raises UsageError, naming the line, the issue and the key."""
    issues, lines, others = _parsed(text, source)
    export = _Export(issues, lines)
    left_out = _left_out(export)
    beads = []
    for issue in issues.values():
        if issue.done or issue.is_epic or issue.id in left_out:
            continue
        after = [each for each in export.waits_for(issue.id) if each in issues]
        bead = _bead(issue, after, [issues[each] for each in export.ancestors(issue.id)])
        check_bead(bead, f"{source}: line {lines[issue.id]} ({issue.id})")
        beads.append(bead)
    if not beads:
        what = f"{source} has no issue that is to be worked on" if issues else f"{source} has no issue"
        raise UsageError(what, hint="bd export > plan.jsonl")
    if len(beads) > BEADS:
        what = f"{source} has {len(beads)} issues that are not closed; a plan has at most {BEADS}"
        raise UsageError(what, hint="export a part of them: bd export --help")
    return beads, [*_notes(export, left_out), *others]


def _parsed(text: str, source: str) -> tuple[dict[str, Issue], dict[str, int], list[str]]:
    issues: dict[str, Issue] = {}
    lines: dict[str, int] = {}
    kinds: dict[str, None] = {}
    unknown: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        values = _values(line, f"{source}: line {number}")
        if values.get("_type", "issue") != "issue":
            kinds[str(values["_type"])] = None
            continue
        issue = _issue(values, f"{source}: line {number}")
        if issue.id in issues:
            what = f"{source}: line {number} ({issue.id}): line {lines[issue.id]} is the same issue"
            raise UsageError(what, hint="leave one of them out")
        issues[issue.id], lines[issue.id] = issue, number
        unknown |= dict.fromkeys(each for each in issue.model_extra or {} if each not in _PASSED_OVER)
    notes = [f"records that are no issues are left out: {_some(kinds)}"] if kinds else []
    return (
        issues,
        lines,
        notes + ([f"fields that a plan does not know are ignored: {_some(unknown)}"] if unknown else []),
    )


def _values(line: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError as error:
        said = f"{error.msg}, at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
        what = f"{where} is not JSON: {said[:1].lower()}{said[1:]}"
        raise UsageError(what, hint="one JSON object a line, as bd export writes them") from error
    if not isinstance(values, dict):
        raise UsageError(f"{where} is not an issue", hint="one JSON object a line, as bd export writes them")
    return values


def _issue(values: Mapping[str, Any], where: str) -> Issue:
    try:
        return Issue.model_validate(values)
    except ValidationError as error:
        named = f" ({values['id']})" if isinstance(values.get("id"), str) else ""
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        said = "the issue has no " + key if problem["type"] == "missing" else f"{key}: {problem['msg'].lower()}"
        raise UsageError(f"{where}{named}: {said}", hint="mend it, or take the line out") from error


def _bead(issue: Issue, after: list[str], above: list[Issue]) -> PlannedBead:
    epics = [each for each in above if each.is_epic]
    labels = [each for each in issue.labels or [] if is_label(each)]
    labels += [f"epic:{each.id}" for each in epics[:1] if is_label(f"epic:{each.id}")]
    parts = [(issue.description or "").strip()]
    for key, head in SECTIONS.items():
        said = (getattr(issue, key) or "").strip()
        parts += [f"## {head}\n\n{said}"] if said else []
    parts += [f"Part of {each.id}: {each.title}" for each in epics[:1]]
    return PlannedBead(
        id=issue.id,
        title=issue.title,
        body="\n\n".join(part for part in parts if part),
        priority=PRIORITIES[issue.priority],
        after=after,
        labels=labels[-LABELS:],
    )


def _left_out(export: _Export) -> dict[str, str]:
    """Issues that are not done and yet no work, by their reason; with all that waits for them."""
    issues = export.issues
    left_out = {each.id: each.put_off for each in issues.values() if not each.done and each.put_off}
    for parent in list(left_out):
        below = [each for each in _reach(parent, export.children) if not issues[each].done]
        left_out = dict.fromkeys(below, f"part of {parent}") | left_out
    waits = {
        each.id: export.waits_for(each.id)
        for each in issues.values()
        if not each.done and not each.is_epic and each.id not in left_out
    }
    while True:
        more = {
            name: f"waits for {other}"
            for name, others in waits.items()
            for other in others
            if name not in left_out and other in left_out
        }
        if not more:
            return left_out
        left_out |= more


def _notes(export: _Export, left_out: Mapping[str, str]) -> list[str]:
    issues = export.issues.values()
    closed = sum(each.done for each in issues)
    epics = [each.id for each in issues if each.is_epic and not each.done and each.id not in left_out]
    notes = [
        (closed, f"closed issues are left out: {closed}"),
        (epics, f"epics are no beads, their issues are: {_some(epics)}"),
        (left_out, f"left out: {_some(f'{name} ({why})' for name, why in left_out.items())}"),
        (export.missing, f"waited for, not in the file, and taken as done: {_some(sorted(export.missing))}"),
        (export.upwards, f"not to wait for what they are part of: {_some(sorted(export.upwards))}"),
    ]
    return [words for applies, words in notes if applies]


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - NAMED} more" if len(every) > NAMED else ""
    return ", ".join(every[:NAMED]) + more


def _reach(name: str, edges: Mapping[str, list[str]]) -> list[str]:
    """All that can be reached from it, the nearest first; without itself."""
    found: dict[str, None] = {}
    frontier = [name]
    while frontier:
        frontier = [each for above in frontier for each in edges.get(above, []) if each not in found and each != name]
        found |= dict.fromkeys(frontier)
    return list(found)
