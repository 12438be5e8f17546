"""The schema. Constraints carry the invariants: what must never be true cannot be stored.

A status is written by `gastown.store` alone (L2). The legal moves are tables in `gastown.states`.
"""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from gastown.gates import MergeMethod
from gastown.states import (
    LIVE,
    MERGING,
    PRIORITIES,
    TERMINAL,
    AgentStatus,
    BeadStatus,
    ConvoyMode,
    ConvoyStatus,
    DispatchStatus,
    FailureClass,
    MergeStatus,
    Purpose,
    Resolution,
    Strategy,
)


def one_of(column: str, values: Any) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


NOW = func.gastown_now()
IS_LIVE = one_of("status", LIVE)
IS_TERMINAL = one_of("status", TERMINAL)
FOR_A_MERGE = (Purpose.CONFLICT, Purpose.REWORK, Purpose.REVIEW)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "pk": "%(table_name)s_pkey",
        }
    )
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads it from the class)
        str: Text,
        int: BigInteger,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
        list[str]: ARRAY(Text),
        bytes: LargeBinary,
    }


class Town(Base):
    """An isolated installation. The reconciler decides for one town at a time, under its lock."""

    __tablename__ = "towns"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    paused_at: Mapped[datetime | None]
    breaker_opened_at: Mapped[datetime | None]  # starts failed in a row: one probe at a time, until one starts
    breaker_reason: Mapped[str | None]
    policy: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Node(Base):
    """One runtime that runs attempts. It is live while one of its workers beats."""

    __tablename__ = "nodes"
    __table_args__ = (CheckConstraint("capacity > 0", name="capacity"),)

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    runtime: Mapped[str]
    capacity: Mapped[int] = mapped_column(Integer)
    identity: Mapped[str | None]  # the engine's id, or machine and home: two of one name are refused by it
    version: Mapped[str | None]  # of the worker that beat last
    labels: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))  # what rigs may ask for
    images: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))  # by preset, "*" for any: its own
    workers: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))  # who beat of late, or was refused
    heartbeat_at: Mapped[datetime] = mapped_column(server_default=NOW)
    draining_at: Mapped[datetime | None]  # its attempts are asked to stop: no new starts until a worker beats again
    closed_at: Mapped[datetime | None]  # a person drains it: no new starts until that is undone, whoever beats
    removed_at: Mapped[datetime | None]  # a person took it away; what ran there still names it
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Rig(Base):
    """One git repository under management."""

    __tablename__ = "rigs"
    __table_args__ = (
        UniqueConstraint("town_id", "name"),
        CheckConstraint("name <> '' AND repository <> '' AND branch <> ''", name="named"),
        CheckConstraint("jsonb_typeof(gates) = 'array'", name="gates"),
        CheckConstraint(one_of("merge_method", MergeMethod), name="merge_method"),
        CheckConstraint(one_of("strategy", Strategy), name="strategy"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    town_id: Mapped[int] = mapped_column(ForeignKey("towns.id"))
    name: Mapped[str]
    repository: Mapped[str]  # URL, or the path of a bare repository or of the user's own checkout
    branch: Mapped[str]  # the target of merges
    agent: Mapped[str | None]  # the preset; None: each sling has to say
    setup: Mapped[str] = mapped_column(server_default="")
    gates: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))  # as gastown.gates stores them
    merge_method: Mapped[str] = mapped_column(server_default=MergeMethod.MERGE)
    author: Mapped[str | None]  # of the commits that merges make, as "Name <mail>"; None: who did the work
    strategy: Mapped[str] = mapped_column(server_default=Strategy.DIRECT)
    rework_agent: Mapped[str | None]  # the preset that mends what holds a merge; None: that of the work's last attempt
    review_agent: Mapped[str | None]  # the preset that has to approve each merge request; None: none
    environment: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))  # captured at `rig add`, scrubbed
    container: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))  # over that of its nodes
    node_labels: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))  # a node has to have all of them
    policy: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    paused_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Bead(Base):
    """A durable unit of work.

    `wake_at` says when the reconciler must look next; `ready_at` that nothing but a free slot is missing.
    """

    __tablename__ = "beads"
    __table_args__ = (
        CheckConstraint(one_of("status", BeadStatus), name="status"),
        CheckConstraint(f"resolution IS NULL OR {one_of('resolution', Resolution)}", name="resolution"),
        CheckConstraint("(status = 'closed') = (resolution IS NOT NULL)", name="closed_has_resolution"),
        CheckConstraint("status <> 'failed' OR failure_code IS NOT NULL", name="failed_has_reason"),
        CheckConstraint(f"({IS_TERMINAL}) = (closed_at IS NOT NULL)", name="terminal_has_end"),
        CheckConstraint(f"ready_at IS NULL OR NOT ({IS_TERMINAL})", name="terminal_is_never_ready"),
        CheckConstraint(f"priority BETWEEN 0 AND {len(PRIORITIES) - 1}", name="priority"),
        CheckConstraint("title <> '' AND length(title) <= 10000", name="title"),
        CheckConstraint("(held_at IS NULL) = (held_reason IS NULL)", name="held_has_reason"),
        CheckConstraint(f"purpose IS NULL OR {one_of('purpose', Purpose)}", name="purpose"),
        CheckConstraint(f"({one_of('purpose', FOR_A_MERGE)}) IS TRUE = (mr_id IS NOT NULL)", name="purpose_has_merge"),
        CheckConstraint("purpose IS DISTINCT FROM 'landing' OR convoy_id IS NOT NULL", name="landing_has_convoy"),
        CheckConstraint("base_ref IS NULL OR base_sha IS NOT NULL", name="base_ref_has_base"),
        Index("beads_of_merge_request", "mr_id", postgresql_where=text("mr_id IS NOT NULL")),
        Index("beads_of_convoy", "convoy_id", postgresql_where=text("convoy_id IS NOT NULL")),
        Index("beads_due", "town_id", "wake_at", postgresql_where=text("wake_at IS NOT NULL")),
        Index(
            "beads_ready",
            "town_id",
            "rig_id",
            text("(forced_at IS NULL)"),
            "priority",
            "created_at",
            "id",
            postgresql_where=text("ready_at IS NOT NULL"),
        ),
        Index("beads_unclosed", "town_id", "created_at", postgresql_where=text("status <> 'closed'")),
        Index("beads_labels", "labels", postgresql_using="gin", postgresql_where=text("labels <> '{}'")),
        Index("beads_town_created", "town_id", "created_at"),
        {"postgresql_with": {"fillfactor": "80"}},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    town_id: Mapped[int] = mapped_column(ForeignKey("towns.id"))
    rig_id: Mapped[int] = mapped_column(ForeignKey("rigs.id"))
    type: Mapped[str] = mapped_column(server_default="issue")
    purpose: Mapped[str | None]  # None: a person or an agent asked for it
    mr_id: Mapped[int | None] = mapped_column(ForeignKey("merge_requests.id", use_alter=True))  # that it is made for
    convoy_id: Mapped[str | None] = mapped_column(ForeignKey("convoys.id"))  # whose member, or landing, it is
    title: Mapped[str]
    body: Mapped[str] = mapped_column(server_default="")
    labels: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    agent: Mapped[str | None]  # the preset; None: the rig's
    priority: Mapped[int] = mapped_column(SmallInteger, server_default="2")
    status: Mapped[str] = mapped_column(server_default=BeadStatus.OPEN)
    resolution: Mapped[str | None]
    wake_at: Mapped[datetime | None]
    ready_at: Mapped[datetime | None]
    not_before: Mapped[datetime | None]
    forced_at: Mapped[datetime | None]
    held_at: Mapped[datetime | None]
    held_reason: Mapped[str | None]
    attempts_from: Mapped[int] = mapped_column(Integer, server_default="0")  # epochs up to this one count no more
    base_sha: Mapped[str | None]  # what the next attempt starts from, when somebody asked for it
    base_ref: Mapped[str | None]  # where a node that lacks it finds it on the remote; None: under the bead's own refs
    failure_class: Mapped[str | None]
    failure_code: Mapped[str | None]
    failure_message: Mapped[str | None]
    verdict: Mapped[str | None]  # the last decision: what it was, its values, and the rule that made it
    verdict_reason: Mapped[str | None]
    verdict_rule: Mapped[str | None]
    looked_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    started_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]


