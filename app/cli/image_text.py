"""How an image's verdict looks on a terminal: each check, and each signature that was looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from app.cli.output import Column, Output
from app.cli.words import NONE, moment


def image_tables(output: Output, seen: Mapping[str, Any]) -> None:
    """Each check and each signature of an image, as a person reads them."""
    if seen["checks"]:
        click.echo()
        output.table(
            [
                Column("check", lambda one: one["what"]),
                Column("result", lambda one: "ok" if one["passed"] else "FAILED"),
                Column("asked", lambda one: one["asked"]),
                Column("seen", lambda one: one["seen"]),
            ],
            seen["checks"],
        )
    if seen["evidence"]:
        click.echo()
        output.table(
            [
                Column("signer", lambda one: one["signer"]),
                Column("result", lambda one: "good" if one["good"] else "does not count"),
                Column("form", lambda one: one["kind"]),
                Column("when", lambda one: _when(one["signed_at"])),
                Column("log", lambda one: NONE if one["log_index"] is None else one["log_index"], right=True),
                Column("detail", lambda one: one["detail"]),
            ],
            seen["evidence"],
        )


def _when(text: str | None) -> str:
    at = moment(text)
    return NONE if at is None else f"{at:%Y-%m-%d %H:%M:%S}"
