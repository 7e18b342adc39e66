"""Every key of the settings as a list: name, type, default, meaning and present value; for `config explain` and the docs."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from app.settings.load import variable
from app.settings.secrets import PublicPlace, SecretPlace
from app.settings.tree import Settings


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the file. `variable` is empty where a list of tables stands between: such lists are set whole."""

    name: str  # "pool.ceiling"
    table: str  # "[[pool]]", "[server]"; empty at the top
    kind: str
    default: str  # as the file would write it; empty: none
    meaning: str
    variable: str


def every_key() -> Iterator[Key]:
    """All keys, in the order of the file, those of a table together; providers' own keys are not among them."""
    for _, path, section, alone, many in _tables(Settings):
        title = _title(path, many)
        for name, field in section.model_fields.items():
            if _section(field)[0] is None:
                yield _key((*path, name), title, field, alone)


def meanings() -> dict[str, str]:
    """What each table is for, by its title."""
    return {
        _title(path, many): " ".join((field.description or "").split())
        for field, path, _, _, many in _tables(Settings)
        if field is not None
    }


def value_of(settings: Settings, key: Key) -> Iterator[tuple[str, object]]:
    """Where the key stands, and its value there; once for each row of a list of tables. Secrets show their place."""
    return _values(settings, key.name.split("."), "")


def _values(here: Any, path: list[str], at: str) -> Iterator[tuple[str, object]]:
    if isinstance(here, tuple):
        for number, row in enumerate(cast(tuple[BaseModel, ...], here)):
            yield from _values(row, path, f"{at}[{number}]")
    elif not path:
        yield at, shown(here)
    elif here is not None:
        inner = getattr(here, path[0])
        deeper = f"{at}.{path[0]}".lstrip(".")
        if len(path) == 1:
            yield deeper, shown(inner)
        else:
            yield from _values(inner, path[1:], deeper)


def shown(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, SecretPlace | Decimal | Path):
        return str(value)
    if isinstance(value, dict):
        return {str(key): shown(part) for key, part in cast(dict[Any, Any], value).items()}
    return [shown(part) for part in cast(tuple[Any, ...], value)] if isinstance(value, tuple) else value


def _title(path: tuple[str, ...], many: bool) -> str:
    """A table as the file heads it: `[server]`, `[[pool]]`; empty at the top."""
    name = ".".join(path)
    return "" if not name else f"[[{name}]]" if many else f"[{name}]"


def _tables(
    section: type[BaseModel],
    path: tuple[str, ...] = (),
    alone: bool = True,
    field: FieldInfo | None = None,
    many: bool = False,
) -> Iterator[tuple[FieldInfo | None, tuple[str, ...], type[BaseModel], bool, bool]]:
    """Every table and list of tables: its field, its path, its section, whether it stands in no list, and is one itself."""
    yield field, path, section, alone, many
    for name, below in section.model_fields.items():
        inner, listed = _section(below)
        if inner is not None:
            yield from _tables(inner, (*path, name), alone and not listed, below, listed)


def _section(field: FieldInfo) -> tuple[type[BaseModel] | None, bool]:
    """The table that a field holds, and whether there may be many of it."""
    annotation: Any = field.annotation
    for part in (annotation, *typing.get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part, typing.get_origin(annotation) is tuple
    return None, False


def _key(path: tuple[str, ...], table: str, field: FieldInfo, alone: bool) -> Key:
    default = "" if field.is_required() or field.default is None else _toml(field.default)
    meaning = " ".join((field.description or "").split())
    return Key(".".join(path), table, _words(field.annotation), default, meaning, variable(path) if alone else "")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, dict):
        return "{}"
    return "[]" if isinstance(value, tuple) else f'"{value}"'


def _words(annotation: Any) -> str:
    """A type in words that a reader of the file knows."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " or ".join(f'"{word}"' for word in arguments)
    if origin is typing.Annotated:
        return _words(arguments[0])
    if origin is dict:
        return f"table of {_words(arguments[1])}"
    if origin is tuple:
        return f"list of {_words(arguments[0])}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_words(part) for part in arguments if part is not type(None)))
    names = {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
        Path: "path",
        Decimal: "price",
        SecretPlace: "secret",
        PublicPlace: "public key",
    }
    return names.get(annotation, "text")
