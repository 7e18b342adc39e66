"""How a lease looks on a terminal: one line of a list, and the whole sheet."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click

from app.cli.image_text import image_tables
from app.cli.output import Column, Output
from app.cli.words import NONE, between, clean, clock, duration, moment, money


def job_title(job: Mapping[str, Any] | None) -> str:
    """`acme/train · gpu-eval`."""
    return f"{job['repository']} · {job['name']}" if job else NONE


def red_mark(lease: Mapping[str, Any]) -> str:
    """`UNSIGNED` where nobody signed what it runs, `REVOKED` where somebody took that back."""
    return "REVOKED" if lease.get("revoked") else "signed" if lease.get("signed") else "UNSIGNED"


def columns(now: datetime) -> list[Column]:
    """The columns of `ps`."""
    return [
        Column("name", lambda lease: lease["name"]),
        Column("state", lambda lease: lease["state"]),
        Column("image", red_mark),
        Column("pool", lambda lease: lease["pool"]),
        Column("job", lambda lease: job_title(lease["job"])),
        Column("provider", lambda lease: "/".join(part for part in (lease["provider"], lease["region"]) if part)),
        Column("age", lambda lease: between(lease["created_at"], lease["gone_at"], now), right=True),
        Column("price/h", lambda lease: money(lease["price_per_hour"], digits=2), right=True),
        Column("cost", lambda lease: money(lease["cost"]), right=True),
        Column("ends by", lambda lease: clock(lease["hard_end"]), right=True),
        Column("why", lambda lease: lease["reason"] or lease["note"]),
    ]


def sheet(output: Output, lease: Mapping[str, Any], now: datetime) -> None:
    """A lease whole: what it is, its phases, and what it cost."""
    job: Mapping[str, Any] | None = lease["job"]
    heard = str(job.get("heard") or "") if job else ""
    about = [
        ("lease", f"{lease['name']}  ({lease['id']})"),
        ("state", lease["state"] + (", proven gone" if lease["gone"] else "")),
        ("reason", " · ".join(str(part) for part in (lease["reason"], lease["reason_text"]) if part)),
        ("note", lease["note"]),
        ("pool", " · ".join(part for part in (lease["pool"], lease["pool_note"]) if part)),
        ("image", _image(lease)),
        ("digest", lease.get("image_digest")),
        ("revoked", lease.get("revoked")),
        ("job", job_title(job) + (f" · {job['conclusion'] or job['state']}" if job else "")),
        ("job page", job["url"] if job else ""),
        ("heard", heard.removeprefix("heard of ")),
        ("serves", lease.get("serves")),
        ("provider", " · ".join(part for part in (lease["provider"], lease["region"], lease["instance_id"]) if part)),
        ("runner", lease["runner"]["name"]),
        ("no runner", lease.get("runner_why")),
        ("node", _node(lease["node"], now)),
        ("price", f"{money(lease['price_per_hour'])}/h" if lease["price_per_hour"] else ""),
        ("cost", money(lease["cost"]) + (" (estimate)" if lease["cost"].get("estimate") else "")),
        ("ends by", lease["hard_end"] if not lease["gone"] else ""),
        ("gone at", lease["gone_at"]),
    ]
    for title, text in about:
        if text:
            click.echo(f"{title:<9} {clean(text)}")
    click.echo()
    output.table(
        [
            Column("phase", lambda phase: phase["phase"]),
            Column("began", lambda phase: clock(phase["started_at"])),
            Column("ended", lambda phase: clock(phase["ended_at"])),
            Column("took", lambda phase: between(phase["started_at"], phase["ended_at"], now), right=True),
        ],
        lease["phases"],
    )
    if lease.get("image"):
        image_tables(output, lease["image"])
    containers: list[Mapping[str, Any]] = lease.get("containers") or []
    if containers:
        click.echo()
        output.table(
            [
                Column("container from", lambda one: one["asked"]),
                Column("result", lambda one: "allowed" if one["allowed"] else "REFUSED"),
                Column("why", lambda one: one["why"]),
            ],
            containers,
        )


def _image(lease: Mapping[str, Any]) -> str:
    """What it runs in, whether that was signed, and by whom; or which check failed."""
    seen: Mapping[str, Any] | None = lease.get("image")
    mark = "signed" if lease.get("signed") else "UNSIGNED"
    told = [lease.get("mode", ""), mark, seen["asked"] if seen else "", seen["why"] if seen else ""]
    return " · ".join(part for part in told if part)


def _node(node: Mapping[str, Any] | None, now: datetime) -> str:
    if not node or not node.get("heartbeat_at"):
        return ""
    heard = moment(node["heartbeat_at"])
    facts: Mapping[str, Any] = node.get("facts") or {}
    gpus: list[Mapping[str, Any]] = facts.get("gpus") or []
    seen = f"{len(gpus)} × {gpus[0].get('name', 'GPU')}, driver {facts.get('driver', '')}" if gpus else "no GPU"
    ago = duration((now - heard).total_seconds()) if heard else NONE
    return f"{seen}; heard {ago} ago"
