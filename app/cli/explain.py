"""`explain`: why a job waits, or why a lease got the machine it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from app.cli.client import Client, Json
from app.cli.exits import Exit, Failure
from app.cli.image_text import image_tables
from app.cli.lease_text import job_title
from app.cli.options import Call, asking
from app.cli.output import Column, Output
from app.cli.words import NONE, clean, duration


@click.command()
@click.argument("reference", metavar="LEASE_OR_JOB")
@asking
def explain(call: Call, reference: str) -> int:
    """Why a job still waits, or why a lease got this offer.

    LEASE_OR_JOB is a lease, or the address of a job's page. Ends with 6 where no offer passes the pool's limits.
    """
    call.output.only_objects("explain")
    with call.client() as api:
        try:
            view = api.lease(reference)
        except Failure as failure:
            job = _waiting(api, reference) if failure.exit == Exit.NOT_FOUND else None
            if job is None:
                raise
            return _job(call.output, job)
    return _lease(call.output, view)


def _waiting(api: Client, url: str) -> Json | None:
    """The job of this page among those that have no lease."""
    for tab in ("waiting", "not_ours", "started"):
        for job in api.get("queue", tab=tab, limit=200)["jobs"]:
            if url in (job["url"], job["id"]):
                return job
    return None


def _job(output: Output, job: Json) -> int:
    if not output.is_text:
        output.value({"schema_version": 1, "job": job})
        return Exit.OK
    click.echo(f"{clean(job['state']).upper()} {duration(job.get('waiting_seconds'))}  {clean(job_title(job))}")
    click.echo(clean(job["not_ours"] or job["wait"] or job.get("next_step") or "It has what it needs."))
    if job.get("heard_by") == "poll":
        click.echo("No webhook told of it in time: it was found by a poll.")
    return Exit.OK


def _lease(output: Output, lease: Json) -> int:
    code = Exit.NO_OFFER if lease["reason"] == "no_offer" else Exit.OK
    decision: Mapping[str, Any] = lease.get("decision") or {}
    if not output.is_text:
        named = {"id": lease["id"], "name": lease["name"]}
        output.value({"schema_version": 1, "lease": named, "decision": decision, "image": lease.get("image")})
        return code
    click.echo(f"{clean(lease['state']).upper()}  {clean(lease['name'])}  {clean(job_title(lease['job']))}")
    looked = f"Looked at {decision['seen']} offers, {decision['passed']} passed." if "seen" in decision else ""
    image: Mapping[str, Any] = lease.get("image") or {}
    for sentence in dict.fromkeys((lease["reason_text"], lease["note"], lease.get("revoked"), image.get("why", ""), looked)):
        if sentence:
            click.echo(clean(sentence))
    if image and not image["allowed"]:
        image_tables(output, image)
    verdicts: list[Json] = decision.get("verdicts") or []
    if verdicts:
        click.echo()
        output.table(
            [
                Column("offer", lambda row: row.get("title") or row.get("offer")),
                Column("provider", lambda row: row.get("provider")),
                Column("region", lambda row: row.get("region")),
                Column("price/h", lambda row: row.get("price_per_hour"), right=True),
                Column("verdict", lambda row: _verdict(row, decision.get("chosen"))),
                Column("because", lambda row: row.get("detail")),
            ],
            verdicts,
        )
    return code


def _verdict(row: Mapping[str, Any], chosen: Mapping[str, Any] | None) -> str:
    if not row.get("passed"):
        return f"rejected: {row.get('rule') or NONE}"
    is_chosen = chosen is not None and all(row.get(key) == chosen.get(key) for key in ("provider", "offer"))
    return "chosen" if is_chosen else "passed"
