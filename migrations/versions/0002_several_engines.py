"""Runs, duties, replicas and strays: what several engines share, and what webhooks alone do not tell.

Written out in plain types, so that a later change of app/store/tables.py cannot change what this revision did."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("installation", sa.Column("key_check", sa.LargeBinary()))
    op.add_column("job", sa.Column("cleared_at", TIME))
    op.add_column("job", sa.Column("heard_at", TIME))
    op.add_column("job", sa.Column("heard_by", sa.Text(), nullable=False, server_default=""))
    op.add_column("job", sa.Column("ask_after", TIME))
    op.add_column("job", sa.Column("asks", sa.Integer(), nullable=False, server_default="0"))
    unsettled = sa.text("cleared_at IS NULL AND not_ours = '' AND state <> 'completed'")
    op.create_index("ix_job_unsettled", "job", ["seen_at"], sqlite_where=unsettled, postgresql_where=unsettled)
    op.add_column("lease", sa.Column("missing_at", TIME))
    op.add_column("lease", sa.Column("last_asked_at", TIME))
    op.execute("UPDATE lease SET last_asked_at = entered_at WHERE asked_at IS NOT NULL")
    op.add_column("lease", sa.Column("first_job", sa.Text(), nullable=False, server_default=""))
    live = sa.text("state <> 'released'")
    covering = sa.text("job_id = '' AND state NOT IN ('draining', 'destroying', 'released')")
    reasons = "('job_done', 'job_gone', 'job_refused', 'job_timeout', 'operator', 'shutdown')"
    failed, served = sa.text(f"reason NOT IN {reasons}"), sa.text(f"reason IN {reasons}")
    op.create_index("ix_lease_pool", "lease", ["pool"], sqlite_where=live, postgresql_where=live)
    op.create_index("ix_lease_covering", "lease", ["created_at"], sqlite_where=covering, postgresql_where=covering)
    op.create_index("ix_lease_failed", "lease", ["entered_at"], sqlite_where=failed, postgresql_where=failed)
    op.create_index("ix_lease_served", "lease", ["pool", "entered_at"], sqlite_where=served, postgresql_where=served)
    # Jobs that were placed before runs were looked at go on: their leases check them again at the job's start.
    op.execute("UPDATE job SET cleared_at = seen_at WHERE pool IS NOT NULL")
    op.execute("UPDATE job SET heard_at = seen_at")
    op.create_table(
        "stray",
        sa.Column("provider", sa.String(length=60), nullable=False),
        sa.Column("instance_id", sa.String(length=200), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False, server_default=""),
        sa.Column("lease_id", sa.Text(), nullable=False, server_default=""),
        sa.Column("created_at", TIME),
        sa.Column("found_at", TIME, nullable=False),
        sa.Column("asked_at", TIME),
        sa.Column("confirmed_at", TIME),
        sa.Column("busy_at", TIME),
        sa.Column("tries", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("gone_at", TIME),
        sa.Column("booked_at", TIME),
        sa.PrimaryKeyConstraint("provider", "instance_id", name="pk_stray"),
    )
    op.create_table(
        "run",
        sa.Column("forge", sa.String(length=60), nullable=False),
        sa.Column("repository", sa.String(length=500), nullable=False),
        sa.Column("id", sa.String(length=100), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False, server_default=""),
        sa.Column("head_repository", sa.Text(), nullable=False, server_default=""),
        sa.Column("fork", sa.Boolean()),
        sa.Column("actor", sa.Text(), nullable=False, server_default=""),
        sa.Column("refusal", sa.Text(), nullable=False, server_default=""),
        sa.Column("told_at", TIME),
        sa.Column("ask_after", TIME),
        sa.Column("asks", sa.Integer(), nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("forge", "repository", "id", "attempt", name="pk_run"),
    )
    op.create_index("ix_run_told_at", "run", ["told_at"])
    op.create_table(
        "duty",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("due", TIME, nullable=False),
        sa.Column("holder", sa.Text(), nullable=False, server_default=""),
        sa.Column("done_at", TIME),
        sa.Column("note", sa.Text(), nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("name", name="pk_duty"),
    )
    op.create_table(
        "polled",
        sa.Column("forge", sa.String(length=60), nullable=False),
        sa.Column("repository", sa.String(length=500), nullable=False),
        sa.Column("listed_at", TIME),
        sa.Column("ask_after", TIME),
        sa.Column("note", sa.Text(), nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("forge", "repository", name="pk_polled"),
    )
    op.create_table(
        "missed",
        sa.Column("forge", sa.String(length=60), nullable=False),
        sa.Column("guid", sa.String(length=200), nullable=False),
        sa.Column("asks", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("ask_after", TIME, nullable=False),
        sa.PrimaryKeyConstraint("forge", "guid", name="pk_missed"),
    )
    op.create_table(
        "replica",
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("version", sa.Text(), nullable=False, server_default=""),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
        sa.Column("beat_at", TIME),
        sa.Column("note", sa.Text(), nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("name", name="pk_replica"),
    )


def downgrade() -> None:
    for name in ("replica", "missed", "polled", "duty", "run", "stray"):
        op.drop_table(name)
    op.drop_index("ix_job_unsettled", "job")
    for name in ("ix_lease_served", "ix_lease_failed", "ix_lease_covering", "ix_lease_pool"):
        op.drop_index(name, "lease")
    op.drop_column("installation", "key_check")
    for name in ("first_job", "last_asked_at", "missing_at"):
        op.drop_column("lease", name)
    for name in ("asks", "ask_after", "heard_by", "heard_at", "cleared_at"):
        op.drop_column("job", name)
