"""The tables. Times are aware UTC, money is exact, enums are their words."""

from __future__ import annotations

import sqlalchemy as sa

from app.store.columns import Json, Money, metadata, text, time
from app.store.market_tables import offer, offer_price, pilot, provider_standing, setback

__all__ = ["metadata", "offer", "offer_price", "pilot", "provider_standing", "setback"]

LIVE = sa.text("state <> 'released'")
UNBOOKED = sa.text("state = 'released' AND asked_at IS NOT NULL AND booked_at IS NULL")
DOUBTED = sa.text("doubted_at IS NOT NULL")
PINNED = sa.text("for_job <> ''")
COVERING = sa.text("job_id = '' AND state NOT IN ('draining', 'destroying', 'released')")
_SERVED = "'job_done', 'job_gone', 'job_refused', 'job_timeout', 'operator', 'pilot_done', 'shutdown'"
FAILED = sa.text(f"reason NOT IN ({_SERVED})")  # core.model.FAILED
SERVED = sa.text(f"reason IN ({_SERVED})")
UNSETTLED = sa.text("cleared_at IS NULL AND not_ours = '' AND state <> 'completed'")
"""Written out, never bound: a partial index serves only a query that repeats its very words."""


installation = sa.Table(
    "installation",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),  # one row
    sa.Column("owner", sa.String(40), nullable=False),  # our unguessable owner tag at every provider
    time("created_at", nullable=False),
    sa.Column("key_check", sa.LargeBinary, nullable=True),  # sealed: only the right key file opens it
)

delivery = sa.Table(
    "delivery",
    metadata,
    sa.Column("forge", sa.String(60), primary_key=True),
    sa.Column("guid", sa.String(200), primary_key=True),
    text("event"),
    text("action"),
    time("received_at", nullable=False),
    sa.Index("ix_delivery_received_at", "received_at"),
)

job = sa.Table(
    "job",
    metadata,
    sa.Column("id", sa.String(120), primary_key=True),
    text("forge"),
    text("key"),
    text("repository"),
    text("repository_id"),
    text("run_id"),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="1"),
    sa.Column("labels", Json, nullable=True),
    sa.Column("state", sa.String(20), nullable=False),
    text("name"),
    text("workflow"),
    text("url"),
    text("branch"),
    text("sha"),
    text("actor"),
    text("conclusion"),
    text("runner_id"),
    text("runner_name"),
    time("queued_at"),
    time("started_at"),
    time("completed_at"),
    text("installation"),
    time("seen_at", nullable=False),
    text("pool", None),
    text("scope", None),
    text("not_ours"),
    text("wait"),
    text("lease_id"),
    time("cleared_at"),
    time("heard_at"),
    text("heard_by"),
    time("ask_after"),  # the forge is not asked about it again before this
    sa.Column("asks", sa.Integer, nullable=False, server_default="0"),  # in a row without a useful answer
    time("reopened_at"),
    time("doubted_at"),  # when a delivery last told it as less far than it was
    sa.Index("ix_job_doubted_at", "doubted_at", sqlite_where=DOUBTED, postgresql_where=DOUBTED),
    sa.Index("ix_job_state_pool", "state", "pool"),
    sa.Index("ix_job_unsettled", "seen_at", sqlite_where=UNSETTLED, postgresql_where=UNSETTLED),
    sa.Index("ix_job_url", "url"),
    sa.Index("ix_job_seen_at", "seen_at"),
)

