"""`login`: a fresh one-time link into the dashboard."""

from __future__ import annotations

import click

from app.cli.options import Call, asking
from app.cli.output import hint


@click.command()
@asking
def login(call: Call) -> None:
    """Print a new one-time login link, for the person whom the token speaks for."""
    call.output.only_objects("login")
    with call.client() as api:
        reply = api.post("login-links", {})
    if not call.output.is_text:
        call.output.value(reply)
        return
    click.echo(reply["url"])
    hint("It works once, and for a short time only.")
