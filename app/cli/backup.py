"""`backup` and `restore`: a copy of the service's database, and a copy put back. They work on files, not over HTTP."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from app.cli.config import CONFIG
from app.cli.exits import Exit, Failure
from app.cli.options import DATA, chosen_config, printing
from app.cli.output import Output, hint
from app.cli.up import own_command, service_environment
from app.cli.words import between, clean, day
from app.cli.words import clock as clock_text
from app.kit.clock import SystemClock

FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@click.command()
@FILE
@click.option("--keys", type=click.Path(dir_okay=False, path_type=Path), help="Copy vault.keys too, into another folder.")
@CONFIG
@DATA
@printing
def backup(output: Output, file: Path, keys: Path | None, config: Path | None, data: Path) -> None:
    """Copy the SQLite database to FILE while the service runs.

    The copy is one moment of it, checked, readable by its owner only, and never half there; nothing is written over.
    The key file is kept apart: whoever has both can read the secrets. For PostgreSQL it says what to run instead.
    """
    output.only_objects("backup")
    told = _run("backup", file, keys, config, data)
    if not output.is_text:
        output.value(told)
        return
    click.echo(
        f"{clean(told['file'])}: {told['live_leases']} live leases, {told['open_jobs']} open jobs, {told['bytes']} bytes."
    )
    hint(
        f"The keys are in {clean(told['keys'])}; keep the two apart."
        if told["keys"]
        else f"Keep {clean(told['key_file'])} too, in another place: what is sealed in the copy opens only with it."
    )


@click.command()
@FILE
@click.option("--keys", type=click.Path(dir_okay=False, path_type=Path), help="Copy of vault.keys to put back too.")
@click.option("--replace", is_flag=True, help="Move a database that is there aside; it is not deleted.")
@CONFIG
@DATA
@printing
def restore(output: Output, file: Path, keys: Path | None, replace: bool, config: Path | None, data: Path) -> None:
    """Put a copy of the SQLite database back. No service may run on the data folder meanwhile.

    What was written down since the copy was made is lost: docs/how-to/back-up-and-restore.md tells what happens then.
    """
    output.only_objects("restore")
    told = _run("restore", file, keys, config, data, *(["--replace"] if replace else []))
    if not output.is_text:
        output.value(told)
        return
    newest = told["newest_at"]
    ago = f"{day(newest)} {clock_text(newest)} UTC, {between(newest, None, SystemClock().now())} ago" if newest else "nothing"
    click.echo(f"{clean(told['database'])} is the copy now: {told['live_leases']} live leases, {told['open_jobs']} open jobs.")
    click.echo(f"The last that it knows of: {ago}.")
    if told["replaced"]:
        hint(f"What was there is now {clean(told['replaced'])}.")
    if told["missing_keys"]:
        hint("It is sealed with keys that vault.keys lacks: put its own back. Without them, `sublet up --new-keys` goes on.")
    hint("Start the service, then look at `sublet sweep` and `sublet doctor`.")


def _run(what: str, file: Path, keys: Path | None, config: Path | None, data: Path, *more: str) -> dict[str, Any]:
    """Have the service's own side do it. Raises Failure."""
    words: list[str] = [what, str(file.absolute()), *more]
    chosen = chosen_config(config)
    words += ["--config", str(chosen)] if chosen is not None else []
    words += ["--keys", str(keys.absolute())] if keys is not None else []
    if click.get_current_context().get_parameter_source("data") is not click.core.ParameterSource.DEFAULT:
        words += ["--data", str(data.absolute())]
    return _answer(own_command("app.backup", words))


def _answer(command: Sequence[str]) -> dict[str, Any]:
    done = subprocess.run(command, env=service_environment(), stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    try:
        told: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise Failure(Exit.FAILED, "It ended without an answer.", "What is above says why.") from None
    if "error" in told:
        raise Failure(Exit(done.returncode), told["error"]["message"], told["error"]["hint"])
    return told
