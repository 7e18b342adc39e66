"""The tables of the market: what providers offer, how we stand with each, what failed there, and what pilots measured."""

from __future__ import annotations

import sqlalchemy as sa

from app.store.columns import Json, Money, metadata, text, time

NAME = 60  # characters of a provider's name
WORD = 200  # of a region or a machine type
LONG = 500  # of an offer's id

provider_standing = sa.Table(
    "provider_standing",
    metadata,
    sa.Column("provider", sa.String(NAME), primary_key=True),
    time("paused_at"),
    text("paused_by"),
    text("paused_why"),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    time("open_until"),
    text("trouble"),
    time("trouble_at"),
)

setback = sa.Table(  # a definite no to a create, kept while it counts
    "setback",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    time("at", nullable=False),
    sa.Column("provider", sa.String(NAME), nullable=False),
    text("region"),
    text("type"),
    text("offer"),
    sa.Column("reach", sa.String(20), nullable=False),
    sa.Column("reason", sa.String(40), nullable=False),
    text("detail"),
    text("lease_id"),
    sa.Index("ix_setback_at", "at"),
)

offer = sa.Table(  # each offer as it was last seen
    "offer",
    metadata,
    sa.Column("provider", sa.String(NAME), primary_key=True),
    sa.Column("id", sa.String(LONG), primary_key=True),
    time("seen_at", nullable=False),
    sa.Column("detail", Json, nullable=False),  # contract.Offer as JSON
    sa.Index("ix_offer_seen_at", "seen_at"),
)

offer_price = sa.Table(  # a row for each price and availability that an offer had, from then to then
    "offer_price",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("provider", sa.String(NAME), nullable=False),
    sa.Column("offer", sa.String(LONG), nullable=False),
    text("region"),
    text("gpu"),
    sa.Column("gpus", sa.Integer, nullable=False, server_default="0"),
    sa.Column("spot", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("price_per_hour", Money, nullable=False),
    sa.Column("currency", sa.String(10), nullable=False),
    sa.Column("availability", sa.String(20), nullable=False),
    time("since", nullable=False),
    time("until", nullable=False),
    sa.Index("ix_offer_price_provider_offer_until", "provider", "offer", "until"),
    sa.Index("ix_offer_price_until", "until"),
)

pilot = sa.Table(  # a machine that was rented for two minutes to measure it
    "pilot",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("provider", sa.String(NAME), nullable=False),
    text("region"),
    sa.Column("lease_id", sa.String(40), nullable=False, server_default=""),
    text("asked_by"),
    time("asked_at", nullable=False),
    sa.Column("offer", Json, nullable=True),
    time("usable_at"),  # when its node had proven itself
    time("ended_at"),
    text("outcome"),  # "" while it runs, then "usable" or why not
    sa.Column("report", Json, nullable=True),  # what the node measured
    sa.Index("ix_pilot_provider_asked_at", "provider", "asked_at"),
    sa.Index("ix_pilot_lease_id", "lease_id"),
)