class BeadDependency(Base):
    """`bead_id` waits for `blocker_id`. A trigger refuses an edge that closes a cycle, naming its path."""

    __tablename__ = "bead_dependencies"
    __table_args__ = (
        CheckConstraint("bead_id <> blocker_id", name="no_self_edge"),
        CheckConstraint("kind IN ('blocks', 'tracks')", name="kind"),
        Index("bead_dependencies_blocker", "blocker_id"),
    )

    bead_id: Mapped[str] = mapped_column(ForeignKey("beads.id"), primary_key=True)
    blocker_id: Mapped[str] = mapped_column(ForeignKey("beads.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(server_default="blocks")


class Agent(Base):
    """A named worker identity on a rig. Its hook, `bead_id`, survives its process."""

    __tablename__ = "agents"
    __table_args__ = (
        CheckConstraint(one_of("status", AgentStatus), name="status"),
        CheckConstraint("status <> 'working' OR bead_id IS NOT NULL", name="working_has_hook"),
        CheckConstraint("status <> 'retired' OR bead_id IS NULL", name="retired_has_no_hook"),
        Index("one_agent_per_bead", "bead_id", unique=True, postgresql_where=text("bead_id IS NOT NULL")),
        Index(
            "one_living_agent_per_name", "town_id", "name", unique=True, postgresql_where=text("status <> 'retired'")
        ),
        Index("agents_idle", "rig_id", "id", postgresql_where=text("status = 'idle' AND bead_id IS NULL")),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    town_id: Mapped[int] = mapped_column(ForeignKey("towns.id"))
    rig_id: Mapped[int] = mapped_column(ForeignKey("rigs.id"))
    name: Mapped[str]
    role: Mapped[str] = mapped_column(server_default="polecat")
    status: Mapped[str] = mapped_column(server_default=AgentStatus.IDLE)
    bead_id: Mapped[str | None] = mapped_column(ForeignKey("beads.id"))
    idle_since: Mapped[datetime | None] = mapped_column(server_default=NOW)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Dispatch(Base):
    """One attempt to run an agent on a bead. At most one per bead, and per agent, is live: Postgres sees to that.

    `heartbeat_at`, `lease_expires_at` and `progress_at` are in no index, so that a heartbeat is a HOT update.
    """

    __tablename__ = "dispatches"
    __table_args__ = (
        UniqueConstraint("bead_id", "epoch"),
        CheckConstraint(one_of("status", DispatchStatus), name="status"),
        CheckConstraint("epoch > 0", name="epoch"),
        CheckConstraint(f"({IS_LIVE}) = (ended_at IS NULL)", name="ended_is_not_live"),
        CheckConstraint(
            "status NOT IN ('failed', 'rolled_back', 'lost', 'stopped') OR code IS NOT NULL", name="has_code"
        ),
        CheckConstraint(f"failure_class IS NULL OR {one_of('failure_class', FailureClass)}", name="failure_class"),
        CheckConstraint("status <> 'running' OR started_at IS NOT NULL", name="running_has_started"),
        Index("one_live_dispatch_per_bead", "bead_id", unique=True, postgresql_where=text(IS_LIVE)),
        Index("one_live_dispatch_per_agent", "agent_id", unique=True, postgresql_where=text(IS_LIVE)),
        CheckConstraint("(stop_code IS NULL) = (stop_asked_at IS NULL)", name="asked_stop_has_code"),
        CheckConstraint("cost_usd >= 0", name="cost"),
        Index("live_dispatches_of_town", "town_id", "rig_id", "node_id", postgresql_where=text(IS_LIVE)),
        # of breakers and budgets: what happened of late, whatever the history
        Index("dispatches_ended", "town_id", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
        Index("dispatches_infra", "town_id", "ended_at", postgresql_where=text("failure_class = 'infra'")),
        Index("dispatches_started", "town_id", "started_at", postgresql_where=text("started_at IS NOT NULL")),
        Index("dispatches_started_on", "node_id", "started_at", postgresql_where=text("started_at IS NOT NULL")),
        Index("dispatches_rolled_back_on", "node_id", "ended_at", postgresql_where=text("status = 'rolled_back'")),
        {"postgresql_with": {"fillfactor": "70"}},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    town_id: Mapped[int] = mapped_column(ForeignKey("towns.id"))
    rig_id: Mapped[int] = mapped_column(ForeignKey("rigs.id"))
    bead_id: Mapped[str] = mapped_column(ForeignKey("beads.id"))
    agent_id: Mapped[int] = mapped_column(ForeignKey("agents.id"))
    node_id: Mapped[int] = mapped_column(ForeignKey("nodes.id"))
    epoch: Mapped[int] = mapped_column(Integer)
    preset: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=DispatchStatus.QUEUED)
    queued_at: Mapped[datetime] = mapped_column(server_default=NOW)
    starting_at: Mapped[datetime | None]  # a worker claimed the start
    call_ended_at: Mapped[datetime | None]  # runtime.start came back, or its worker is known to be gone
    claimed_by: Mapped[str | None]  # the worker that claimed the start
    pid: Mapped[int | None]  # of the supervisor, for people
    started_at: Mapped[datetime | None]  # the attempt's first call
    heartbeat_at: Mapped[datetime | None]
    lease_expires_at: Mapped[datetime | None]
    lease_s: Mapped[float] = mapped_column(Double, server_default="45")  # in force when it was created
    progress_at: Mapped[datetime | None]
    tool_running: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    stall_tier: Mapped[int] = mapped_column(SmallInteger, server_default="0")  # 1: nudged, 2: a person was asked
    stop_code: Mapped[str | None]  # a StopCode: it is asked to wind down, and hears it with its next heartbeat
    stop_reason: Mapped[str | None]
    stop_asked_at: Mapped[datetime | None]
    cost_usd: Mapped[float] = mapped_column(Double, server_default="0")  # as it reported
    cap_usd: Mapped[float | None] = mapped_column(Double)  # reserved of the budget while it is live
    phase: Mapped[str | None]
    status_text: Mapped[str | None]  # what the agent says it is doing
    seen_at: Mapped[datetime | None]  # when an inspection looked, and what it saw
    seen: Mapped[str | None]
    seen_exit_code: Mapped[int | None] = mapped_column(Integer)
    seen_oom: Mapped[bool | None] = mapped_column(Boolean)
    ended_at: Mapped[datetime | None]
    code: Mapped[str | None]  # a FailureCode, or a StopCode
    failure_class: Mapped[str | None]
    message: Mapped[str | None]
    exit_code: Mapped[int | None] = mapped_column(Integer)
    base_sha: Mapped[str | None]
    head_sha: Mapped[str | None]
    wip_sha: Mapped[str | None]
    adopted_at: Mapped[datetime | None]
    log_bytes: Mapped[int] = mapped_column(server_default="0")


class MergeRequest(Base):
    """A finished attempt's head on its way into the target. What is merged is `head_sha`, whatever its ref says later.

    Rework moves the head: then `dispatch_id` is the attempt that made the newer one.
    `staged_sha` is a gated merge commit that waits for the user's checkout to be clean; later merges stack on it.
    """

    __tablename__ = "merge_requests"
    __table_args__ = (
        CheckConstraint(one_of("status", MergeStatus), name="status"),
        CheckConstraint("(held_code IS NULL) = (held_reason IS NULL)", name="held_has_reason"),
        CheckConstraint("status <> 'pushing' OR (merge_sha IS NOT NULL AND expected_sha IS NOT NULL)", name="pushing"),
        CheckConstraint(f"NOT ({one_of('status', MERGING)}) OR lease_expires_at IS NOT NULL", name="merging_has_lease"),
        CheckConstraint("(merged_sha IS NULL) = (merged_at IS NULL)", name="merged_is_dated"),
        CheckConstraint("batch_of IS NULL OR (status = 'open' AND batch_of <> id)", name="batch_is_open"),
        CheckConstraint("(published_sha IS NULL) = (published_ref IS NULL)", name="published_has_ref"),
        Index("merge_requests_of_bead", "bead_id"),
        Index("merge_requests_of_batch", "batch_of", postgresql_where=text("batch_of IS NOT NULL")),
        UniqueConstraint("dispatch_id"),
        Index(
            "one_merge_per_target", "rig_id", "target", unique=True, postgresql_where=text(one_of("status", MERGING))
        ),
        Index(
            "one_merge_request_per_bead",
            "bead_id",
            unique=True,
            postgresql_where=text("status NOT IN ('closed', 'failed')"),
        ),
        Index(
            "merge_queue",
            "rig_id",
            "target",
            "priority",
            "id",
            postgresql_where=text("status NOT IN ('closed', 'failed')"),
        ),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    town_id: Mapped[int] = mapped_column(ForeignKey("towns.id"))
    rig_id: Mapped[int] = mapped_column(ForeignKey("rigs.id"))
    bead_id: Mapped[str] = mapped_column(ForeignKey("beads.id"))
    dispatch_id: Mapped[UUID | None] = mapped_column(ForeignKey("dispatches.id"))  # that made the head; None: a landing
    target: Mapped[str]
    head_sha: Mapped[str]
    head_ref: Mapped[str | None]  # where a machine that lacks it finds it on the remote; None: where its attempt put it
    priority: Mapped[int] = mapped_column(SmallInteger)
    status: Mapped[str] = mapped_column(server_default=MergeStatus.OPEN)
    merge_epoch: Mapped[int] = mapped_column(Integer, server_default="0")
    lease_expires_at: Mapped[datetime | None]
    claimed_by: Mapped[str | None]  # the worker that merges it
    step: Mapped[str | None]
    asked_at: Mapped[datetime | None]  # when a merge message was last published for it
    merge_sha: Mapped[str | None]  # our merge commit, written before it is pushed
    expected_sha: Mapped[str | None]  # what the push expects the target to be
    staged_sha: Mapped[str | None]
    staged_at: Mapped[datetime | None]
    held_code: Mapped[str | None]
    held_reason: Mapped[str | None]
    held_output: Mapped[str | None]
    look_at: Mapped[datetime | None]  # a hold that the outside may lift is looked at again then
    rounds: Mapped[int] = mapped_column(SmallInteger, server_default="0")  # of rework that were begun
    rework_agent: Mapped[str | None]  # the preset that may mend what holds it; None: a person has to
    rework_id: Mapped[str | None] = mapped_column(ForeignKey("beads.id"))  # the bead that mends what holds it now
    review_id: Mapped[str | None] = mapped_column(ForeignKey("beads.id"))  # the bead that reviews its head now
    reviewed_sha: Mapped[str | None]  # the head that was approved
    review_notes: Mapped[str | None]  # what the last review said
    batch_of: Mapped[int | None] = mapped_column(ForeignKey("merge_requests.id"))  # whose worker merges it along
    published_sha: Mapped[str | None]  # the head that was handed to a forge, or pushed as a branch, for a person
    published_ref: Mapped[str | None]  # what the forge calls it: a branch, or the address of a pull request
    gate_runs: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))  # what each gate said of merge_sha
    merged_sha: Mapped[str | None]
    merged_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Convoy(Base):
    """Beads that land as a whole. Its landing beads, one for each rig, carry its rules."""

    __tablename__ = "convoys"
    __table_args__ = (
        CheckConstraint(one_of("status", ConvoyStatus), name="status"),
        CheckConstraint(one_of("mode", ConvoyMode), name="mode"),
        CheckConstraint("name <> '' AND length(name) <= 100", name="named"),
        CheckConstraint("(status IN ('closed', 'failed')) = (closed_at IS NOT NULL)", name="terminal_has_end"),
        Index("convoys_of_town", "town_id", "created_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)  # cv-xxxxx
    town_id: Mapped[int] = mapped_column(ForeignKey("towns.id"))
    name: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=ConvoyStatus.STAGED)
    mode: Mapped[str] = mapped_column(server_default=ConvoyMode.REVIEW_THEN_LAND)
    partial_at: Mapped[datetime | None]  # somebody asked to land without the members that failed
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    started_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]


class ConvoyBranch(Base):
    """The feature branch of a convoy on one rig. It is made by the first merge into it."""

    __tablename__ = "convoy_branches"
    __table_args__ = (UniqueConstraint("rig_id", "branch"), CheckConstraint("branch <> target", name="own"))

    convoy_id: Mapped[str] = mapped_column(ForeignKey("convoys.id"), primary_key=True)
    rig_id: Mapped[int] = mapped_column(ForeignKey("rigs.id"), primary_key=True)
    branch: Mapped[str]
    target: Mapped[str]  # where it lands
    head_sha: Mapped[str | None]  # as the last merge into it left it; None: nothing was merged yet


class Event(Base):
    """The journal: who did what, when and why. Append-only."""

    __tablename__ = "events"
    __table_args__ = (Index("events_bead", "bead_id", "id"), Index("events_town", "town_id", "id"))

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=NOW)
    town_id: Mapped[int] = mapped_column(ForeignKey("towns.id"))
    bead_id: Mapped[str | None] = mapped_column(ForeignKey("beads.id"))
    dispatch_id: Mapped[UUID | None]
    actor: Mapped[str]
    kind: Mapped[str]
    message: Mapped[str]
    data: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))


