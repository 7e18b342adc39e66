"""Images: what a lease's image showed, what its job's containers were made from, and what was revoked.

Written out in plain types, so that a later change of app/store/tables.py cannot change what this revision did."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("lease", sa.Column("mode", sa.Text(), nullable=False, server_default=""))
    # Nothing was verified before: every lease of then wears the red mark.
    op.add_column("lease", sa.Column("signed", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("lease", sa.Column("image_digest", sa.Text(), nullable=False, server_default=""))
    op.add_column("lease", sa.Column("image_verdict", sa.JSON()))
    op.create_table(
        "lease_image",
        sa.Column("lease_id", sa.String(length=40), nullable=False),
        sa.Column("asked", sa.String(length=600), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False, server_default=""),
        sa.Column("allowed", sa.Boolean(), nullable=False),
        sa.Column("verdict", sa.JSON(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["lease_id"], ["lease.id"], name="fk_lease_image_lease_id"),
        sa.PrimaryKeyConstraint("lease_id", "asked", name="pk_lease_image"),
    )
    op.create_table(
        "revoked_image",
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.Column("why", sa.Text(), nullable=False, server_default=""),
        sa.Column("actor", sa.Text(), nullable=False, server_default=""),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_revoked_image"),
    )


def downgrade() -> None:
    op.drop_table("revoked_image")
    op.drop_table("lease_image")
    for name in ("image_verdict", "image_digest", "signed", "mode"):
        op.drop_column("lease", name)
