"""More forges: a lease may be for one job alone, and repositories are found by listing their owner.

Written out in plain types, so that a later change of the tables cannot change what this revision did."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
PINNED = sa.text("for_job <> ''")
DOUBTED = sa.text("doubted_at IS NOT NULL")


def upgrade() -> None:
    op.add_column("lease", sa.Column("for_job", sa.String(length=120), nullable=False, server_default=""))
    op.create_index("ix_lease_for_job", "lease", ["for_job"], sqlite_where=PINNED, postgresql_where=PINNED)
    op.create_index("ix_lease_runner_id", "lease", ["runner_id"])
    op.add_column("lease", sa.Column("runner_why", sa.Text(), nullable=False, server_default=""))
    op.add_column("job", sa.Column("reopened_at", TIME))
    op.add_column("job", sa.Column("doubted_at", TIME))
    op.create_index("ix_job_doubted_at", "job", ["doubted_at"], sqlite_where=DOUBTED, postgresql_where=DOUBTED)
    op.add_column("polled", sa.Column("found_at", TIME))


def downgrade() -> None:
    op.drop_column("polled", "found_at")
    op.drop_index("ix_job_doubted_at", table_name="job")
    op.drop_column("job", "doubted_at")
    op.drop_column("job", "reopened_at")
    op.drop_column("lease", "runner_why")
    op.drop_index("ix_lease_runner_id", table_name="lease")
    op.drop_index("ix_lease_for_job", table_name="lease")
    op.drop_column("lease", "for_job")
