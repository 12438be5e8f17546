"""First schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

# The one clock. A test or the simulation sets gastown.now for its session; everybody else gets the wall clock.
CLOCK = """
CREATE FUNCTION gastown_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(nullif(current_setting('gastown.now', true), '')::timestamptz, clock_timestamp())
$$
"""
# Two edges that close a cycle only together may be written at once: edges are written one at a time.
NO_CYCLE = """
CREATE FUNCTION refuse_cycle() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    path text[];
BEGIN
    PERFORM pg_advisory_xact_lock(7270002);
    WITH RECURSIVE upstream(id, path) AS (
        SELECT NEW.blocker_id, ARRAY[NEW.bead_id, NEW.blocker_id]
        UNION ALL
        SELECT edge.blocker_id, upstream.path || edge.blocker_id
        FROM upstream JOIN bead_dependencies AS edge ON edge.bead_id = upstream.id
        WHERE upstream.id <> NEW.bead_id
    ) CYCLE id SET looped USING visited
    SELECT upstream.path INTO path FROM upstream WHERE id = NEW.bead_id LIMIT 1;
    IF path IS NOT NULL THEN
        RAISE EXCEPTION 'cycle: %', array_to_string(path, ' waits for ')
            USING ERRCODE = 'check_violation', CONSTRAINT = 'bead_dependencies_no_cycle';
    END IF;
    RETURN NEW;