lease = sa.Table(
    "lease",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("name", sa.String(60), nullable=False, unique=True),
    sa.Column("pool", sa.String(120), nullable=False),
    sa.Column("forge", sa.String(60), nullable=False),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("labels", Json, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("tag", sa.String(80), nullable=False, unique=True),
    time("created_at", nullable=False),
    time("entered_at", nullable=False),
    time("deadline"),
    time("due", nullable=False),
    sa.Column("need", Json, nullable=False),
    sa.Column("ask", Json, nullable=False),
    text("reason", None),
    text("reason_text"),
    text("note"),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("claim", sa.String(80), nullable=False, server_default=""),
    time("claimed_until"),
    sa.Column("version", sa.Integer, nullable=False, server_default="0"),
    text("image", None),
    text("provider"),
    text("region"),
    sa.Column("offer", Json, nullable=True),
    sa.Column("decision", Json, nullable=True),
    sa.Column("price_per_hour", Money, nullable=True),
    sa.Column("currency", sa.String(8), nullable=False, server_default="USD"),
    sa.Column("granularity_s", sa.Float, nullable=False, server_default="1"),
    sa.Column("minimum_s", sa.Float, nullable=False, server_default="0"),
    time("asked_at"),
    time("billed_from"),
    text("create_key"),
    text("instance_id"),
    time("hard_end"),
    time("gone_at"),
    time("booked_at"),
    text("join_hash"),
    sa.Column("join_sealed", sa.LargeBinary, nullable=True),  # a repeated create sends the same user data; wiped at the join
    time("joined_at"),
    time("heartbeat_at"),
    time("facts_at"),
    sa.Column("facts", Json, nullable=True),
    time("runner_started_at"),
    time("job_started_at"),
    time("runner_exited_at"),
    sa.Column("runner_exit", sa.Integer, nullable=True),
    text("runner_id"),
    text("runner_name"),
    sa.Column("mint_try", sa.Integer, nullable=False, server_default="0"),
    sa.Column("credential", sa.LargeBinary, nullable=True),  # sealed; wiped once the runner has started
    text("credential_ticket"),  # hash of the ticket of the one fetch; its repetition after a lost answer is allowed
    time("credential_taken_at"),
    text("job_id"),
    time("job_done_at"),
    text("job_conclusion"),
    time("drain_asked_at"),
    time("destroy_asked_at"),
    text("asked_reason", None),
    text("asked_text"),
    time("missing_at"),
    time("last_asked_at"),
    text("first_job"),  # the one that its node asked to start; no other may
    text("mode"),
    sa.Column("signed", sa.Boolean, nullable=False, server_default=sa.false()),
    text("image_digest"),
    sa.Column("image_verdict", Json, nullable=True),
    sa.Column("for_job", sa.String(120), nullable=False, server_default=""),  # the one job it is for, where a runner is pinned
    text("runner_why"),  # the node's own words for why its runner could not be started
    sa.Index("ix_lease_due", "due", sqlite_where=LIVE, postgresql_where=LIVE),
    sa.Index("ix_lease_state", "state", "entered_at"),
    sa.Index("ix_lease_live", "created_at", sqlite_where=LIVE, postgresql_where=LIVE),
    sa.Index("ix_lease_unbooked", "entered_at", sqlite_where=UNBOOKED, postgresql_where=UNBOOKED),
    sa.Index("ix_lease_pool", "pool", sqlite_where=LIVE, postgresql_where=LIVE),
    sa.Index("ix_lease_covering", "created_at", sqlite_where=COVERING, postgresql_where=COVERING),
    sa.Index("ix_lease_failed", "entered_at", sqlite_where=FAILED, postgresql_where=FAILED),
    sa.Index("ix_lease_served", "pool", "entered_at", sqlite_where=SERVED, postgresql_where=SERVED),
    sa.Index("ix_lease_runner_name", "runner_name"),
    sa.Index("ix_lease_runner_id", "runner_id"),
    sa.Index("ix_lease_created_at", "created_at"),
    sa.Index("ix_lease_for_job", "for_job", sqlite_where=PINNED, postgresql_where=PINNED),
)

span = sa.Table(
    "span",
    metadata,
    sa.Column("lease_id", sa.String(40), sa.ForeignKey("lease.id"), primary_key=True),
    sa.Column("state", sa.String(20), primary_key=True),
    time("entered_at", nullable=False),
    time("left_at"),
    text("note"),
)

node_session = sa.Table(
    "node_session",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("lease_id", sa.String(40), sa.ForeignKey("lease.id"), nullable=False, index=True),
    time("created_at", nullable=False),
    time("expires_at", nullable=False),
)

node_log = sa.Table(
    "node_log",
    metadata,
    sa.Column("lease_id", sa.String(40), sa.ForeignKey("lease.id"), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True),  # given by the node, so that a repeated upload adds nothing
    time("at", nullable=False),
    text("source"),  # "agent", "boot", "runner"
    text("line"),
)

lease_image = sa.Table(  # each image that a lease's job asked to start a container from, and what was found
    "lease_image",
    metadata,
    sa.Column("lease_id", sa.String(40), sa.ForeignKey("lease.id"), primary_key=True),
    sa.Column("asked", sa.String(600), primary_key=True),  # as the job wrote it
    text("digest"),
    sa.Column("allowed", sa.Boolean, nullable=False),
    sa.Column("verdict", Json, nullable=False),
    time("at", nullable=False),
)

revoked_image = sa.Table(  # digests that may not run any more, whoever signed them
    "revoked_image",
    metadata,
    sa.Column("digest", sa.String(80), primary_key=True),
    text("why"),
    text("actor"),
    time("at", nullable=False),
)

charge = sa.Table(
    "charge",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("lease_id", sa.String(40), sa.ForeignKey("lease.id"), nullable=False, index=True),
    sa.Column("kind", sa.String(20), nullable=False),
    time("since", nullable=False),
    time("until", nullable=False),
    sa.Column("price_per_hour", Money, nullable=False),
    sa.Column("amount", Money, nullable=False),
    sa.Column("currency", sa.String(8), nullable=False),
    time("booked_at", nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    time("at", nullable=False),
    text("actor"),
    text("action"),
    text("object"),  # "lease:ID", "user:NAME", ...
    text("text"),
    sa.Column("detail", Json, nullable=True),
    sa.Index("ix_audit_object", "object"),
)

sighting = sa.Table(
    "sighting",
    metadata,
    sa.Column("place", sa.String(120), primary_key=True),  # "provider:NAME" or "forge:NAME"
    sa.Column("thing", sa.String(200), primary_key=True),
    time("first_seen", nullable=False),
    time("last_seen", nullable=False),
)

stray = sa.Table(  # an instance under our owner tag that is no lease's own: destroyed, proven gone and, where it can be, booked
    "stray",
    metadata,
    sa.Column("provider", sa.String(60), primary_key=True),
    sa.Column("instance_id", sa.String(200), primary_key=True),
    text("tag"),
    text("lease_id"),  # of the lease that once owned the tag; empty: nobody knows the tag, and nobody the price
    time("created_at"),  # as the provider says
    time("found_at", nullable=False),
    time("asked_at"),  # when its end was first asked for
    time("confirmed_at"),  # when a person said that it may go
    time("busy_at"),  # when a forge last said that a job runs on it
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    time("gone_at"),
    time("booked_at"),
)

run = sa.Table(  # one answer of the forge for all jobs of a run
    "run",
    metadata,
    sa.Column("forge", sa.String(60), primary_key=True),
    sa.Column("repository", sa.String(500), primary_key=True),
    sa.Column("id", sa.String(100), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    text("event"),
    text("head_repository"),
    sa.Column("fork", sa.Boolean, nullable=True),
    text("actor"),
    text("refusal"),  # a sentence, where the forge's answer rules the run out whatever the rules say
    time("told_at"),  # NULL: nobody has answered yet
    time("ask_after"),
    sa.Column("asks", sa.Integer, nullable=False, server_default="0"),
    sa.Index("ix_run_told_at", "told_at"),
)

duty = sa.Table(  # work that one engine does for all, and when it is due again
    "duty",
    metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    time("due", nullable=False),
    text("holder"),
    time("done_at"),
    text("note"),
)

polled = sa.Table(  # each repository or owner whose open jobs, or repositories, are listed, and when they were last
    "polled",
    metadata,
    sa.Column("forge", sa.String(60), primary_key=True),
    sa.Column("repository", sa.String(500), primary_key=True),
    time("listed_at"),
    time("ask_after"),  # the forge refused: not before this
    text("note"),
    time("found_at"),  # when a listing of its owner last named this repository
)

missed = sa.Table(  # each delivery that did not arrive and that the forge was asked to send again
    "missed",
    metadata,
    sa.Column("forge", sa.String(60), primary_key=True),
    sa.Column("guid", sa.String(200), primary_key=True),
    sa.Column("asks", sa.Integer, nullable=False, server_default="0"),
    time("ask_after", nullable=False),
)

replica = sa.Table(  # every process that serves this database, as it last said of itself
    "replica",
    metadata,
    sa.Column("name", sa.String(60), primary_key=True),
    sa.Column("role", sa.String(20), nullable=False),
    text("version"),
    time("started_at", nullable=False),
    time("seen_at", nullable=False),
    time("beat_at"),  # when its engine finished its last look
    text("note"),  # what is wrong with it, in its own words
)

beacon = sa.Table(
    "beacon",
    metadata,
    sa.Column("forge", sa.String(60), primary_key=True),
    sa.Column("scope", sa.String(300), primary_key=True),
    sa.Column("labels", sa.String(500), primary_key=True),
    text("runner_id"),
    sa.Column("credential", sa.LargeBinary, nullable=True),  # sealed
    time("lit_at"),
)

person = sa.Table(
    "person",
    metadata,
    sa.Column("name", sa.String(120), primary_key=True),
    sa.Column("role", sa.String(20), nullable=False),  # viewer, operator, admin
    time("created_at", nullable=False),
)

web_session = sa.Table(
    "web_session",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("person", sa.String(120), sa.ForeignKey("person.name"), nullable=False),
    sa.Column("csrf", sa.String(64), nullable=False),
    time("created_at", nullable=False),
    time("expires_at", nullable=False),
)

login_link = sa.Table(
    "login_link",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("person", sa.String(120), sa.ForeignKey("person.name"), nullable=False),
    time("expires_at", nullable=False),
    time("used_at"),
)

api_token = sa.Table(
    "api_token",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("person", sa.String(120), sa.ForeignKey("person.name"), nullable=False),
    text("label"),
    time("created_at", nullable=False),
    time("expires_at"),
    time("used_at"),
    time("revoked_at"),
)
