"""The tables. Times are aware UTC, money is exact, enums are their words."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.store.columns import Json, Money, UtcTime

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


LIVE = sa.text("state <> 'released'")
UNBOOKED = sa.text("state = 'released' AND asked_at IS NOT NULL AND booked_at IS NULL")
COVERING = sa.text("job_id = '' AND state NOT IN ('draining', 'destroying', 'released')")
_SERVED = "'job_done', 'job_gone', 'job_refused', 'job_timeout', 'operator', 'shutdown'"
FAILED = sa.text(f"reason NOT IN ({_SERVED})")  # core.model.FAILED
SERVED = sa.text(f"reason IN ({_SERVED})")
UNSETTLED = sa.text("cleared_at IS NULL AND not_ours = '' AND state <> 'completed'")
"""Written out, never bound: a partial index serves only a query that repeats its very words."""


def _text(name: str, default: str | None = "", **kwargs: Any) -> sa.Column[str]:
    if default is None:
        return sa.Column(name, sa.Text, nullable=True, **kwargs)
    return sa.Column(name, sa.Text, nullable=False, server_default=default, **kwargs)


def _time(name: str, **kwargs: Any) -> sa.Column[datetime]:
    return sa.Column(name, UtcTime, **kwargs)


installation = sa.Table(
    "installation",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),  # one row
    sa.Column("owner", sa.String(40), nullable=False),  # our unguessable owner tag at every provider
    _time("created_at", nullable=False),
    sa.Column("key_check", sa.LargeBinary, nullable=True),  # sealed: only the right key file opens it
)

delivery = sa.Table(
    "delivery",
    metadata,
    sa.Column("forge", sa.String(60), primary_key=True),
    sa.Column("guid", sa.String(200), primary_key=True),
    _text("event"),
    _text("action"),
    _time("received_at", nullable=False),
    sa.Index("ix_delivery_received_at", "received_at"),
)

job = sa.Table(
    "job",
    metadata,
    sa.Column("id", sa.String(120), primary_key=True),
    _text("forge"),
    _text("key"),
    _text("repository"),
    _text("repository_id"),
    _text("run_id"),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="1"),
    sa.Column("labels", Json, nullable=True),
    sa.Column("state", sa.String(20), nullable=False),
    _text("name"),
    _text("workflow"),
    _text("url"),
    _text("branch"),
    _text("sha"),
    _text("actor"),
    _text("conclusion"),
    _text("runner_id"),
    _text("runner_name"),
    _time("queued_at"),
    _time("started_at"),
    _time("completed_at"),
    _text("installation"),
    _time("seen_at", nullable=False),
    _text("pool", None),
    _text("scope", None),
    _text("not_ours"),
    _text("wait"),
    _text("lease_id"),
    _time("cleared_at"),
    _time("heard_at"),
    _text("heard_by"),
    _time("ask_after"),  # the forge is not asked about it again before this
    sa.Column("asks", sa.Integer, nullable=False, server_default="0"),  # in a row without a useful answer
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
    _time("created_at", nullable=False),
    _time("entered_at", nullable=False),
    _time("deadline"),
    _time("due", nullable=False),
    sa.Column("need", Json, nullable=False),
    sa.Column("ask", Json, nullable=False),
    _text("reason", None),
    _text("reason_text"),
    _text("note"),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("claim", sa.String(80), nullable=False, server_default=""),
    _time("claimed_until"),
    sa.Column("version", sa.Integer, nullable=False, server_default="0"),
    _text("image", None),
    _text("provider"),
    _text("region"),
    sa.Column("offer", Json, nullable=True),
    sa.Column("decision", Json, nullable=True),
    sa.Column("price_per_hour", Money, nullable=True),
    sa.Column("currency", sa.String(8), nullable=False, server_default="USD"),
    sa.Column("granularity_s", sa.Float, nullable=False, server_default="1"),
    sa.Column("minimum_s", sa.Float, nullable=False, server_default="0"),
    _time("asked_at"),
    _time("billed_from"),
    _text("create_key"),
    _text("instance_id"),
    _time("hard_end"),
    _time("gone_at"),
    _time("booked_at"),
    _text("join_hash"),
    sa.Column("join_sealed", sa.LargeBinary, nullable=True),  # a repeated create sends the same user data; wiped at the join
    _time("joined_at"),
    _time("heartbeat_at"),
    _time("facts_at"),
    sa.Column("facts", Json, nullable=True),
    _time("runner_started_at"),
    _time("job_started_at"),
    _time("runner_exited_at"),
    sa.Column("runner_exit", sa.Integer, nullable=True),
    _text("runner_id"),
    _text("runner_name"),
    sa.Column("mint_try", sa.Integer, nullable=False, server_default="0"),
    sa.Column("credential", sa.LargeBinary, nullable=True),  # sealed; wiped once the runner has started
    _text("credential_ticket"),  # hash of the ticket of the one fetch; its repetition after a lost answer is allowed
    _time("credential_taken_at"),
    _text("job_id"),
    _time("job_done_at"),
    _text("job_conclusion"),
    _time("drain_asked_at"),
    _time("destroy_asked_at"),
    _text("asked_reason", None),
    _text("asked_text"),
    _time("missing_at"),
    _time("last_asked_at"),
    _text("first_job"),  # the one that its node asked to start; no other may
    _text("mode"),
    sa.Column("signed", sa.Boolean, nullable=False, server_default=sa.false()),
    _text("image_digest"),
    sa.Column("image_verdict", Json, nullable=True),
    sa.Index("ix_lease_due", "due", sqlite_where=LIVE, postgresql_where=LIVE),
    sa.Index("ix_lease_state", "state", "entered_at"),
    sa.Index("ix_lease_live", "created_at", sqlite_where=LIVE, postgresql_where=LIVE),
    sa.Index("ix_lease_unbooked", "entered_at", sqlite_where=UNBOOKED, postgresql_where=UNBOOKED),
    sa.Index("ix_lease_pool", "pool", sqlite_where=LIVE, postgresql_where=LIVE),
    sa.Index("ix_lease_covering", "created_at", sqlite_where=COVERING, postgresql_where=COVERING),
    sa.Index("ix_lease_failed", "entered_at", sqlite_where=FAILED, postgresql_where=FAILED),
    sa.Index("ix_lease_served", "pool", "entered_at", sqlite_where=SERVED, postgresql_where=SERVED),
    sa.Index("ix_lease_runner_name", "runner_name"),
    sa.Index("ix_lease_created_at", "created_at"),
)

span = sa.Table(
    "span",
    metadata,
    sa.Column("lease_id", sa.String(40), sa.ForeignKey("lease.id"), primary_key=True),
    sa.Column("state", sa.String(20), primary_key=True),
    _time("entered_at", nullable=False),
    _time("left_at"),
    _text("note"),
)

node_session = sa.Table(
    "node_session",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("lease_id", sa.String(40), sa.ForeignKey("lease.id"), nullable=False, index=True),
    _time("created_at", nullable=False),
    _time("expires_at", nullable=False),
)

node_log = sa.Table(
    "node_log",
    metadata,
    sa.Column("lease_id", sa.String(40), sa.ForeignKey("lease.id"), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True),  # given by the node, so that a repeated upload adds nothing
    _time("at", nullable=False),
    _text("source"),  # "agent", "boot", "runner"
    _text("line"),
)

lease_image = sa.Table(  # each image that a lease's job asked to start a container from, and what was found
    "lease_image",
    metadata,
    sa.Column("lease_id", sa.String(40), sa.ForeignKey("lease.id"), primary_key=True),
    sa.Column("asked", sa.String(600), primary_key=True),  # as the job wrote it
    _text("digest"),
    sa.Column("allowed", sa.Boolean, nullable=False),
    sa.Column("verdict", Json, nullable=False),
    _time("at", nullable=False),
)

revoked_image = sa.Table(  # digests that may not run any more, whoever signed them
    "revoked_image",
    metadata,
    sa.Column("digest", sa.String(80), primary_key=True),
    _text("why"),
    _text("actor"),
    _time("at", nullable=False),
)

charge = sa.Table(
    "charge",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("lease_id", sa.String(40), sa.ForeignKey("lease.id"), nullable=False, index=True),
    sa.Column("kind", sa.String(20), nullable=False),
    _time("since", nullable=False),
    _time("until", nullable=False),
    sa.Column("price_per_hour", Money, nullable=False),
    sa.Column("amount", Money, nullable=False),
    sa.Column("currency", sa.String(8), nullable=False),
    _time("booked_at", nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    _time("at", nullable=False),
    _text("actor"),
    _text("action"),
    _text("object"),  # "lease:ID", "user:NAME", ...
    _text("text"),
    sa.Column("detail", Json, nullable=True),
    sa.Index("ix_audit_object", "object"),
)

sighting = sa.Table(
    "sighting",
    metadata,
    sa.Column("place", sa.String(120), primary_key=True),  # "provider:NAME" or "forge:NAME"
    sa.Column("thing", sa.String(200), primary_key=True),
    _time("first_seen", nullable=False),
    _time("last_seen", nullable=False),
)

stray = sa.Table(  # an instance under our owner tag that is no lease's own: destroyed, proven gone and, where it can be, booked
    "stray",
    metadata,
    sa.Column("provider", sa.String(60), primary_key=True),
    sa.Column("instance_id", sa.String(200), primary_key=True),
    _text("tag"),
    _text("lease_id"),  # of the lease that once owned the tag; empty: nobody knows the tag, and nobody the price
    _time("created_at"),  # as the provider says
    _time("found_at", nullable=False),
    _time("asked_at"),  # when its end was first asked for
    _time("confirmed_at"),  # when a person said that it may go
    _time("busy_at"),  # when a forge last said that a job runs on it
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    _time("gone_at"),
    _time("booked_at"),
)

run = sa.Table(  # one answer of the forge for all jobs of a run
    "run",
    metadata,
    sa.Column("forge", sa.String(60), primary_key=True),
    sa.Column("repository", sa.String(500), primary_key=True),
    sa.Column("id", sa.String(100), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    _text("event"),
    _text("head_repository"),
    sa.Column("fork", sa.Boolean, nullable=True),
    _text("actor"),
    _text("refusal"),  # a sentence, where the forge's answer rules the run out whatever the rules say
    _time("told_at"),  # NULL: nobody has answered yet
    _time("ask_after"),
    sa.Column("asks", sa.Integer, nullable=False, server_default="0"),
    sa.Index("ix_run_told_at", "told_at"),
)

duty = sa.Table(  # work that one engine does for all, and when it is due again
    "duty",
    metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    _time("due", nullable=False),
    _text("holder"),
    _time("done_at"),
    _text("note"),
)

polled = sa.Table(  # each repository whose open jobs are listed, and when they were last
    "polled",
    metadata,
    sa.Column("forge", sa.String(60), primary_key=True),
    sa.Column("repository", sa.String(500), primary_key=True),
    _time("listed_at"),
    _time("ask_after"),  # the forge refused: not before this
    _text("note"),
)

missed = sa.Table(  # each delivery that did not arrive and that the forge was asked to send again
    "missed",
    metadata,
    sa.Column("forge", sa.String(60), primary_key=True),
    sa.Column("guid", sa.String(200), primary_key=True),
    sa.Column("asks", sa.Integer, nullable=False, server_default="0"),
    _time("ask_after", nullable=False),
)

replica = sa.Table(  # every process that serves this database, as it last said of itself
    "replica",
    metadata,
    sa.Column("name", sa.String(60), primary_key=True),
    sa.Column("role", sa.String(20), nullable=False),
    _text("version"),
    _time("started_at", nullable=False),
    _time("seen_at", nullable=False),
    _time("beat_at"),  # when its engine finished its last look
    _text("note"),  # what is wrong with it, in its own words
)

beacon = sa.Table(
    "beacon",
    metadata,
    sa.Column("forge", sa.String(60), primary_key=True),
    sa.Column("scope", sa.String(300), primary_key=True),
    sa.Column("labels", sa.String(500), primary_key=True),
    _text("runner_id"),
    sa.Column("credential", sa.LargeBinary, nullable=True),  # sealed
    _time("lit_at"),
)

person = sa.Table(
    "person",
    metadata,
    sa.Column("name", sa.String(120), primary_key=True),
    sa.Column("role", sa.String(20), nullable=False),  # viewer, operator, admin
    _time("created_at", nullable=False),
)

web_session = sa.Table(
    "web_session",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("person", sa.String(120), sa.ForeignKey("person.name"), nullable=False),
    sa.Column("csrf", sa.String(64), nullable=False),
    _time("created_at", nullable=False),
    _time("expires_at", nullable=False),
)

login_link = sa.Table(
    "login_link",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("person", sa.String(120), sa.ForeignKey("person.name"), nullable=False),
    _time("expires_at", nullable=False),
    _time("used_at"),
)

api_token = sa.Table(
    "api_token",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("person", sa.String(120), sa.ForeignKey("person.name"), nullable=False),
    _text("label"),
    _time("created_at", nullable=False),
    _time("expires_at"),
    _time("used_at"),
    _time("revoked_at"),
)
