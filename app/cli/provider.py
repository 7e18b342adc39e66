"""`provider`: the places that machines are rented from: how each stands, adding one, testing it, pausing it."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from app.cli.client import Json
from app.cli.config import CONFIG
from app.cli.desk import desk
from app.cli.exits import Exit, Failure
from app.cli.options import Call, asking, chosen_config, printing
from app.cli.output import Column, Output, hint
from app.cli.pilot import Wish, options, pilot
from app.cli.words import NONE, between, clean, clock, duration, money

COOLING = (
    Column("cooling down", lambda one: one["provider"]),
    Column("region", lambda one: one["region"] or "any"),
    Column("what", lambda one: one["offer"] or one["type"] or "anything"),
    Column("until", lambda one: clock(one["until"])),
    Column("because", lambda one: one["why"]),
)
"""Cool-downs, as `explain` shows them too."""


@click.group()
def provider() -> None:
    """Providers: how each stands; add, test, pause and resume one."""


@provider.command("list")
@asking
def listing(call: Call) -> None:
    """Every provider: whether it is rented from, what it offers, what cools down there, and its last trouble."""
    with call.client() as api:
        reply = api.get("providers")
    now = call.clock.now()
    columns = [
        Column("provider", lambda one: one["name"]),
        Column("kind", lambda one: one["kind"]),
        Column("state", lambda one: one["standing"]["state"]),
        Column("until", lambda one: clock(one["standing"]["until"])),
        Column("offers", lambda one: one["offers"], right=True),
        Column("pass", lambda one: one["passing"], right=True),
        Column("cheapest/h", lambda one: _price(one["cheapest_passing"] or one["cheapest"]), right=True),
        Column("seen", lambda one: f"{between(one['offers_seen_at'], None, now)} ago" if one["offers_seen_at"] else "not yet"),
        Column("leases", lambda one: one["live_leases"], right=True),
        Column("cooling", lambda one: len(one["cooldowns"]), right=True),
        Column("trouble", _trouble),
    ]
    call.output.rows(reply, reply["providers"], columns, "No provider is configured: sublet provider add KIND NAME")
    cold: list[Json] = [one for row in reply["providers"] for one in row["cooldowns"]]
    if call.output.is_text and cold:
        click.echo()
        call.output.table(COOLING, cold)


def _price(offer: Json | None) -> str:
    return NONE if offer is None else money({"amount": offer["price_per_hour"], "currency": offer["currency"]})


def _trouble(one: Json) -> str:
    standing: Json = one["standing"]
    sweep: Json = one["sweep"] or {"trouble": ""}
    return str(standing["sentence"] or standing["trouble"] or sweep["trouble"])


@provider.command()
@click.argument("kind")
@click.argument("name")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@CONFIG
@click.option("--dry-run", "dry", is_flag=True, help="Only check it, and print what would be written.")
@printing
def add(output: Output, kind: str, name: str, settings: tuple[str, ...], config: Path | None, dry: bool) -> None:
    """Add a provider to the settings file. It is used after a restart of the service.

    KEY=VALUE are the settings of its KIND. A secret is named by where it lies: env:NAME, file:PATH or cmd:PROGRAM. A list is
    written with commas, and one line of a table as TABLE.KEY=VALUE. The table goes to the end of the file, which is checked
    whole before anything is written; nothing else in it changes.
    """
    output.only_objects("provider add")
    path = chosen_config(config)
    if path is None:
        raise Failure(Exit.NOT_FOUND, "There is no settings file here.", "Name it with --config.")
    wanted = {"kind": kind, "name": name, "settings": list(settings), "config": str(path), "dry": dry}
    _, told = desk("app.provider_desk", (), json.dumps(wanted))
    if not output.is_text:
        output.value(told)
        return
    click.echo(told["table"], nl=False)
    if told["written"]:
        hint(f"Added to {clean(told['path'])}. Restart the service, then: sublet provider test {clean(name)}")
    else:
        hint(f"Nothing was written to {clean(told['path'])}.")


@provider.command()
@click.argument("name")
@options
@asking
def test(
    call: Call, name: str, paid: bool, gpu: str | None, region: str | None, pool: str | None, max_price: Decimal | None,
    reason: str, yes: bool,
) -> int:  # fmt: skip
    """Ask a provider for key, balance and quota; costs nothing. Ends with 1 if it says no.

    --paid rents its cheapest machine for two minutes, has it prove and measure itself, and destroys it. It shows the price and
    asks first.
    """
    if paid:
        return pilot(call, Wish(name, gpu, region, pool, max_price, reason), yes)
    given = {"--gpu": gpu, "--region": region, "--pool": pool, "--max-price": max_price, "--reason": reason, "--yes": yes}
    stray = next((word for word, value in given.items() if value not in (None, "", False)), None)
    if stray is not None:
        raise Failure(Exit.USAGE, f"{stray} is for --paid.", "Without --paid nothing is rented, so there is nothing to choose.")
    call.output.only_objects("provider test")
    with call.client() as api:
        told = api.post(f"{_path(name)}/test", {})
    if not call.output.is_text:
        call.output.value(told)
        return Exit.OK if told["ok"] else Exit.FAILED
    click.echo(f"{clean(told['provider'])}  {'OK' if told['ok'] else 'FAILED'}  {clean(told['summary'])}")
    rows: list[tuple[str, Any]] = [*told["facts"].items(), ("took", duration(told["seconds"]))]
    call.output.table([Column("fact", lambda row: row[0]), Column("value", lambda row: row[1])], rows)
    return Exit.OK if told["ok"] else Exit.FAILED


@provider.command()
@click.argument("name")
@click.option("--reason", default="", metavar="TEXT", help="Why; people see it, and it goes into the audit.")
@asking
def pause(call: Call, name: str, reason: str) -> None:
    """Rent nothing new at a provider until somebody resumes it. What lives there goes on to its end. For operators."""
    sentence = "Nothing new is rented at {}; what lives there goes on to its end."
    _say(call, name, "pause", {"reason": reason or "paused on the command line"}, sentence)


@provider.command()
@click.argument("name")
@asking
def resume(call: Call, name: str) -> None:
    """Rent at a provider again: ends a pause, and forgets the calls that failed. For operators."""
    _say(call, name, "resume", {}, "{} may be rented from again.")


def _say(call: Call, name: str, verb: str, body: Json, sentence: str) -> None:
    call.output.only_objects(f"provider {verb}")
    with call.client() as api:
        told = api.post(f"{_path(name)}/{verb}", body)
    if call.output.is_text:
        click.echo(sentence.format(clean(told["provider"])))
    else:
        call.output.value(told)


def _path(name: str) -> str:
    return f"providers/{quote(name, safe='')}"