END
$$
"""


def upgrade() -> None:
    op.execute(CLOCK)
    op.create_table(
        "log_chunks",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("dispatch_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("gastown_now()"), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("day", "dispatch_id", "seq", name=op.f("log_chunks_pkey")),
        postgresql_partition_by="RANGE (day)",
    )
    op.create_table(
        "nodes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("runtime", sa.Text(), nullable=False),
        sa.Column("capacity", sa.Integer(), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), server_default=sa.text("gastown_now()"), nullable=False),
        sa.Column("draining_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("gastown_now()"), nullable=False),
        sa.CheckConstraint("capacity > 0", name=op.f("nodes_capacity_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("nodes_pkey")),
        sa.UniqueConstraint("name", name=op.f("nodes_name_key")),
    )
    op.create_table(
        "services",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("alive_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("back_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("services_pkey")),
    )
    op.create_table(
        "towns",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("policy", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("gastown_now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("towns_pkey")),
        sa.UniqueConstraint("name", name=op.f("towns_name_key")),
    )
    op.create_table(
        "rigs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("town_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("branch", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=True),
        sa.Column("setup", sa.Text(), server_default="", nullable=False),
        sa.Column("gates", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column(
            "environment", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False
        ),
        sa.Column("policy", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("gastown_now()"), nullable=False),
        sa.CheckConstraint("name <> '' AND repository <> '' AND branch <> ''", name=op.f("rigs_named_check")),
        sa.ForeignKeyConstraint(["town_id"], ["towns.id"], name=op.f("rigs_town_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("rigs_pkey")),
        sa.UniqueConstraint("town_id", "name", name=op.f("rigs_town_id_name_key")),
    )
    op.create_table(
        "beads",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("town_id", sa.BigInteger(), nullable=False),
        sa.Column("rig_id", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.Text(), server_default="issue", nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), server_default="", nullable=False),
        sa.Column("labels", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("agent", sa.Text(), nullable=True),
        sa.Column("priority", sa.SmallInteger(), server_default="2", nullable=False),
        sa.Column("status", sa.Text(), server_default="open", nullable=False),
        sa.Column("resolution", sa.Text(), nullable=True),
        sa.Column("wake_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("forced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("held_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("held_reason", sa.Text(), nullable=True),
        sa.Column("attempts_from", sa.Integer(), server_default="0", nullable=False),
        sa.Column("base_sha", sa.Text(), nullable=True),
        sa.Column("failure_class", sa.Text(), nullable=True),
        sa.Column("failure_code", sa.Text(), nullable=True),
        sa.Column("failure_message", sa.Text(), nullable=True),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("verdict_reason", sa.Text(), nullable=True),
        sa.Column("verdict_rule", sa.Text(), nullable=True),
        sa.Column("looked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("gastown_now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(status = 'closed') = (resolution IS NOT NULL)", name=op.f("beads_closed_has_resolution_check")
        ),
        sa.CheckConstraint(
            "(status IN ('closed', 'failed')) = (closed_at IS NOT NULL)", name=op.f("beads_terminal_has_end_check")
        ),
        sa.CheckConstraint(
            "ready_at IS NULL OR NOT (status IN ('closed', 'failed'))", name=op.f("beads_terminal_is_never_ready_check")
        ),
        sa.CheckConstraint(
            "resolution IS NULL OR resolution IN ('merged', 'no_changes', 'done', 'canceled')",
            name=op.f("beads_resolution_check"),
        ),
        sa.CheckConstraint(
            "status <> 'failed' OR failure_code IS NOT NULL", name=op.f("beads_failed_has_reason_check")
        ),
        sa.CheckConstraint(
            "status IN ('open', 'in_progress', 'in_review', 'closed', 'failed')", name=op.f("beads_status_check")
        ),
        sa.CheckConstraint("title <> '' AND length(title) <= 10000", name=op.f("beads_title_check")),
        sa.CheckConstraint("(held_at IS NULL) = (held_reason IS NULL)", name=op.f("beads_held_has_reason_check")),
        sa.CheckConstraint("priority BETWEEN 0 AND 3", name=op.f("beads_priority_check")),
        sa.ForeignKeyConstraint(["rig_id"], ["rigs.id"], name=op.f("beads_rig_id_fkey")),
        sa.ForeignKeyConstraint(["town_id"], ["towns.id"], name=op.f("beads_town_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("beads_pkey")),
        postgresql_with={"fillfactor": "80"},
    )
    op.create_index(
        "beads_due", "beads", ["town_id", "wake_at"], unique=False, postgresql_where=sa.text("wake_at IS NOT NULL")
    )
    op.create_index(
        "beads_labels",
        "beads",
        ["labels"],
        unique=False,
        postgresql_using="gin",
        postgresql_where=sa.text("labels <> '{}'"),
    )
    op.create_index(
        "beads_ready",
        "beads",
        ["town_id", "rig_id", sa.literal_column("(forced_at IS NULL)"), "priority", "created_at"],
        unique=False,
        postgresql_where=sa.text("ready_at IS NOT NULL"),
    )
    op.create_index("beads_town_created", "beads", ["town_id", "created_at"], unique=False)
    op.create_index(
        "beads_unclosed",
        "beads",
        ["town_id", "created_at"],
        unique=False,
        postgresql_where=sa.text("status <> 'closed'"),
    )
    op.create_table(
        "agents",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("town_id", sa.BigInteger(), nullable=False),
        sa.Column("rig_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), server_default="polecat", nullable=False),
        sa.Column("status", sa.Text(), server_default="idle", nullable=False),
        sa.Column("bead_id", sa.Text(), nullable=True),
        sa.Column("idle_since", sa.DateTime(timezone=True), server_default=sa.text("gastown_now()"), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("gastown_now()"), nullable=False),
        sa.CheckConstraint("status <> 'retired' OR bead_id IS NULL", name=op.f("agents_retired_has_no_hook_check")),
        sa.CheckConstraint("status <> 'working' OR bead_id IS NOT NULL", name=op.f("agents_working_has_hook_check")),
        sa.CheckConstraint("status IN ('idle', 'working', 'retired')", name=op.f("agents_status_check")),
        sa.ForeignKeyConstraint(["bead_id"], ["beads.id"], name=op.f("agents_bead_id_fkey")),
        sa.ForeignKeyConstraint(["rig_id"], ["rigs.id"], name=op.f("agents_rig_id_fkey")),
        sa.ForeignKeyConstraint(["town_id"], ["towns.id"], name=op.f("agents_town_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("agents_pkey")),
    )
    op.create_index(
        "agents_idle",
        "agents",
        ["rig_id", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'idle' AND bead_id IS NULL"),
    )
    op.create_index(
        "one_agent_per_bead", "agents", ["bead_id"], unique=True, postgresql_where=sa.text("bead_id IS NOT NULL")
    )
    op.create_index(
        "one_living_agent_per_name",
        "agents",
        ["town_id", "name"],
        unique=True,
        postgresql_where=sa.text("status <> 'retired'"),
    )
    op.create_table(
        "bead_dependencies",
        sa.Column("bead_id", sa.Text(), nullable=False),
        sa.Column("blocker_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), server_default="blocks", nullable=False),
        sa.CheckConstraint("kind IN ('blocks', 'tracks')", name=op.f("bead_dependencies_kind_check")),
        sa.CheckConstraint("bead_id <> blocker_id", name=op.f("bead_dependencies_no_self_edge_check")),
        sa.ForeignKeyConstraint(["bead_id"], ["beads.id"], name=op.f("bead_dependencies_bead_id_fkey")),
        sa.ForeignKeyConstraint(["blocker_id"], ["beads.id"], name=op.f("bead_dependencies_blocker_id_fkey")),
        sa.PrimaryKeyConstraint("bead_id", "blocker_id", name=op.f("bead_dependencies_pkey")),
    )
    op.create_index("bead_dependencies_blocker", "bead_dependencies", ["blocker_id"], unique=False)
    op.create_table(
        "decisions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("gastown_now()"), nullable=False),
        sa.Column("town_id", sa.BigInteger(), nullable=False),
        sa.Column("bead_id", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("next_look", sa.DateTime(timezone=True), nullable=True),
        sa.Column("view", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(["bead_id"], ["beads.id"], name=op.f("decisions_bead_id_fkey")),
        sa.ForeignKeyConstraint(["town_id"], ["towns.id"], name=op.f("decisions_town_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("decisions_pkey")),
    )
    op.create_index("decisions_bead", "decisions", ["bead_id", "id"], unique=False)
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("gastown_now()"), nullable=False),
        sa.Column("town_id", sa.BigInteger(), nullable=False),
        sa.Column("bead_id", sa.Text(), nullable=True),
        sa.Column("dispatch_id", sa.Uuid(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.ForeignKeyConstraint(["bead_id"], ["beads.id"], name=op.f("events_bead_id_fkey")),
        sa.ForeignKeyConstraint(["town_id"], ["towns.id"], name=op.f("events_town_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("events_pkey")),
    )
    op.create_index("events_bead", "events", ["bead_id", "id"], unique=False)
    op.create_index("events_town", "events", ["town_id", "id"], unique=False)
    op.create_table(
        "dispatches",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("town_id", sa.BigInteger(), nullable=False),
        sa.Column("rig_id", sa.BigInteger(), nullable=False),
        sa.Column("bead_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("node_id", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("preset", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="queued", nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True), server_default=sa.text("gastown_now()"), nullable=False),
        sa.Column("starting_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("call_ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claimed_by", sa.Text(), nullable=True),
        sa.Column("pid", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("progress_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("phase", sa.Text(), nullable=True),
        sa.Column("status_text", sa.Text(), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("seen", sa.Text(), nullable=True),
        sa.Column("seen_exit_code", sa.Integer(), nullable=True),
        sa.Column("seen_oom", sa.Boolean(), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("failure_class", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("base_sha", sa.Text(), nullable=True),
        sa.Column("head_sha", sa.Text(), nullable=True),
        sa.Column("wip_sha", sa.Text(), nullable=True),
        sa.Column("adopted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("log_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "(status IN ('queued', 'starting', 'running')) = (ended_at IS NULL)",
            name=op.f("dispatches_ended_is_not_live_check"),
        ),
        sa.CheckConstraint(
            "failure_class IS NULL OR failure_class IN ('infra', 'agent', 'config')",
            name=op.f("dispatches_failure_class_check"),
        ),
        sa.CheckConstraint(
            "status <> 'running' OR started_at IS NOT NULL", name=op.f("dispatches_running_has_started_check")
        ),
        sa.CheckConstraint(
            "status IN ('queued', 'starting', 'running', 'succeeded', 'failed', 'rolled_back', 'lost', 'stopped')",
            name=op.f("dispatches_status_check"),
        ),
        sa.CheckConstraint(
            "status NOT IN ('failed', 'rolled_back', 'lost', 'stopped') OR code IS NOT NULL",
            name=op.f("dispatches_has_code_check"),
        ),
        sa.CheckConstraint("epoch > 0", name=op.f("dispatches_epoch_check")),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("dispatches_agent_id_fkey")),
        sa.ForeignKeyConstraint(["bead_id"], ["beads.id"], name=op.f("dispatches_bead_id_fkey")),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name=op.f("dispatches_node_id_fkey")),
        sa.ForeignKeyConstraint(["rig_id"], ["rigs.id"], name=op.f("dispatches_rig_id_fkey")),
        sa.ForeignKeyConstraint(["town_id"], ["towns.id"], name=op.f("dispatches_town_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("dispatches_pkey")),
        sa.UniqueConstraint("bead_id", "epoch", name=op.f("dispatches_bead_id_epoch_key")),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index(
        "live_dispatches_of_town",
        "dispatches",
        ["town_id", "rig_id", "node_id"],
        unique=False,
        postgresql_where=sa.text("status IN ('queued', 'starting', 'running')"),
    )
    op.create_index(
        "one_live_dispatch_per_agent",
        "dispatches",
        ["agent_id"],
        unique=True,
        postgresql_where=sa.text("status IN ('queued', 'starting', 'running')"),
    )
    op.create_index(
        "one_live_dispatch_per_bead",
        "dispatches",
        ["bead_id"],
        unique=True,
        postgresql_where=sa.text("status IN ('queued', 'starting', 'running')"),
    )
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("town_id", sa.BigInteger(), nullable=False),
        sa.Column("dispatch_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("gastown_now()"), nullable=False),
        sa.CheckConstraint("octet_length(token_hash) = 32", name=op.f("api_tokens_hash_check")),
        sa.ForeignKeyConstraint(["dispatch_id"], ["dispatches.id"], name=op.f("api_tokens_dispatch_id_fkey")),
        sa.ForeignKeyConstraint(["town_id"], ["towns.id"], name=op.f("api_tokens_town_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("api_tokens_pkey")),
        sa.UniqueConstraint("token_hash", name=op.f("api_tokens_token_hash_key")),
    )
    op.create_index(
        "api_tokens_dispatch",
        "api_tokens",
        ["dispatch_id"],
        unique=False,
        postgresql_where=sa.text("dispatch_id IS NOT NULL"),
    )
    op.create_table(
        "merge_requests",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("town_id", sa.BigInteger(), nullable=False),
        sa.Column("rig_id", sa.BigInteger(), nullable=False),
        sa.Column("bead_id", sa.Text(), nullable=False),
        sa.Column("dispatch_id", sa.Uuid(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("head_sha", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("status", sa.Text(), server_default="open", nullable=False),
        sa.Column("merge_epoch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claimed_by", sa.Text(), nullable=True),
        sa.Column("step", sa.Text(), nullable=True),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("merge_sha", sa.Text(), nullable=True),
        sa.Column("expected_sha", sa.Text(), nullable=True),
        sa.Column("staged_sha", sa.Text(), nullable=True),
        sa.Column("staged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("held_code", sa.Text(), nullable=True),
        sa.Column("held_reason", sa.Text(), nullable=True),
        sa.Column("held_output", sa.Text(), nullable=True),
        sa.Column("look_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("merged_sha", sa.Text(), nullable=True),
        sa.Column("merged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("gastown_now()"), nullable=False),
        sa.CheckConstraint(
            "NOT (status IN ('in_progress', 'pushing')) OR lease_expires_at IS NOT NULL",
            name=op.f("merge_requests_merging_has_lease_check"),
        ),
        sa.CheckConstraint(
            "status <> 'pushing' OR (merge_sha IS NOT NULL AND expected_sha IS NOT NULL)",
            name=op.f("merge_requests_pushing_check"),
        ),
        sa.CheckConstraint(
            "status IN ('open', 'in_progress', 'pushing', 'closed', 'failed')", name=op.f("merge_requests_status_check")
        ),
        sa.CheckConstraint(
            "(held_code IS NULL) = (held_reason IS NULL)", name=op.f("merge_requests_held_has_reason_check")
        ),
        sa.CheckConstraint(
            "(merged_sha IS NULL) = (merged_at IS NULL)", name=op.f("merge_requests_merged_is_dated_check")
        ),
        sa.ForeignKeyConstraint(["bead_id"], ["beads.id"], name=op.f("merge_requests_bead_id_fkey")),
        sa.ForeignKeyConstraint(["dispatch_id"], ["dispatches.id"], name=op.f("merge_requests_dispatch_id_fkey")),
        sa.ForeignKeyConstraint(["rig_id"], ["rigs.id"], name=op.f("merge_requests_rig_id_fkey")),
        sa.ForeignKeyConstraint(["town_id"], ["towns.id"], name=op.f("merge_requests_town_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("merge_requests_pkey")),
        sa.UniqueConstraint("dispatch_id", name=op.f("merge_requests_dispatch_id_key")),
    )
    op.create_index(
        "merge_queue",
        "merge_requests",
        ["rig_id", "target", "priority", "created_at"],
        unique=False,
        postgresql_where=sa.text("status NOT IN ('closed', 'failed')"),
    )
    op.create_index(
        "one_merge_per_target",
        "merge_requests",
        ["rig_id", "target"],
        unique=True,
        postgresql_where=sa.text("status IN ('in_progress', 'pushing')"),
    )
    op.create_index(
        "one_merge_request_per_bead",
        "merge_requests",
        ["bead_id"],
        unique=True,
        postgresql_where=sa.text("status NOT IN ('closed', 'failed')"),
    )
    op.execute("CREATE TABLE log_chunks_default PARTITION OF log_chunks DEFAULT")
    op.execute(NO_CYCLE)
    op.execute(
        "CREATE TRIGGER no_cycle BEFORE INSERT OR UPDATE ON bead_dependencies "
        "FOR EACH ROW EXECUTE FUNCTION refuse_cycle()"
    )
