"""The market: offers and their prices, how we stand with each provider, setbacks, and pilots.

Written out in plain types, so that a later change of the tables cannot change what this revision did."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
SERVED = "('job_done', 'job_gone', 'job_refused', 'job_timeout', 'operator', 'shutdown')"
SERVED_NOW = "('job_done', 'job_gone', 'job_refused', 'job_timeout', 'operator', 'pilot_done', 'shutdown')"
NAME = sa.String(length=60)


def text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False, server_default="")


def index_by_reason(reasons: str) -> None:
    """The two partial indexes that name the reasons which are no failure."""
    failed, served = sa.text(f"reason NOT IN {reasons}"), sa.text(f"reason IN {reasons}")
    op.drop_index("ix_lease_failed", table_name="lease")
    op.drop_index("ix_lease_served", table_name="lease")
    op.create_index("ix_lease_failed", "lease", ["entered_at"], sqlite_where=failed, postgresql_where=failed)
    op.create_index("ix_lease_served", "lease", ["pool", "entered_at"], sqlite_where=served, postgresql_where=served)


def upgrade() -> None:
    index_by_reason(SERVED_NOW)
    op.create_table(
        "provider_standing",
        sa.Column("provider", NAME, nullable=False),
        sa.Column("paused_at", TIME),
        text("paused_by"),
        text("paused_why"),
        sa.Column("failures", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("open_until", TIME),
        text("trouble"),
        sa.Column("trouble_at", TIME),
        sa.PrimaryKeyConstraint("provider", name="pk_provider_standing"),
    )
    op.create_table(
        "setback",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("provider", NAME, nullable=False),
        text("region"),
        text("type"),
        text("offer"),
        sa.Column("reach", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False),
        text("detail"),
        text("lease_id"),
        sa.PrimaryKeyConstraint("id", name="pk_setback"),
    )
    op.create_index("ix_setback_at", "setback", ["at"])
    op.create_table(
        "offer",
        sa.Column("provider", NAME, nullable=False),
        sa.Column("id", sa.String(length=500), nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("provider", "id", name="pk_offer"),
    )
    op.create_index("ix_offer_seen_at", "offer", ["seen_at"])
    op.create_table(
        "offer_price",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("provider", NAME, nullable=False),
        sa.Column("offer", sa.String(length=500), nullable=False),
        text("region"),
        text("gpu"),
        sa.Column("gpus", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("spot", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("price_per_hour", sa.String(length=40), nullable=False),
        sa.Column("currency", sa.String(length=10), nullable=False),
        sa.Column("availability", sa.String(length=20), nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.Column("until", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_offer_price"),
    )
    op.create_index("ix_offer_price_provider_offer_until", "offer_price", ["provider", "offer", "until"])
    op.create_index("ix_offer_price_until", "offer_price", ["until"])
    op.create_table(
        "pilot",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("provider", NAME, nullable=False),
        text("region"),
        sa.Column("lease_id", sa.String(length=40), nullable=False, server_default=""),
        text("asked_by"),
        sa.Column("asked_at", TIME, nullable=False),
        sa.Column("offer", sa.JSON()),
        sa.Column("usable_at", TIME),
        sa.Column("ended_at", TIME),
        text("outcome"),
        sa.Column("report", sa.JSON()),
        sa.PrimaryKeyConstraint("id", name="pk_pilot"),
    )
    op.create_index("ix_pilot_provider_asked_at", "pilot", ["provider", "asked_at"])
    op.create_index("ix_pilot_lease_id", "pilot", ["lease_id"])


def downgrade() -> None:
    index_by_reason(SERVED)
    for table in ("pilot", "offer_price", "offer", "setback", "provider_standing"):
        op.drop_table(table)
