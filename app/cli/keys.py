"""`keys`: the key that seals the secrets in the database."""

from __future__ import annotations

import click

from app.cli.options import Call, asking
from app.cli.output import hint
from app.cli.words import clean


@click.group()
def keys() -> None:
    """The key that seals the secrets in the database. For admins."""


@keys.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@asking
def rotate(call: Call, yes: bool) -> None:
    """Add a new key and seal every secret with it; old keys still open. Asks first, unless --yes is said."""
    call.output.only_objects("keys rotate")
    with call.client() as api:
        call.confirm("The key file gets a new key, and every secret in the database is sealed again with it.", yes)
        reply = api.post("keys/rotate", {})
    failed = reply["failed"]
    if call.output.is_text:
        count = int(reply["resealed"])
        click.echo(f"The key {clean(reply['key'])} seals from now on; {count} secret{'' if count == 1 else 's'} sealed again.")
        if failed:
            hint(f"No key opens these, and they stay as they are: {', '.join(map(clean, failed))}")
        hint("Back the key file up again: what is sealed from now on opens only with the new key.")
    else:
        call.output.value(reply)
