"""The options that every command shares, and what a command is given from them."""

from __future__ import annotations

import functools
import os
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate

import click

from app.cli.client import Client, find
from app.cli.exits import Exit, Failure
from app.cli.output import FORMS, Output, hint
from app.kit.clock import Clock, SystemClock

USUAL_CONFIG = Path("sublet.toml")


def chosen_config(path: Path | None) -> Path | None:
    """The settings file that was named, else the usual one if it is there."""
    return path or (USUAL_CONFIG if USUAL_CONFIG.exists() else None)


def data_folder(context: click.Context, parameter: click.Parameter, given: Path | None) -> Path:
    """As told; else what the settings file says, so that commands beside the service find it; else the usual one."""
    if given is not None:
        return given
    named = os.environ.get("SUBLET_CONFIG")
    file = chosen_config(Path(named) if named else None)
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8")).get("data") if file is not None else None
    except (OSError, ValueError):  # `config check` says what is wrong with it
        told = None
    return file.parent / told if file is not None and isinstance(told, str) and told else Path("sublet-data")


DATA = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="SUBLET_DATA",
    callback=data_folder,
    help="Data folder of the service.  [default: `data` in sublet.toml, else sublet-data; env: SUBLET_DATA]",
)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a command: how to print, and whom to ask."""

    output: Output
    data: Path
    server: str | None = None
    token: str | None = None
    clock: Clock = SystemClock()  # noqa: RUF009  it has no state

    def client(self) -> Client:
        """The service. Raises Failure if none is known."""
        return Client(find(self.server, self.token, self.data))

    def confirm(self, effect: str, yes: bool) -> None:
        """Ask a person on a terminal; anywhere else `--yes` must have been said. Raises Failure."""
        if yes:
            return
        if not sys.stdin.isatty():
            raise Failure(Exit.USAGE, "This needs a yes, and nobody is here to ask.", "Say --yes.")
        hint(effect)
        if not click.confirm("Go on?", err=True):
            raise Failure(Exit.INTERRUPTED, "Nothing was done.")


def printing(command: Callable[Concatenate[Output, ...], Any]) -> Callable[..., Any]:
    """Give a command its `Output`, with -o, --json and --no-color."""

    @click.option("-o", "--output", "form", type=click.Choice(FORMS), default="table", help="How to print.")
    @click.option("--json", "as_json", is_flag=True, help="Short for -o json.")
    @click.option("--no-color", is_flag=True, help="No colour; NO_COLOR does the same.")
    @functools.wraps(command)
    def with_output(*, form: str, as_json: bool, no_color: bool, **words: Any) -> Any:
        output = Output("json" if as_json else form, colour=not no_color)
        try:
            return command(output, **words)
        except Failure as failure:
            failure.as_json = output.is_json
            raise

    return with_output


def asking(command: Callable[Concatenate[Call, ...], Any]) -> Callable[..., Any]:
    """Give a command its `Call`: `printing`, and which service to ask."""

    @printing
    @DATA
    @click.option("--server", metavar="URL", envvar="SUBLET_URL", help="Address of the service.  [env: SUBLET_URL]")
    @click.option("--token", envvar="SUBLET_TOKEN", help="API token; better given as SUBLET_TOKEN.")
    @functools.wraps(command)
    def with_call(output: Output, *, data: Path, server: str | None, token: str | None, **words: Any) -> Any:
        return command(Call(output, data, server, token), **words)

    return with_call
