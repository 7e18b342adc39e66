"""Reads the settings from flags, environment, file and defaults, in that order, and remembers which said what."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_settings import EnvSettingsSource
from pydantic_settings import SettingsError as EnvironmentTrouble

from app.settings.fields import paths_from, table
from app.settings.secrets import SecretPlace
from app.settings.tree import Settings

Key = tuple[str | int, ...]


class SettingsError(Exception):
    """The settings cannot be used. `problems` has one sentence for each thing that is wrong; none holds a value."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and where each value came from."""

    settings: Settings
    path: Path | None
    sources: Mapping[str, str]
    """Key as `pool[0].labels` -> "flag", the variable's name, or the file's; a key that is absent has its default."""
    warnings: tuple[str, ...] = ()

    def source(self, key: str) -> str:
        """Where the value of a key came from: the key itself, or the nearest table above it that was set whole."""
        while key:
            if key in self.sources:
                return self.sources[key]
            key = key.rpartition(".")[0]
        return "default"


class _Environment(EnvSettingsSource):
    """pydantic-settings' own reading of `SUBLET_SECTION__KEY`, from a mapping that is handed in."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._given = environment
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in self._given.items() if name.upper().startswith("SUBLET_")}


def load(
    path: Path | None = None, overrides: Mapping[str, Any] | None = None, environment: Mapping[str, str] = os.environ
) -> Loaded:
    """Read everything once. `overrides` are the flags, nested as the file is. No secret is read.

    Raises SettingsError with every problem at once, FileNotFoundError for a file that is not there.
    """
    written = _read_file(path) if path is not None else {}
    problems = _stray_variables(environment)
    try:
        varied = _Environment(environment)()
    except EnvironmentTrouble as error:
        raise SettingsError([*problems, f"the environment: {error}"]) from None
    flags = dict(overrides or {})
    sources = {spell(key): str(path) for key in _leaves(written)}
    given = {name.upper() for name in environment}
    for key in _leaves(varied):
        _set(sources, key, next((name for name in _variables(key) if name in given), variable(key)))
    for key in _leaves(flags):
        _set(sources, key, "flag")
    with paths_from(path.parent if path is not None else Path()):
        try:
            settings = Settings(**_merged(_merged(written, varied), flags))
        except ValidationError as error:
            found = [_sentence(path, sources, told) for told in error.errors(include_url=False, include_input=False)]
            raise SettingsError([*problems, *(line for lines in found for line in lines)]) from None
    if problems:
        raise SettingsError(problems)
    return Loaded(settings, path, sources, tuple(_warnings(settings)))


def spell(key: Key) -> str:
    """A key as people write it: `pool[0].labels`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")


def variable(key: Key) -> str:
    """The variable that overrides a key."""
    return "SUBLET_" + "__".join(str(part) for part in key if isinstance(part, str)).upper()


def _variables(key: Key) -> Iterator[str]:
    """The variables that may have said a key: its own, or the one of a whole table above it."""
    return (variable(key[:end]) for end in range(len(key), 0, -1))


def _set(sources: dict[str, str], key: Key, origin: str) -> None:
    """Note an origin; a list that is set again is set whole, so what was below it no longer counts."""
    spelt = spell(key)
    top = spelt.partition("[")[0] + "["
    for covered in [old for old in sources if old.startswith((f"{spelt}[", f"{spelt}.", top)) and sources[old] != origin]:
        del sources[covered]
    sources[spelt] = origin


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([f"{path}: is not TOML: {error}"]) from None
    except UnicodeDecodeError:
        raise SettingsError([f"{path}: is not UTF-8 text"]) from None
    except IsADirectoryError:
        raise SettingsError([f"{path}: is a folder"]) from None


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old, new = table(merged.get(key)), table(value)
        merged[key] = _merged(old, new) if old is not None and new is not None else value
    return merged


def _leaves(value: Any, at: Key = ()) -> Iterator[Key]:
    """The keys of every value; a list of tables is entered, a list of words is one value."""
    if (inner := table(value)) is not None:
        for key, below in inner.items():
            yield from _leaves(below, (*at, key))
    elif isinstance(value, list) and value and all(isinstance(row, dict) for row in cast(list[Any], value)):
        for number, row in enumerate(cast(list[Any], value)):
            yield from _leaves(row, (*at, number))
    else:
        yield at


