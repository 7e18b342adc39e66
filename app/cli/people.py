"""`people`: who may do what, and links that let them in."""

from __future__ import annotations

from urllib.parse import quote

import click

from app.cli.options import Call, asking
from app.cli.output import Column, hint
from app.cli.words import clean, clock

ROLES = ("viewer", "operator", "admin")


@click.group()
def people() -> None:
    """People: who may do what, and links that let them in. For admins."""


@people.command("list")
@asking
def listing(call: Call) -> None:
    """Everybody, and what each may do."""
    with call.client() as api:
        reply = api.get("people")
    columns = [Column("name", lambda person: person["name"]), Column("role", lambda person: person["role"])]
    call.output.rows(reply, reply["people"], columns, "There is nobody yet.")


@people.command("set")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True, help="A viewer sees, an operator ends leases too.")
@asking
def set_role(call: Call, name: str, role: str) -> None:
    """Make a person, or change what they may do; it counts at once."""
    call.output.only_objects("people set")
    with call.client() as api:
        reply = api.post("people", {"name": name, "role": role})
    if call.output.is_text:
        click.echo(f"{clean(reply['name'])} is {clean(reply['role'])}.")
    else:
        call.output.value(reply)


@people.command()
@click.argument("name")
@asking
def link(call: Call, name: str) -> None:
    """Print a one-time login link for somebody."""
    call.output.only_objects("people link")
    with call.client() as api:
        reply = api.post(f"people/{quote(name, safe='')}/login-links", {})
    if not call.output.is_text:
        call.output.value(reply)
        return
    click.echo(clean(reply["url"]))
    hint(f"It works once, until {clock(reply['expires_at'])} UTC, for whoever opens it: send it to {clean(name)} alone.")
