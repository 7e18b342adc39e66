"""`token`: API tokens, for programs and for the command line on other machines."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from app.cli.options import Call, asking
from app.cli.output import Column, hint
from app.cli.words import clean, day

SHOWN = 12  # letters of a hash in a table; 8 are enough to name a token


@click.group()
def token() -> None:
    """API tokens: your own and, for an admin, everybody's."""


@token.command("list")
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that have expired or were revoked.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="Most tokens to show, newest first.")
@asking
def listing(call: Call, everything: bool, limit: int) -> None:
    """Tokens as a table; never the tokens themselves."""
    with call.client() as api:
        reply = api.get("tokens", which="all" if everything else "live", limit=limit)
    columns = [
        Column("hash", lambda one: one["hash"][:SHOWN]),
        Column("person", lambda one: one["person"]),
        Column("label", lambda one: one["label"]),
        Column("state", lambda one: one["state"]),
        Column("created", lambda one: day(one["created_at"])),
        Column("last used", lambda one: day(one["used_at"])),
        Column("expires", lambda one: day(one["expires_at"])),
    ]
    call.output.rows(reply, reply["tokens"], columns, "There is no token.")
    if reply.get("more") and call.output.is_text:
        flag = " --all" if everything else ""
        hint(f"Shown {limit}; for more: sublet token list{flag} --limit {min(limit * 4, 500)}")


@token.command()
@click.option("--label", default="made on the command line", show_default=True, metavar="TEXT", help="What it is for.")
@click.option("--person", metavar="NAME", help="Whom it speaks for; an admin may name anybody.  [default: yourself]")
@click.option("--days", type=click.IntRange(1, 365), default=90, show_default=True, help="How long it works.")
@asking
def create(call: Call, label: str, person: str | None, days: int) -> None:
    """Make a token and print it, this once."""
    call.output.only_objects("token create")
    body: dict[str, Any] = {"label": label, "days": days}
    with call.client() as api:
        reply = api.post("tokens", body if person is None else body | {"person": person})
    if not call.output.is_text:
        call.output.value(reply)
        return
    click.echo(clean(reply["token"]))
    until = day(reply["expires_at"])
    hint(f"It speaks for {clean(reply['person'])} until {until} and is shown only now. Programs take it as SUBLET_TOKEN.")


@token.command()
@click.argument("start", metavar="HASH")
@asking
def revoke(call: Call, start: str) -> None:
    """End a token at once, by its hash or at least the first 8 letters of it."""
    call.output.only_objects("token revoke")
    with call.client() as api:
        reply = api.delete(f"tokens/{quote(start, safe='')}")
    if call.output.is_text:
        click.echo(f'Revoked {clean(reply["hash"])[:SHOWN]}, {clean(reply["person"])}\'s token "{clean(reply["label"])}".')
    else:
        call.output.value(reply)