class DecisionRow(Base):
    """A verdict, each time it or its reason changed. The view it was made from gives the same verdict again."""

    __tablename__ = "decisions"
    __table_args__ = (Index("decisions_bead", "bead_id", "id"),)

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=NOW)
    town_id: Mapped[int] = mapped_column(ForeignKey("towns.id"))
    bead_id: Mapped[str] = mapped_column(ForeignKey("beads.id"))
    verdict: Mapped[str]
    reason: Mapped[str]
    rule: Mapped[str]
    next_look: Mapped[datetime | None]
    view: Mapped[dict[str, Any]]


class Escalation(Base):
    """A person is asked to look at something. One for each cause, until it is settled."""

    __tablename__ = "escalations"
    __table_args__ = (
        Index(
            "one_open_escalation_per_cause",
            "town_id",
            "cause",
            unique=True,
            postgresql_where=text("settled_at IS NULL"),
        ),
        Index(
            "open_escalations_of_bead",
            "bead_id",
            postgresql_where=text("settled_at IS NULL AND bead_id IS NOT NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    town_id: Mapped[int] = mapped_column(ForeignKey("towns.id"))
    bead_id: Mapped[str | None] = mapped_column(ForeignKey("beads.id"))
    cause: Mapped[str]
    message: Mapped[str]
    raised_at: Mapped[datetime] = mapped_column(server_default=NOW)
    settled_at: Mapped[datetime | None]


class RateLimit(Base):
    """A preset whose provider asked for a pause: nothing is started with it before `until`."""

    __tablename__ = "rate_limits"

    town_id: Mapped[int] = mapped_column(ForeignKey("towns.id"), primary_key=True)
    preset: Mapped[str] = mapped_column(primary_key=True)
    until: Mapped[datetime]
    in_row: Mapped[int] = mapped_column(Integer, server_default="1")  # since an attempt with it last succeeded
    reason: Mapped[str]


class Counter(Base):
    """How often something happened that ought not to: what resync corrected, rules that raised. For `/metrics`."""

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(server_default="0")
    changed_at: Mapped[datetime] = mapped_column(server_default=NOW)


class LogChunk(Base):
    """Part of an attempt's output. Partitioned by the day the attempt was queued, so that a number is stored once."""

    __tablename__ = "log_chunks"
    __table_args__ = {"postgresql_partition_by": "RANGE (day)"}  # noqa: RUF012

    day: Mapped[date] = mapped_column(Date, primary_key=True)
    dispatch_id: Mapped[UUID] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=NOW)
    data: Mapped[bytes]


class ApiToken(Base):
    """A bearer token: an attempt's, which speaks for its own dispatch alone, or a person's. Only the hash is kept."""

    __tablename__ = "api_tokens"
    __table_args__ = (
        CheckConstraint("octet_length(token_hash) = 32", name="hash"),
        Index("api_tokens_dispatch", "dispatch_id", postgresql_where=text("dispatch_id IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    town_id: Mapped[int] = mapped_column(ForeignKey("towns.id"))
    dispatch_id: Mapped[UUID | None] = mapped_column(ForeignKey("dispatches.id"))
    name: Mapped[str]
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Service(Base):
    """When a part of Gastown last showed itself, and when its last silence ended. The outage guard reads `api`."""

    __tablename__ = "services"

    name: Mapped[str] = mapped_column(primary_key=True)
    alive_at: Mapped[datetime]
    back_at: Mapped[datetime]
