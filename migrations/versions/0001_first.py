"""The first schema: jobs, leases and all that is kept of them.

Written out in plain types, so that a later change of app/store/tables.py cannot change what this revision did."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
MONEY = sa.String(length=40)
LIVE = sa.text("state <> 'released'")
UNBOOKED = sa.text("state = 'released' AND asked_at IS NOT NULL AND booked_at IS NULL")


def upgrade() -> None:
    op.create_table(
        "installation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(length=40), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_installation"),
    )
    op.create_table(
        "delivery",
        sa.Column("forge", sa.String(length=60), nullable=False),
        sa.Column("guid", sa.String(length=200), nullable=False),
        sa.Column("event", sa.Text(), server_default="", nullable=False),
        sa.Column("action", sa.Text(), server_default="", nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("forge", "guid", name="pk_delivery"),
    )
    op.create_index("ix_delivery_received_at", "delivery", ["received_at"], unique=False)
    op.create_table(
        "job",
        sa.Column("id", sa.String(length=120), nullable=False),
        sa.Column("forge", sa.Text(), server_default="", nullable=False),
        sa.Column("key", sa.Text(), server_default="", nullable=False),
        sa.Column("repository", sa.Text(), server_default="", nullable=False),
        sa.Column("repository_id", sa.Text(), server_default="", nullable=False),
        sa.Column("run_id", sa.Text(), server_default="", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="1", nullable=False),
        sa.Column("labels", sa.JSON(), nullable=True),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column("workflow", sa.Text(), server_default="", nullable=False),
        sa.Column("url", sa.Text(), server_default="", nullable=False),
        sa.Column("branch", sa.Text(), server_default="", nullable=False),
        sa.Column("sha", sa.Text(), server_default="", nullable=False),
        sa.Column("actor", sa.Text(), server_default="", nullable=False),
        sa.Column("conclusion", sa.Text(), server_default="", nullable=False),
        sa.Column("runner_id", sa.Text(), server_default="", nullable=False),
        sa.Column("runner_name", sa.Text(), server_default="", nullable=False),
        sa.Column("queued_at", TIME, nullable=True),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("completed_at", TIME, nullable=True),
        sa.Column("installation", sa.Text(), server_default="", nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
        sa.Column("pool", sa.Text(), nullable=True),
        sa.Column("scope", sa.Text(), nullable=True),
        sa.Column("not_ours", sa.Text(), server_default="", nullable=False),
        sa.Column("wait", sa.Text(), server_default="", nullable=False),
        sa.Column("lease_id", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
    )
    op.create_index("ix_job_seen_at", "job", ["seen_at"], unique=False)
    op.create_index("ix_job_state_pool", "job", ["state", "pool"], unique=False)
    op.create_index("ix_job_url", "job", ["url"], unique=False)
    op.create_table(
        "lease",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("pool", sa.String(length=120), nullable=False),
        sa.Column("forge", sa.String(length=60), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("tag", sa.String(length=80), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("entered_at", TIME, nullable=False),
        sa.Column("deadline", TIME, nullable=True),
        sa.Column("due", TIME, nullable=False),
        sa.Column("need", sa.JSON(), nullable=False),
        sa.Column("ask", sa.JSON(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("reason_text", sa.Text(), server_default="", nullable=False),
        sa.Column("note", sa.Text(), server_default="", nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("claim", sa.String(length=80), server_default="", nullable=False),
        sa.Column("claimed_until", TIME, nullable=True),
        sa.Column("version", sa.Integer(), server_default="0", nullable=False),
        sa.Column("image", sa.Text(), nullable=True),
        sa.Column("provider", sa.Text(), server_default="", nullable=False),
        sa.Column("region", sa.Text(), server_default="", nullable=False),
        sa.Column("offer", sa.JSON(), nullable=True),
        sa.Column("decision", sa.JSON(), nullable=True),
        sa.Column("price_per_hour", MONEY, nullable=True),
        sa.Column("currency", sa.String(length=8), server_default="USD", nullable=False),
        sa.Column("granularity_s", sa.Float(), server_default="1", nullable=False),
        sa.Column("minimum_s", sa.Float(), server_default="0", nullable=False),
        sa.Column("asked_at", TIME, nullable=True),
        sa.Column("billed_from", TIME, nullable=True),
        sa.Column("create_key", sa.Text(), server_default="", nullable=False),
        sa.Column("instance_id", sa.Text(), server_default="", nullable=False),
        sa.Column("hard_end", TIME, nullable=True),
        sa.Column("gone_at", TIME, nullable=True),
        sa.Column("booked_at", TIME, nullable=True),
        sa.Column("join_hash", sa.Text(), server_default="", nullable=False),
        sa.Column("join_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("joined_at", TIME, nullable=True),
        sa.Column("heartbeat_at", TIME, nullable=True),
        sa.Column("facts_at", TIME, nullable=True),
        sa.Column("facts", sa.JSON(), nullable=True),
        sa.Column("runner_started_at", TIME, nullable=True),
        sa.Column("job_started_at", TIME, nullable=True),
        sa.Column("runner_exited_at", TIME, nullable=True),
        sa.Column("runner_exit", sa.Integer(), nullable=True),
        sa.Column("runner_id", sa.Text(), server_default="", nullable=False),
        sa.Column("runner_name", sa.Text(), server_default="", nullable=False),
        sa.Column("mint_try", sa.Integer(), server_default="0", nullable=False),
        sa.Column("credential", sa.LargeBinary(), nullable=True),
        sa.Column("credential_ticket", sa.Text(), server_default="", nullable=False),
        sa.Column("credential_taken_at", TIME, nullable=True),
        sa.Column("job_id", sa.Text(), server_default="", nullable=False),
        sa.Column("job_done_at", TIME, nullable=True),
        sa.Column("job_conclusion", sa.Text(), server_default="", nullable=False),
        sa.Column("drain_asked_at", TIME, nullable=True),
        sa.Column("destroy_asked_at", TIME, nullable=True),
        sa.Column("asked_reason", sa.Text(), nullable=True),
        sa.Column("asked_text", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_lease"),
        sa.UniqueConstraint("name", name="uq_lease_name"),
        sa.UniqueConstraint("tag", name="uq_lease_tag"),
    )
    op.create_index("ix_lease_created_at", "lease", ["created_at"], unique=False)
    op.create_index("ix_lease_due", "lease", ["due"], unique=False, sqlite_where=LIVE, postgresql_where=LIVE)
    op.create_index("ix_lease_live", "lease", ["created_at"], unique=False, sqlite_where=LIVE, postgresql_where=LIVE)
    op.create_index("ix_lease_runner_name", "lease", ["runner_name"], unique=False)
    op.create_index("ix_lease_state", "lease", ["state", "entered_at"], unique=False)
    op.create_index(
        "ix_lease_unbooked", "lease", ["entered_at"], unique=False, sqlite_where=UNBOOKED, postgresql_where=UNBOOKED
    )
    op.create_table(
        "span",
        sa.Column("lease_id", sa.String(length=40), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("entered_at", TIME, nullable=False),
        sa.Column("left_at", TIME, nullable=True),
        sa.Column("note", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["lease_id"], ["lease.id"], name="fk_span_lease_id"),
        sa.PrimaryKeyConstraint("lease_id", "state", name="pk_span"),
    )
    op.create_table(
        "node_session",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("lease_id", sa.String(length=40), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["lease_id"], ["lease.id"], name="fk_node_session_lease_id"),
        sa.PrimaryKeyConstraint("hash", name="pk_node_session"),
    )
    op.create_index("ix_node_session_lease_id", "node_session", ["lease_id"], unique=False)
    op.create_table(
        "node_log",
        sa.Column("lease_id", sa.String(length=40), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("source", sa.Text(), server_default="", nullable=False),
        sa.Column("line", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["lease_id"], ["lease.id"], name="fk_node_log_lease_id"),
        sa.PrimaryKeyConstraint("lease_id", "seq", name="pk_node_log"),
    )
    op.create_table(
        "charge",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("lease_id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.Column("until", TIME, nullable=False),
        sa.Column("price_per_hour", MONEY, nullable=False),
        sa.Column("amount", MONEY, nullable=False),
        sa.Column("currency", sa.String(length=8), nullable=False),
        sa.Column("booked_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["lease_id"], ["lease.id"], name="fk_charge_lease_id"),
        sa.PrimaryKeyConstraint("id", name="pk_charge"),
    )
    op.create_index("ix_charge_lease_id", "charge", ["lease_id"], unique=False)
    op.create_table(
        "audit",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("actor", sa.Text(), server_default="", nullable=False),
        sa.Column("action", sa.Text(), server_default="", nullable=False),
        sa.Column("object", sa.Text(), server_default="", nullable=False),
        sa.Column("text", sa.Text(), server_default="", nullable=False),
        sa.Column("detail", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name="pk_audit"),
    )
    op.create_index("ix_audit_object", "audit", ["object"], unique=False)
    op.create_table(
        "sighting",
        sa.Column("place", sa.String(length=120), nullable=False),
        sa.Column("thing", sa.String(length=200), nullable=False),
        sa.Column("first_seen", TIME, nullable=False),
        sa.Column("last_seen", TIME, nullable=False),
        sa.PrimaryKeyConstraint("place", "thing", name="pk_sighting"),
    )
    op.create_table(
        "beacon",
        sa.Column("forge", sa.String(length=60), nullable=False),
        sa.Column("scope", sa.String(length=300), nullable=False),
        sa.Column("labels", sa.String(length=500), nullable=False),
        sa.Column("runner_id", sa.Text(), server_default="", nullable=False),
        sa.Column("credential", sa.LargeBinary(), nullable=True),
        sa.Column("lit_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("forge", "scope", "labels", name="pk_beacon"),
    )
    op.create_table(
        "person",
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_person"),
    )
    op.create_table(
        "web_session",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("person", sa.String(length=120), nullable=False),
        sa.Column("csrf", sa.String(length=64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["person"], ["person.name"], name="fk_web_session_person"),
        sa.PrimaryKeyConstraint("hash", name="pk_web_session"),
    )
    op.create_table(
        "login_link",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("person", sa.String(length=120), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("used_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["person"], ["person.name"], name="fk_login_link_person"),
        sa.PrimaryKeyConstraint("hash", name="pk_login_link"),
    )
    op.create_table(
        "api_token",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("person", sa.String(length=120), nullable=False),
        sa.Column("label", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("used_at", TIME, nullable=True),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["person"], ["person.name"], name="fk_api_token_person"),
        sa.PrimaryKeyConstraint("hash", name="pk_api_token"),
    )


def downgrade() -> None:
    for table in (
        "api_token",
        "login_link",
        "web_session",
        "person",
        "beacon",
        "sighting",
        "audit",
        "charge",
        "node_log",
        "node_session",
        "span",
        "lease",
        "job",
        "delivery",
        "installation",
    ):
        op.drop_table(table)
