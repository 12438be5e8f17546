"""Give breakers, budgets, stalls and escalations their columns"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

# What outlives the upgrade goes on with the lease that it has: until now each beat took that from the policy in force.
# Without a beat it is the one that the rig or its town overrides. The settings' own number is not known here, nor do
# processes of before that still run give the column a value: such an attempt has the default. Where beats are rarer
# than that, it may be given up between two of them, and its next beat adopts it unless its retry came first.
KEEP_LEASES = """
WITH asked AS (
    SELECT rigs.id AS rig_id, (
        SELECT lease_s::numeric FROM (VALUES (1, rigs.policy), (2, towns.policy)) AS stored (place, policy),
            LATERAL (SELECT policy -> 'heartbeat_lease_s' AS lease_s) AS each
        WHERE jsonb_typeof(lease_s) = 'number' ORDER BY place LIMIT 1
    ) AS lease_s
    FROM rigs JOIN towns ON towns.id = rigs.town_id
), kept AS (
    SELECT dispatches.id, coalesce(
        round(extract(epoch FROM dispatches.lease_expires_at - dispatches.heartbeat_at), 3), asked.lease_s
    ) AS lease_s
    FROM dispatches
    JOIN beads ON beads.id = dispatches.bead_id AND beads.status = 'in_progress'
    JOIN asked ON asked.rig_id = dispatches.rig_id
    WHERE dispatches.status IN ('queued', 'starting', 'running', 'rolled_back', 'lost')
)
UPDATE dispatches SET lease_s = kept.lease_s FROM kept
WHERE kept.id = dispatches.id AND kept.lease_s BETWEEN 1 AND 86400
"""


def upgrade() -> None:
    op.create_table(
        "counters",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("gastown_now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("counters_pkey")),
    )
    op.create_table(
        "rate_limits",
        sa.Column("town_id", sa.BigInteger(), nullable=False),
        sa.Column("preset", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("in_row", sa.Integer(), server_default="1", nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["town_id"], ["towns.id"], name=op.f("rate_limits_town_id_fkey")),
        sa.PrimaryKeyConstraint("town_id", "preset", name=op.f("rate_limits_pkey")),
    )
    op.create_table(
        "escalations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("town_id", sa.BigInteger(), nullable=False),
        sa.Column("bead_id", sa.Text(), nullable=True),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("raised_at", sa.DateTime(timezone=True), server_default=sa.text("gastown_now()"), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["bead_id"], ["beads.id"], name=op.f("escalations_bead_id_fkey")),
        sa.ForeignKeyConstraint(["town_id"], ["towns.id"], name=op.f("escalations_town_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("escalations_pkey")),
    )
    op.create_index(
        "one_open_escalation_per_cause",
        "escalations",
        ["town_id", "cause"],
        unique=True,
        postgresql_where=sa.text("settled_at IS NULL"),
    )
    op.create_index(
        "open_escalations_of_bead",
        "escalations",
        ["bead_id"],
        unique=False,
        postgresql_where=sa.text("settled_at IS NULL AND bead_id IS NOT NULL"),
    )
    op.add_column("nodes", sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("dispatches", sa.Column("lease_s", sa.Double(), server_default="45", nullable=False))
    op.execute(KEEP_LEASES)
    op.add_column(
        "dispatches", sa.Column("tool_running", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("dispatches", sa.Column("stall_tier", sa.SmallInteger(), server_default="0", nullable=False))
    op.add_column("dispatches", sa.Column("stop_code", sa.Text(), nullable=True))
    op.add_column("dispatches", sa.Column("stop_reason", sa.Text(), nullable=True))
    op.add_column("dispatches", sa.Column("stop_asked_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("dispatches", sa.Column("cost_usd", sa.Double(), server_default="0", nullable=False))
    op.add_column("dispatches", sa.Column("cap_usd", sa.Double(), nullable=True))
    op.create_index(
        "dispatches_ended",
        "dispatches",
        ["town_id", "ended_at"],
        unique=False,
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )
    op.create_index(
        "dispatches_infra",
        "dispatches",
        ["town_id", "ended_at"],
        unique=False,
        postgresql_where=sa.text("failure_class = 'infra'"),
    )
    op.create_index(
        "dispatches_rolled_back_on",
        "dispatches",
        ["node_id", "ended_at"],
        unique=False,
        postgresql_where=sa.text("status = 'rolled_back'"),
    )
    op.create_index(
        "dispatches_started",
        "dispatches",
        ["town_id", "started_at"],
        unique=False,
        postgresql_where=sa.text("started_at IS NOT NULL"),
    )
    op.create_index(
        "dispatches_started_on",
        "dispatches",
        ["node_id", "started_at"],
        unique=False,
        postgresql_where=sa.text("started_at IS NOT NULL"),
    )
    op.add_column("towns", sa.Column("breaker_opened_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("towns", sa.Column("breaker_reason", sa.Text(), nullable=True))
    op.create_check_constraint(
        op.f("dispatches_asked_stop_has_code_check"), "dispatches", "(stop_code IS NULL) = (stop_asked_at IS NULL)"
    )
    op.create_check_constraint(op.f("dispatches_cost_check"), "dispatches", "cost_usd >= 0")
    op.drop_constraint(op.f("dispatches_failure_class_check"), "dispatches", type_="check")
    op.create_check_constraint(
        op.f("dispatches_failure_class_check"),
        "dispatches",
        "failure_class IS NULL OR failure_class IN ('infra', 'agent', 'auth', 'rate_limit', 'config', 'budget')",
    )
    op.drop_index("merge_queue", table_name="merge_requests")
    op.create_index(
        "merge_queue",
        "merge_requests",
        ["rig_id", "target", "priority", "id"],
        unique=False,
        postgresql_where=sa.text("status NOT IN ('closed', 'failed')"),
    )
    op.drop_index("beads_ready", table_name="beads")
    op.create_index(
        "beads_ready",
        "beads",
        ["town_id", "rig_id", sa.literal_column("(forced_at IS NULL)"), "priority", "created_at", "id"],
        unique=False,
        postgresql_where=sa.text("ready_at IS NOT NULL"),
    )
