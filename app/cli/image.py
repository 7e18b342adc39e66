"""`image`: would this image run, who signed it, sign it, and which digests may not run any more."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from app.cli.client import Json
from app.cli.config import CONFIG
from app.cli.desk import desk
from app.cli.exits import Exit, Failure
from app.cli.image_text import image_tables
from app.cli.options import DATA, Call, asking, chosen_config, printing
from app.cli.output import Column, Output, hint
from app.cli.words import clean, day

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@click.group()
def image() -> None:
    """Images: verify and sign them, and stop those that may not run any more."""


@image.command()
@click.argument("reference", metavar="IMAGE")
@click.option("--pool", metavar="NAME", help="Whose rule counts.  [default: the pool that has this image, else [trust]]")
@CONFIG
@DATA
@printing
def verify(output: Output, reference: str, pool: str | None, config: Path | None, data: Path) -> int:
    """Would this image run now? Its digest, who signed it, and each check.

    Asks the registry as the service would, from the settings file; no service needs to run. Ends with 0 if it may run, 1 if
    not, 3 if it is not there, 2 if the settings or IMAGE cannot be used, and 10 if its registry does not answer.
    """
    output.only_objects("image verify")
    words = ["verify", reference, *([] if pool is None else ["--pool", pool])]
    code, told = _desk(words, config, data)
    if not output.is_text:
        output.value(told)
        return code
    _show(output, told)
    hint(clean(told["note"]))
    return code


@image.command()
@click.argument("reference", metavar="IMAGE")
@click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Private key in PEM form; ECDSA, RSA, Ed25519.",
)
@click.option("--password-env", metavar="NAME", help="Variable that holds the key's password, if it has one.")
@CONFIG
@DATA
@printing
def sign(output: Output, reference: str, key: Path, password_env: str | None, config: Path | None, data: Path) -> None:
    """Sign an image as cosign does, beside the signatures that are there.

    The registry must be in the settings, with a login that may write. What IMAGE means now is signed: of an image for several
    platforms the index, which covers them all.
    """
    output.only_objects("image sign")
    words = ["sign", reference, "--key", str(key.absolute())]
    words += [] if password_env is None else ["--password-env", password_env]
    _, told = _desk(words, config, data)
    if not output.is_text:
        output.value(told)
        return
    click.echo(f"{'Signed' if told['fresh'] else 'This key had signed'} {clean(told['reference'])}.")
    count = int(told["signatures"])
    hint(f"Key {clean(told['key'])}; {count} signature{'' if count == 1 else 's'} under the tag {clean(told['tag'])}.")


@image.command()
@click.argument("digest")
@click.option("--why", required=True, metavar="TEXT", help="Why; people see it, and it goes into the audit.")
@asking
def revoke(call: Call, digest: str, why: str) -> None:
    """Stop an image at once: no new lease, no credential and no container gets it. For operators.

    DIGEST is sha256:… of its index, a manifest or a configuration, or a reference that ends with one. A job that runs already
    goes on; its lease shows it.
    """
    reply = _word(call, "revoke", digest, why)
    if call.output.is_text:
        click.echo(f"{clean(reply['digest'])} does not run any more.")
    else:
        call.output.value(reply)


@image.command()
@click.argument("digest")
@click.option("--why", required=True, metavar="TEXT", help="Why; it goes into the audit.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@asking
def unrevoke(call: Call, digest: str, why: str, yes: bool) -> None:
    """Let an image run again, if it passes. For admins. Asks first, unless --yes is said."""
    call.confirm(f"{clean(_digest(digest))} may run again wherever it passes.", yes)
    reply = _word(call, "unrevoke", digest, why)
    if call.output.is_text:
        click.echo(f"{clean(reply['digest'])} may run again, if it passes.")
    else:
        call.output.value(reply)


@image.command("list-revoked")
@asking
def list_revoked(call: Call) -> None:
    """Digests that may not run any more, whoever signed them."""
    with call.client() as api:
        reply = api.get("images/revoked")
    columns = [
        Column("digest", lambda one: one["digest"]),
        Column("by", lambda one: f"{one['actor']} of {one['pool']}" if one["pool"] else one["actor"]),
        Column("since", lambda one: day(one["at"])),
        Column("why", lambda one: one["why"]),
    ]
    call.output.rows(reply, reply["revoked"], columns, "Nothing is revoked.")


def _word(call: Call, what: str, digest: str, why: str) -> Json:
    call.output.only_objects(f"image {what}")
    body = {"digest": _digest(digest), "reason": why}
    with call.client() as api:
        return api.post(f"images/{what}", body)


def _digest(text: str) -> str:
    """The digest itself, or the one at the end of a reference. Raises Failure: a tag may mean another one tomorrow."""
    found = text.rpartition("@")[2]
    if not DIGEST.fullmatch(found):
        hint_text = "`sublet image verify IMAGE` shows the digest that a tag means now."
        raise Failure(Exit.USAGE, "A digest reads sha256: and 64 of 0-9 and a-f.", hint_text)
    return found


def _desk(words: list[str], config: Path | None, data: Path) -> tuple[int, dict[str, Any]]:
    """Have the service's own side do it. Raises Failure."""
    chosen = chosen_config(config)
    words += ["--config", str(chosen)] if chosen is not None else []
    if click.get_current_context().get_parameter_source("data") is not click.core.ParameterSource.DEFAULT:
        words += ["--data", str(data.absolute())]
    return desk("app.image_desk", words)


def _show(output: Output, told: dict[str, Any]) -> None:
    seen = told["image"]
    whose = f"for the pool {clean(told['pool'])}" if told["pool"] else "by [trust]"
    click.echo(f"{'ALLOWED' if seen['allowed'] else 'REFUSED'}  {clean(seen['asked'])}  {whose}")
    click.echo(clean(seen["why"]))
    if not told["signature_required"]:
        click.echo("This pool asks for no signature: nothing proves who made the image.")
    for title, text in (
        ("reference", seen["reference"]),
        ("platforms", ", ".join(one["architecture"] for one in seen["platforms"])),
    ):
        if text:
            click.echo(f"{title}  {clean(text)}")
    image_tables(output, seen)
