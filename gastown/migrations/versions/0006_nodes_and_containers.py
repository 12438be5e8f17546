"""Let nodes say who they are and what they have, and rigs what they want of nodes and containers"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"
expands = True


def upgrade() -> None:
    op.add_column("nodes", sa.Column("identity", sa.Text(), nullable=True))
    op.add_column("nodes", sa.Column("version", sa.Text(), nullable=True))
    op.add_column("nodes", sa.Column("labels", JSONB(), server_default=sa.text("'[]'"), nullable=False))
    op.add_column("nodes", sa.Column("images", JSONB(), server_default=sa.text("'{}'"), nullable=False))
    op.add_column("nodes", sa.Column("workers", JSONB(), server_default=sa.text("'{}'"), nullable=False))
    op.add_column("nodes", sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("rigs", sa.Column("container", JSONB(), server_default=sa.text("'{}'"), nullable=False))
    op.add_column("rigs", sa.Column("node_labels", JSONB(), server_default=sa.text("'[]'"), nullable=False))
