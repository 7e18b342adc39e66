"""`ps` and `lease`: what is rented now, one lease whole, its log, and the two ways to end it."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import click

from app.cli.client import Client, Json
from app.cli.exits import Exit, Failure
from app.cli.lease_text import columns, sheet
from app.cli.options import Call, asking
from app.cli.output import hint
from app.cli.words import clean, clock

LOG_LOOK_SECONDS = 1.0
WAIT_LOOK_SECONDS = 1.0


def _listing(call: Call, which: str, limit: int, text: str = "") -> None:
    with call.client() as api:
        reply = api.get("leases", which=which, limit=limit, text=text or None)
    leases = reply["leases"]
    empty = {"live": "Nothing is rented now.", "past": "No lease has ended yet.", "all": "There has been no lease yet."}
    now = call.clock.now()
    call.output.rows(reply, leases, columns(now), f"None of them holds {clean(text)!r}." if text else empty[which])
    if reply.get("more") and call.output.is_text:
        also = f" --text={shlex.quote(text)}" if text else ""
        hint(f"Of the newest {limit}; for more: sublet lease list --which {which} --limit {min(limit * 4, 500)}{also}")


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Past leases too.")
@asking
def ps(call: Call, everything: bool) -> None:
    """Leases that are alive now; the same as `lease list`."""
    _listing(call, "all" if everything else "live", 50)


@click.group()
def lease() -> None:
    """One lease: what it is, its log, and its end."""


@lease.command("list")
@click.option("--which", type=click.Choice(["live", "past", "all"]), default="live", show_default=True, help="Which leases.")
@click.option("-a", "--all", "everything", is_flag=True, help="Live and past ones: short for --which all.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="Most leases to show, newest first.")
@click.option("--text", default="", help="Only those whose name, state, job, pool or provider holds it.")
@asking
def listing(call: Call, which: str, everything: bool, limit: int, text: str) -> None:
    """Leases as a table."""
    _listing(call, "all" if everything else which, limit, text)


@lease.command()
@click.argument("reference", metavar="LEASE")
@asking
def show(call: Call, reference: str) -> None:
    """All that is known of one lease: its phases, its cost, its node, its job."""
    call.output.only_objects("lease show")
    with call.client() as api:
        view = api.lease(reference)
    if not call.output.is_text:
        call.output.value(view)
        return
    sheet(call.output, view, call.clock.now())


@lease.command()
@click.argument("reference", metavar="LEASE")
@click.option("-f", "--follow", is_flag=True, help="Go on until the lease is gone.")
@asking
def logs(call: Call, reference: str, follow: bool) -> None:
    """What the node wrote: its agent, its start-up, its runner.

    With --json, one object a line.
    """
    call.output.only_objects("lease logs")
    with call.client() as api:
        target = quote(str(api.resolve(reference)["id"]), safe="")
        for line in _lines(api, target, follow):
            if call.output.is_text:
                click.echo(f"{clock(line['at'])} {clean(line['source']):<6} {clean(line['line'])}")
            else:
                type(call.output)("ndjson").value(line)


def _lines(api: Client, target: str, follow: bool) -> Iterator[Json]:
    """Every line once; with `follow`, also those to come until the lease is gone."""
    after = -1
    while True:
        over = not follow or api.get(f"leases/{target}")["state"] == "released"  # asked first, so that no last line is missed
        while lines := api.get(f"leases/{target}/logs", after=after)["lines"]:
            yield from lines
            after = max(int(line["seq"]) for line in lines)
        if over:
            return
        time.sleep(LOG_LOOK_SECONDS)


def _ending(what: str, effect: str) -> click.Command:
    """`drain` and `destroy` differ in a word and in what they do to the job."""

    @click.command(what)
    @click.argument("reference", metavar="LEASE")
    @click.option("--reason", default="", metavar="TEXT", help="Why; it goes into the audit.")
    @click.option("-y", "--yes", is_flag=True, help="Do not ask.")
    @click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
    @click.option(
        "--wait", is_flag=False, flag_value="10m", metavar="[TIME]", help="Wait until it is gone: 30s, 10m, 1h.  [10m]"
    )
    @asking
    def ending(call: Call, reference: str, reason: str, yes: bool, dry_run: bool, wait: str | None) -> None:
        call.output.only_objects(f"lease {what}")
        patience = None if wait is None else _seconds(wait)
        with call.client() as api:
            target = api.resolve(reference)
            sentence = f"{clean(target['name'])}: {effect}"
            if dry_run:
                _answer(call, {"schema_version": 1, "lease": target, "dry_run": True}, f"Would do: {sentence}")
                return
            call.confirm(sentence, yes)
            path = f"leases/{quote(str(target['id']), safe='')}"
            reply = api.post(f"{path}/{what}", {"reason": reason or "asked on the command line"})
            if patience is not None:
                reply = _until_gone(api, path, patience)
            _answer(call, reply, f"{sentence} {'It is gone.' if patience is not None else 'Asked for.'}")

    ending.help = f"{effect.capitalize()} Asks first, unless --yes is said."
    return ending


lease.add_command(_ending("drain", "its job may end, no other comes, and the machine is given back."))
lease.add_command(_ending("destroy", "its job ends now, and the machine is given back."))


def _answer(call: Call, reply: Json, sentence: str) -> None:
    if call.output.is_text:
        click.echo(sentence)
    else:
        call.output.value(reply)


def _until_gone(api: Client, path: str, patience: float) -> dict[str, Any]:
    """The lease once it is proven gone. Raises Failure when the time is over; the work goes on without us."""
    end = time.monotonic() + patience
    while True:
        view = api.get(path)
        if view["state"] == "released" and view["gone"]:
            return view
        if time.monotonic() >= end:
            raise Failure(
                Exit.TIMED_OUT, f"{clean(view['name'])} is still {view['state']}.", "It goes on; look with `sublet ps`."
            )
        time.sleep(WAIT_LOOK_SECONDS)


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)?", text)
    if found is None:
        raise Failure(Exit.USAGE, "--wait takes a time such as 30s, 10m or 1h.")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2] or "s"]
