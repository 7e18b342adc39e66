"""`explain`: why a job waits, or why a lease got the machine it has."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, cast

import click

from app.cli.client import Client, Json
from app.cli.exits import Exit, Failure
from app.cli.image_text import image_tables
from app.cli.lease_text import job_title
from app.cli.options import Call, asking
from app.cli.output import Column, Output
from app.cli.provider import COOLING
from app.cli.words import NONE, clean, clock, duration, money


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
            found = _waiting(api, reference) if failure.exit == Exit.NOT_FOUND else None
            if found is None:
                raise
            return _job(call.output, *found)
    return _lease(call.output, view)


def _waiting(api: Client, url: str) -> tuple[Json, Json] | None:
    """The job of this page among those that have no lease, and the tab that it is on."""
    for tab in ("waiting", "not_ours", "started"):
        reply = api.get("queue", tab=tab, limit=200)
        for job in reply["jobs"]:
            if url in (job["url"], job["id"]):
                return job, reply
    return None


def _job(output: Output, job: Json, reply: Json) -> int:
    closed, cooldowns = reply.get("closed", []), reply.get("cooldowns", [])
    if not output.is_text:
        output.value({"schema_version": 1, "job": job, "closed": closed, "cooldowns": cooldowns})
        return Exit.OK
    click.echo(f"{clean(job['state']).upper()} {duration(job.get('waiting_seconds'))}  {clean(job_title(job))}")
    click.echo(clean(job["not_ours"] or job["wait"] or job.get("next_step") or "It has what it needs."))
    _heard(job)
    market_tables(output, job.get("tried"), closed, cooldowns)
    return Exit.OK


def _heard(job: Mapping[str, Any] | None) -> None:
    """`Heard of after 9 s, by polling every 15 s.`"""
    if job and job.get("heard"):
        click.echo(f"H{clean(job['heard'])[1:]}.")


def _lease(output: Output, lease: Json) -> int:
    code = Exit.NO_OFFER if lease["reason"] == "no_offer" else Exit.OK
    decision: Mapping[str, Any] = lease.get("decision") or {}
    if not output.is_text:
        named = {"id": lease["id"], "name": lease["name"]}
        about = {name: lease.get(name, "") for name in ("for_job", "serves", "runner_why")}
        job: Mapping[str, Any] = lease["job"] or {}
        heard = {name: job.get(name) for name in ("heard_by", "heard_after_seconds", "heard")}
        shown = {"lease": named | about, "job": heard, "decision": decision, "image": lease.get("image")}
        output.value({"schema_version": 1, **shown})
        return code
    click.echo(f"{clean(lease['state']).upper()}  {clean(lease['name'])}  {clean(job_title(lease['job']))}")
    looked = f"Looked at {decision['seen']} offers, {decision['passed']} passed." if "seen" in decision else ""
    image: Mapping[str, Any] = lease.get("image") or {}
    why = lease.get("runner_why") or ""
    told = "" if why in lease["reason_text"] else f"The node could not start its runner: {why}"
    texts = (lease["reason_text"], told, lease["note"], lease.get("revoked"), lease.get("serves"), image.get("why", ""), looked)
    for sentence in dict.fromkeys(texts):
        if sentence:
            click.echo(clean(sentence))
    _heard(lease["job"])
    if image and not image["allowed"]:
        image_tables(output, image)
    market_tables(output, decision.get("tried"), decision.get("closed"), decision.get("cooldowns"))
    troubles: list[str] = decision.get("troubles") or []
    for trouble in troubles:
        click.echo(clean(trouble))
    verdicts: list[Json] = decision.get("verdicts") or []
    if verdicts:
        click.echo()
        output.table(
            [
                Column("offer", lambda row: row.get("title") or row.get("offer")),
                Column("provider", lambda row: row.get("provider")),
                Column("region", lambda row: row.get("region")),
                Column("price/h", lambda row: row.get("price_per_hour"), right=True),
                Column("usual job", lambda row: _short(row.get("expected")), right=True),
                Column("verdict", lambda row: _verdict(row, decision.get("chosen"))),
                Column("because", lambda row: row.get("detail") or ""),
            ],
            verdicts,
        )
    return code


def market_tables(output: Output, tried: list[Json] | None, closed: list[Json] | None, cooldowns: list[Json] | None) -> None:
    """Who said no and how, who is not asked now, and what is left alone until when."""
    for columns, rows in ((TRIED, tried), (CLOSED, closed), (COOLING, cooldowns)):
        if rows:
            click.echo()
            output.table(columns, rows)


OUTCOMES = {
    "no_capacity": "had no machine",
    "provider_refused": "refused us",
    "throttled": "asked us to slow down",
    "away": "gave no clear answer",
}
TRIED = (
    Column("asked first", lambda row: row.get("title") or row.get("offer")),
    Column("provider", lambda row: row.get("provider")),
    Column("region", lambda row: row.get("region")),
    Column("price/h", lambda row: _price(row.get("price_per_hour")), right=True),
    Column("at", lambda row: clock(row.get("at"))),
    Column("answer", lambda row: OUTCOMES.get(str(row.get("outcome")), str(row.get("outcome")).replace("_", " "))),
    Column("in its words", lambda row: row.get("detail")),
)
CLOSED = (
    Column("not asked", lambda row: row.get("provider")),
    Column("rule", lambda row: row.get("rule")),
    Column("because", lambda row: row.get("detail") or ""),
)


def _price(value: Any) -> str:
    """A record of a lease has a number, the queue an amount with its currency."""
    return money(cast(Json, value), digits=2) if isinstance(value, dict) else _short(value)


def _short(number: object) -> str:
    """`0.73` of `0.7300000`."""
    try:
        return NONE if number is None else f"{Decimal(str(number)):.2f}"
    except InvalidOperation:
        return NONE


def _verdict(row: Mapping[str, Any], chosen: Mapping[str, Any] | None) -> str:
    if not row.get("passed"):
        return f"rejected: {row.get('rule') or NONE}"
    is_chosen = chosen is not None and all(row.get(key) == chosen.get(key) for key in ("provider", "offer"))
    return "chosen" if is_chosen else "passed"
