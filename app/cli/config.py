"""`config`: whether the settings can be used, what a key means and where its value came from, and the schema."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from app.cli.exits import Exit, Failure
from app.cli.options import chosen_config, printing
from app.cli.output import Column, Output, hint
from app.settings import Loaded, Settings, SettingsError, load
from app.settings.keys import Key, every_key, value_of
from providers.fit import no_such_kind

CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="SUBLET_CONFIG",
    help="Settings file.  [default: sublet.toml, if it is there; env: SUBLET_CONFIG]",
)


class Unusable(Failure):
    """The settings are there, and wrong."""


def checked(path: Path | None) -> Loaded:
    """The settings from file and environment. Raises Failure with every problem."""
    path = chosen_config(path)
    try:
        return load(path)
    except FileNotFoundError:
        raise Failure(Exit.NOT_FOUND, f"There is no file {path}.") from None
    except OSError as error:
        raise Failure(Exit.FAILED, f"{path} cannot be read: {error.strerror}.") from None
    except SettingsError as error:
        raise Unusable(Exit.FAILED, "\n".join(error.problems), "`sublet config explain KEY` tells what a key means.") from None


@click.group()
def config() -> None:
    """Settings: check them, explain them."""


@config.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@CONFIG
@printing
def check(output: Output, file: Path | None, config: Path | None) -> None:
    """Read the settings as `sublet up` would, and say everything that is wrong.

    No secret is read, and nothing is asked of anybody. A kind that is not installed here may be where it is to run: that
    is a warning.
    """
    output.only_objects("config check")
    loaded = checked(file or config)
    settings = loaded.settings
    warnings = [*loaded.warnings, *_not_installed(settings)]
    if not output.is_text:
        path = str(loaded.path) if loaded.path else None
        output.value({"schema_version": 1, "ok": True, "path": path, "warnings": warnings})
        return
    for warning in warnings:
        hint(f"Warning: {warning}")
    counts = f"{len(settings.pool)} pools, {len(settings.provider)} providers, {len(settings.repository)} repository rules"
    click.echo(f"{loaded.path or 'The defaults'}: can be used ({counts}).")


def _not_installed(settings: Settings) -> Iterator[str]:
    """A sentence for each table whose kind no package brings. Only names are looked at: no plugin's code runs."""
    for noun, tables in (("provider", settings.provider), ("forge", settings.forge)):
        kinds = {point.name for point in importlib.metadata.entry_points(group=f"sublet.{noun}s")}
        for table in tables:
            if table.kind not in kinds:
                yield f'{noun} "{table.name}" of kind "{table.kind}": {no_such_kind(table.kind, kinds)}'


@config.command()
@click.argument("key", default="")
@CONFIG
@printing
def explain(output: Output, key: str, config: Path | None) -> None:
    """What a key means, its default, its value now, and where that came from.

    KEY is written as `server.port` or `pool.ceiling`; a table's name shows all of its keys, and no KEY shows every one.
    """
    loaded = None
    try:
        loaded = checked(config)
    except Unusable:  # what a key means helps most to whoever wrote it wrong
        hint("The settings cannot be used, so no value is known: see `sublet config check`.")
    wanted = key.replace("[", ".").replace("]", "").strip(".")
    keys = [known for known in every_key() if not wanted or known.name == wanted or known.name.startswith(f"{wanted}.")]
    if not keys:
        raise Failure(Exit.NOT_FOUND, f"There is no key `{key}`.", "`sublet config explain` lists them all.")
    if len(keys) == 1 and output.is_text:
        _one(loaded, keys[0])
        return
    views = [_view(loaded, known) for known in keys]
    columns = [
        Column("key", lambda view: view["key"]),
        Column("value", lambda view: "; ".join(_text(row["value"]) for row in view["values"])),
        Column("from", lambda view: ", ".join(dict.fromkeys(row["source"] for row in view["values"]))),
        Column("meaning", lambda view: view["meaning"].split(". ")[0]),
    ]
    output.rows({"schema_version": 1, "keys": views}, views, columns, "")


def _view(loaded: Loaded | None, key: Key) -> dict[str, Any]:
    values: list[dict[str, Any]] = []
    if loaded is not None:
        values = [{"at": at, "value": value, "source": loaded.source(at)} for at, value in value_of(loaded.settings, key)]
    return {
        "key": key.name,
        "type": key.kind,
        "default": key.default,
        "meaning": key.meaning,
        "variable": key.variable,
        "values": values,
    }


def _one(loaded: Loaded | None, key: Key) -> None:
    click.echo(f"{key.name}  ({key.kind})")
    click.echo(key.meaning)
    click.echo()
    for row in _view(loaded, key)["values"]:
        click.echo(f"{row['at']} = {_text(row['value'])}  from {row['source']}")
    if key.variable:
        click.echo(f"Variable: {key.variable}")


def _text(value: object) -> str:
    return "not set" if value is None else value if isinstance(value, str) else json.dumps(value)


@config.command()
def schema() -> None:
    """Print the JSON Schema of sublet.toml, for editors."""
    click.echo(json.dumps(Settings.model_json_schema(), indent=2))
