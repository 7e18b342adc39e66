"""`queue`: the jobs that wait, and why each of them does."""

from __future__ import annotations

from typing import Any

import click

from app.cli.options import Call, asking
from app.cli.output import Column, hint
from app.cli.words import between, duration

TABS = ("waiting", "started", "not_ours")


@click.command()
@click.option("--tab", type=click.Choice(TABS), default="waiting", show_default=True, help="Which jobs.")
@click.option(
    "--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="Most jobs to show, the newest first."
)
@asking
def queue(call: Call, tab: str, limit: int) -> None:
    """Jobs that wait, that started, or that are not ours, and why."""
    with call.client() as api:
        reply = api.get("queue", tab=tab, limit=limit)
    jobs = reply["jobs"]
    now = call.clock.now()
    since = {"waiting": "queued_at", "started": "started_at", "not_ours": "queued_at"}[tab]
    columns = [
        Column("repository", lambda job: job["repository"]),
        Column("job", lambda job: job["name"]),
        Column("labels", lambda job: ", ".join(job["labels"] or [])),
        Column("state", lambda job: job["state"]),
        Column(
            "for", lambda job: _waited(job) if tab == "waiting" else between(job[since], job["completed_at"], now), right=True
        ),
        Column("heard", _heard, right=True),
        Column("lease", lambda job: job["lease"]["name"] if job["lease"] else ""),
        Column("why", lambda job: job["not_ours"] or job["wait"]),
    ]
    empty = {"waiting": "No job waits.", "started": "No job has started yet.", "not_ours": "Every job that came was ours."}
    call.output.rows(reply, jobs, columns, empty[tab])
    if reply.get("more") and call.output.is_text:
        hint(f"Shown {limit}; for more: sublet queue --tab {tab} --limit {min(limit * 4, 500)}")


def _heard(job: dict[str, Any]) -> str:
    """`9 s poll`: how late it was heard of, by the forge's clock, and by what."""
    after, by = job.get("heard_after_seconds"), job.get("heard_by") or ""
    return by if after is None else f"{duration(after)} {by}"


def _waited(job: dict[str, float | None]) -> str:
    return duration(job.get("waiting_seconds"))