def _stray_variables(environment: Mapping[str, str]) -> list[str]:
    """Variables that look like settings and are none: a typing error there must not pass in silence."""
    problems: list[str] = []
    for name in environment:
        section, nested, _ = name.upper().removeprefix("SUBLET_").partition("__")
        if name.upper().startswith("SUBLET_") and nested and section.lower() not in Settings.model_fields:
            guess = difflib.get_close_matches(section.lower(), Settings.model_fields, 1)
            problems.append(
                f"{name}: there is no table [{section.lower()}]" + (f"; did you mean [{guess[0]}]?" if guess else "")
            )
    return problems


def _table_at(key: Key) -> tuple[type[BaseModel], str]:
    """The model whose keys stand at `key`, and how its table is written in the file."""
    model: type[BaseModel] = Settings
    title = ""
    for part in key:
        if isinstance(part, int):
            title = f"[{title}] #{part + 1}"
            continue
        field = model.model_fields.get(part)
        inner = next(_models(field.annotation), None) if field is not None else None
        if inner is None:
            break
        model, title = inner, f"[{part}]"
    return model, title


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)


def _sentence(path: Path | None, sources: Mapping[str, str], told: Any) -> list[str]:
    """pydantic's error as sentences a person can act on. Values are left out: one of them may be a secret."""
    key: Key = tuple(told["loc"])
    message = str(told["msg"]).removeprefix("Value error, ")
    origin = next((sources[spell(key[:end])] for end in range(len(key), 0, -1) if spell(key[:end]) in sources), "")
    origin = origin or str(path or "")
    start = f"{origin}: " if origin else ""
    if not key:
        return [start + problem for problem in re.split(r"\n(?! )", message)]  # indented lines are what to write
    model, title = _table_at(key[:-1])
    where = f" in {title}" if title else ""
    if told["type"] == "extra_forbidden":
        guess = difflib.get_close_matches(str(key[-1]), model.model_fields, 1)
        hint = f"; did you mean `{guess[0]}`?" if guess else ""
        return [f"{start}unknown key `{key[-1]}`{where}{hint}"]
    if told["type"] == "missing":
        return [f"{start}`{key[-1]}`{where} is missing"]
    if told["type"] == "too_short":
        message = "is empty"
    message = message.replace("Input should be", "should be").split(", unable to parse")[0]
    whole, whole_title = _table_at(key)
    named = next((part for part in reversed(key) if isinstance(part, str)), "")
    word = named in model.model_fields  # of a list of words
    if whole is not model or (isinstance(key[-1], int) and whole_title and not word):  # the check of a whole table
        return [f"{start}{whole_title}: {message}"]
    return [f"{start}`{named}`{where}: {message}"]


def _places(value: Any) -> Iterator[SecretPlace]:
    if isinstance(value, SecretPlace):
        yield value
    elif isinstance(value, BaseModel):
        for name in (*type(value).model_fields, *(value.model_extra or {})):
            yield from _places(getattr(value, name))
    elif isinstance(value, tuple):
        for row in cast(tuple[Any, ...], value):
            yield from _places(row)


def _warnings(settings: Settings) -> Iterator[str]:
    for secret in _places(settings):
        if secret.warning():
            yield secret.warning()
    for pool in settings.pool:
        if not pool.signed:
            yield f"pool {pool.name}: `signed = false`, so nothing proves what its jobs run in; every lease wears a red mark"
    if settings.pool and not settings.repository:
        yield 'no [[repository]] is named, so no job is served: add one, for example match = "acme/*"'
    if settings.pool and not settings.provider:
        yield "no [[provider]] is named, so no pool can get a machine"
    if settings.pool and not settings.forges:
        yield "no forge is set up ([github], [gitlab], [gitea] or [forgejo]), so no job can come"
    polled = sorted(name for name, forge in settings.forges.items() if forge.intake == "poll")
    for rule in settings.repository if polled else ():
        if set(rule.match.partition("/")[0]) & set("*?["):
            what = f"{', '.join(polled)} cannot be asked for its repositories"
            yield f'[[repository]] `match = "{rule.match}"` names no owner, so {what}: name each owner, as in acme/*'
