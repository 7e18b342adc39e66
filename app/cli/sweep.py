"""`sweep`: what the providers have under our tag, what of it is no lease's own, and a person's word that it may go."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from app.cli.client import Json
from app.cli.exits import Exit, Failure
from app.cli.options import Call, asking
from app.cli.output import Column, hint
from app.cli.words import between, clean, money


@click.group(invoke_without_command=True)
@asking
def sweep(call: Call) -> None:
    """What the last look at each provider found, and every instance that is no lease's own.

    Such an instance is destroyed when it was seen twice. More than 3 of them, and more than a fifth of all, wait for a
    person: then it is more likely the wrong database, or an old one.
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    with call.client() as api:
        reply = api.get("sweep")
    now = call.clock.now()
    columns = [
        Column("provider", lambda one: one["provider"]),
        Column("listed", lambda one: one["listed"], right=True),
        Column("of leases", lambda one: one["owned"], right=True),
        Column("strays", lambda one: len(one["strays"]), right=True),
        Column("held back", lambda one: one["held"], right=True),
        Column("last list", lambda one: f"{between(one['at'], None, now)} ago" if one["at"] else "none yet"),
        Column("trouble", lambda one: one["trouble"]),
    ]
    call.output.rows(reply, reply["providers"], columns, "No provider is configured.")
    if not call.output.is_text:
        return
    for one in reply["providers"]:
        if one["strays"]:
            click.echo()
            _strays(call, one["strays"])
        if one["held"]:
            hint(f"{one['held']} of {clean(one['provider'])} wait for your word: sublet sweep confirm {clean(one['provider'])}")


def _strays(call: Call, found: list[Json]) -> None:
    now = call.clock.now()
    columns = [
        Column("instance", lambda one: one["instance_id"]),
        Column("tag", lambda one: one["tag"]),
        Column("age", lambda one: between(one["created_at"] or one["found_at"], None, now), right=True),
        Column("cost so far", lambda one: money(one["cost"]), right=True),
        Column("state", _state),
    ]
    call.output.table(columns, found)


def _state(one: Json) -> str:
    if one["asked_at"]:
        return f"being destroyed, asked {one['tries']} times"
    if one["busy_at"]:
        return "a job runs on it"
    return "waits" if one["waits"] else "may go"


@sweep.command()
@click.argument("provider")
@click.option("--instance", "named", multiple=True, metavar="ID", help="Only this one; may be said several times.")
@click.option("--reason", default="", metavar="TEXT", help="Why; it goes into the audit.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@asking
def confirm(call: Call, provider: str, named: tuple[str, ...], reason: str, yes: bool) -> None:
    """Let the instances that wait be destroyed: those that are shown now and no others, for an hour.

    Asks first, unless --yes is said.
    """
    call.output.only_objects("sweep confirm")
    with call.client() as api:
        found = next((one for one in api.get("sweep")["providers"] if one["provider"] == provider), None)
        if found is None:
            raise Failure(Exit.NOT_FOUND, f"There is no provider {provider}.", "`sublet sweep` shows those that there are.")
        waiting = [one for one in found["strays"] if one["waits"] and (not named or one["instance_id"] in named)]
        if not waiting:
            raise Failure(Exit.CONFLICT, f"Nothing of {provider} waits for a word.", "Look with `sublet sweep`.")
        if call.output.is_text:
            _strays(call, waiting)
        whom = "This instance" if len(waiting) == 1 else f"These {len(waiting)} instances"
        call.confirm(f"{whom} of {clean(provider)} will be destroyed.", yes)
        body: dict[str, Any] = {
            "instances": [one["instance_id"] for one in waiting],
            "reason": reason or "confirmed on the command line",
        }
        reply = api.post(f"sweep/{quote(provider, safe='')}/confirm", body)
    if call.output.is_text:
        click.echo(f"{reply['confirmed']} may go; the sweep destroys them within a minute.")
    else:
        call.output.value(reply)
