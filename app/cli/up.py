"""`up`: becomes the service."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

import app
from app.cli.config import CONFIG, checked
from app.cli.exits import Exit, Failure
from app.cli.options import DATA, chosen_config
from app.cli.output import hint


def own_command(module: str, words: Sequence[str]) -> list[str]:
    """The command that runs one of our own modules; `-P` keeps the working folder from hiding them."""
    return [sys.executable, "-P", "-m", module, *words]


def service_command(words: Sequence[str]) -> list[str]:
    """The command that runs the service."""
    return own_command("app.main", words)


def service_environment() -> dict[str, str]:
    """The environment to run it in: a tree that was never installed has to be named."""
    environment = dict(os.environ)
    try:
        importlib.metadata.distribution("sublet")
    except importlib.metadata.PackageNotFoundError:
        tree = str(Path(app.__file__).resolve().parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join(part for part in (tree, environment.get("PYTHONPATH")) if part)
    return environment


def become(words: Sequence[str]) -> NoReturn:
    """Replace this process by the service, so that signals reach it and nothing stands between."""
    sys.stdout.flush()
    command = service_command(words)
    os.execve(command[0], command, service_environment())  # noqa: S606  our own program, no shell


@click.command()
@CONFIG
@DATA
@click.option("--host", metavar="ADDRESS", help="Address to listen on, in place of [server] `host`.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="Port to listen on, in place of [server] `port`; 0 takes a free one."
)
@click.option(
    "--role",
    type=click.Choice(["all", "web", "engine"]),
    default="all",
    show_default=True,
    help="Which parts to run; other than all needs PostgreSQL.",
)
@click.option("--new-keys", is_flag=True, help="Go on though the key file is not that of the database; its secrets are lost.")
@click.option(
    "--provider",
    type=click.Choice(["local", "docker"]),
    help="Of the demo: where its machine comes from. With docker its job runs in a signed image.  [default: local]",
)
def up(
    config: Path | None, data: Path, host: str | None, port: int | None, role: str, new_keys: bool, provider: str | None
) -> None:
    """Run the service in the foreground, until Ctrl-C.

    Without a settings file and without a forge in the environment it runs the demo, which needs no account.
    """
    loaded = checked(config)  # what is wrong is said here, whole, before anything starts
    for warning in loaded.warnings:
        hint(f"Warning: {warning}")
    words = ["--role", role, *(["--new-keys"] if new_keys else [])]
    file = chosen_config(config)
    demonstrates = file is None and not loaded.settings.forges
    if provider is not None and not demonstrates:
        raise Failure(Exit.USAGE, "--provider is for the demo.", "Your own providers stand in the settings, as [[provider]].")
    if file is not None:
        words += ["--config", str(file)]
    elif demonstrates:
        words += ["--demo", *([] if provider is None else ["--demo-provider", provider])]
    if click.get_current_context().get_parameter_source("data") is click.core.ParameterSource.COMMANDLINE:
        words += ["--data", str(data.absolute())]
    words += [] if host is None else ["--host", host]
    words += [] if port is None else ["--port", str(port)]
    become(words)
