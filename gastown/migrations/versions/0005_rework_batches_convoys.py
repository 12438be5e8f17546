"""Let merge requests be reworked, reviewed, batched and published, and beads travel in convoys"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

TEXTS = {
    "rigs": ("rework_agent", "review_agent"),
    "beads": ("purpose", "convoy_id", "base_ref"),
    "merge_requests": (
        "head_ref",
        "rework_agent",
        "rework_id",
        "review_id",
        "reviewed_sha",
        "review_notes",
        "published_sha",
        "published_ref",
    ),
}
CHECKS = (
    ("rigs", "strategy", "strategy IN ('direct', 'branch')"),
    ("beads", "purpose", "purpose IS NULL OR purpose IN ('conflict', 'rework', 'review', 'landing')"),
    ("beads", "purpose_has_merge", "(purpose IN ('conflict', 'rework', 'review')) IS TRUE = (mr_id IS NOT NULL)"),
    ("beads", "landing_has_convoy", "purpose IS DISTINCT FROM 'landing' OR convoy_id IS NOT NULL"),
    ("beads", "base_ref_has_base", "base_ref IS NULL OR base_sha IS NOT NULL"),
    ("merge_requests", "batch_is_open", "batch_of IS NULL OR (status = 'open' AND batch_of <> id)"),
    ("merge_requests", "published_has_ref", "(published_sha IS NULL) = (published_ref IS NULL)"),
)
KEYS = (
    ("beads", "convoy_id", "convoys"),
    ("beads", "mr_id", "merge_requests"),
    ("merge_requests", "batch_of", "merge_requests"),
    ("merge_requests", "review_id", "beads"),
    ("merge_requests", "rework_id", "beads"),
)
INDEXES = (
    ("beads_of_convoy", "beads", "convoy_id"),
    ("beads_of_merge_request", "beads", "mr_id"),
    ("merge_requests_of_batch", "merge_requests", "batch_of"),
)


def upgrade() -> None:
    now = sa.text("gastown_now()")
    op.create_table(
        "convoys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("town_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="staged", nullable=False),
        sa.Column("mode", sa.Text(), server_default="review-then-land", nullable=False),
        sa.Column("partial_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(status IN ('closed', 'failed')) = (closed_at IS NOT NULL)", name=op.f("convoys_terminal_has_end_check")
        ),
        sa.CheckConstraint("mode IN ('review-then-land', 'review-and-merge')", name=op.f("convoys_mode_check")),
        sa.CheckConstraint("name <> '' AND length(name) <= 100", name=op.f("convoys_named_check")),
        sa.CheckConstraint(
            "status IN ('staged', 'open', 'landing', 'closed', 'failed')", name=op.f("convoys_status_check")
        ),
        sa.ForeignKeyConstraint(["town_id"], ["towns.id"], name=op.f("convoys_town_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("convoys_pkey")),
    )
    op.create_index("convoys_of_town", "convoys", ["town_id", "created_at"])
    op.create_table(
        "convoy_branches",
        sa.Column("convoy_id", sa.Text(), nullable=False),
        sa.Column("rig_id", sa.BigInteger(), nullable=False),
        sa.Column("branch", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("head_sha", sa.Text(), nullable=True),
        sa.CheckConstraint("branch <> target", name=op.f("convoy_branches_own_check")),
        sa.ForeignKeyConstraint(["convoy_id"], ["convoys.id"], name=op.f("convoy_branches_convoy_id_fkey")),
        sa.ForeignKeyConstraint(["rig_id"], ["rigs.id"], name=op.f("convoy_branches_rig_id_fkey")),
        sa.PrimaryKeyConstraint("convoy_id", "rig_id", name=op.f("convoy_branches_pkey")),
        sa.UniqueConstraint("rig_id", "branch", name=op.f("convoy_branches_rig_id_branch_key")),
    )
    for table, names in TEXTS.items():
        for name in names:
            op.add_column(table, sa.Column(name, sa.Text(), nullable=True))
    op.add_column("rigs", sa.Column("strategy", sa.Text(), server_default="direct", nullable=False))
    op.add_column("beads", sa.Column("mr_id", sa.BigInteger(), nullable=True))
    op.add_column("merge_requests", sa.Column("rounds", sa.SmallInteger(), server_default="0", nullable=False))
    op.add_column("merge_requests", sa.Column("batch_of", sa.BigInteger(), nullable=True))
    op.alter_column("merge_requests", "dispatch_id", existing_type=sa.UUID(), nullable=True)
    for table, name, condition in CHECKS:
        op.create_check_constraint(op.f(f"{table}_{name}_check"), table, condition)
    for table, column, other in KEYS:
        op.create_foreign_key(op.f(f"{table}_{column}_fkey"), table, other, [column], ["id"])
    op.create_index("merge_requests_of_bead", "merge_requests", ["bead_id"])
    for index, table, column in INDEXES:
        op.create_index(index, table, [column], postgresql_where=sa.text(f"{column} IS NOT NULL"))
