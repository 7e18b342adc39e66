"""Kinds that packages bring by entry points, and their settings: what TOML can say, fitted to the fields of a dataclass.

Providers and forges share it: each has a group of its own (`providers.registry`, `app.forges.registry`).
"""

import dataclasses
import difflib
import importlib.metadata
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from pathlib import Path
from typing import Any, cast

from providers.contract import Secret

DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?")
UNITS: Mapping[str, float] = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
WORDS: Mapping[object, str] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Decimal: "a number",
    Path: "a path",
    list: "a list",
    dict: "a table",
}


class Misfit(ValueError):
    """One value does not fit its field."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A class that is installed and was written for the contract of its group."""

    kind: str
    build: type[Any]
    settings: type[Any]
    package: str  # the distribution it came with, and its version

    @property
    def fields(self) -> Mapping[str, Any]:
        """Setting -> its type."""
        hints = typing.get_type_hints(self.settings)
        return {field.name: hints[field.name] for field in dataclasses.fields(self.settings) if field.init}

    @property
    def required(self) -> Sequence[str]:
        """The settings without a default."""
        return [field.name for field in dataclasses.fields(self.settings) if field.init and not _has_default(field)]

    @property
    def secrets(self) -> frozenset[str]:
        """The settings that must come as `Secret`."""
        return frozenset(name for name, hint in self.fields.items() if hint is Secret or Secret in typing.get_args(hint))


@dataclass(frozen=True, slots=True)
class Installed:
    kinds: Mapping[str, Kind]
    broken: Mapping[str, str]  # kind -> a sentence that says why it cannot be used


def find(
    group: str, load: Callable[[importlib.metadata.EntryPoint], Kind], points: Iterable[importlib.metadata.EntryPoint] | None
) -> Installed:
    """Every kind of the group. Loads the plugins' modules; one that cannot be loaded is named, and stops nobody else."""
    found = importlib.metadata.entry_points(group=group) if points is None else points
    kinds: dict[str, Kind] = {}
    broken: dict[str, str] = {}
    claimed: dict[str, str] = {}
    for point in sorted(found, key=lambda point: (point.name, point.value)):
        if claimed.setdefault(point.name, point.value) != point.value:
            broken[point.name] = f"two packages claim it: {claimed[point.name]} and {point.value}"
            kinds.pop(point.name, None)
            continue
        try:
            kinds[point.name] = load(point)
        except Exception as error:  # noqa: BLE001  a stranger's module may raise anything; it is named, others go on
            broken[point.name] = f"{point.value} cannot be loaded: {type(error).__name__}: {error}"[:300]
    return Installed(kinds, broken)


def kind_of(
    point: importlib.metadata.EntryPoint, loaded: object, verbs: Iterable[str], reserved: frozenset[str], table: str
) -> Kind:
    """The kind that a class is, if it has the verbs and a frozen dataclass `Settings` without what every `table` has already.

    Raises TypeError."""
    if not isinstance(loaded, type):
        raise TypeError("it is not a class")
    missing = [verb for verb in verbs if not callable(getattr(loaded, verb, None))]
    if missing:
        raise TypeError(f"it lacks {', '.join(missing)}")
    settings: Any = getattr(loaded, "Settings", None)
    if not isinstance(settings, type) or not dataclasses.is_dataclass(settings):
        raise TypeError("its Settings is not a dataclass")
    if not cast("Any", settings).__dataclass_params__.frozen:
        raise TypeError("its Settings is not frozen")
    package = f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value
    kind = Kind(point.name, loaded, settings, package)
    taken = reserved & kind.fields.keys()
    if taken:
        raise TypeError(f"its Settings has a field {min(taken)!r}, which every {table} table has already")
    return kind


def settled(where: str, plugin: Kind, values: Mapping[str, Any]) -> Any:
    """The kind's `Settings` out of a table's keys. Raises `Misfit`: it begins with `where` and tells every problem."""
    fields, problems, given = plugin.fields, list[str](), dict[str, Any]()
    for key, value in values.items():
        if key not in fields:
            problems.append(f"unknown setting {key!r}{meant(key, fields)}; it knows {', '.join(sorted(fields)) or 'none'}")
            continue
        try:
            given[key] = fit(value, fields[key])
        except Misfit as error:
            problems.append(f"{key} {error}")
    problems += [f"{key} is missing" for key in plugin.required if key not in values]
    if problems:
        raise Misfit(f"{where}: " + "; ".join(problems))
    try:
        return plugin.settings(**given)
    except (ValueError, TypeError) as error:
        raise Misfit(without(values, f"{where}: {error}")) from None


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def meant(word: str, known: Iterable[str]) -> str:
    """The known word that was perhaps meant."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def no_such_kind(kind: str, kinds: Iterable[str]) -> str:
    """The sentence for a kind that nobody installed."""
    known = sorted(kinds)
    return f"there is no such kind{meant(kind, known)}. Installed: {', '.join(known) or 'none'}"


def without(values: Mapping[str, Any], text: str) -> str:
    """A plugin's own error text may quote what it was given."""
    for value in values.values():
        if isinstance(value, Secret) and value:
            text = text.replace(value.reveal(), "***")
    return text


def fit(value: object, hint: Any) -> Any:
    """The value as the field's type has it, from what TOML can say. Raises `Misfit`, which names types, never values."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _fit_any(value, arguments)
    if origin is tuple or origin is list or origin is Sequence:
        if not isinstance(value, list | tuple):
            raise Misfit(f"is a list, not {_word(value)}")
        return tuple(fit(item, arguments[0]) for item in cast("Sequence[object]", value))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise Misfit(f"is a table, not {_word(value)}")
        return {str(key): fit(item, arguments[1]) for key, item in cast("Mapping[object, object]", value).items()}
    if hint is Secret:
        if isinstance(value, Secret):
            return value
        raise Misfit("is a secret: say env:NAME, file:PATH or cmd:..., never the value itself")
    if isinstance(value, Secret):  # a plain setting may come by reference too
        value = value.reveal()
    if hint is Any:
        return value
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _fit_enum(value, hint)
    return _fit_plain(value, hint)


def _fit_any(value: object, arguments: Sequence[Any]) -> Any:
    if value is None and types.NoneType in arguments:
        return None
    problems: list[str] = []
    for argument in arguments:
        if argument is not types.NoneType:
            try:
                return fit(value, argument)
            except Misfit as error:
                problems.append(str(error))
    raise Misfit(" or ".join(problems))


def _fit_enum(value: object, hint: type[Enum]) -> Enum:
    try:
        return hint(value)
    except ValueError:
        words = [str(member.value) for member in hint]
        raise Misfit(f"is one of {', '.join(words)}{meant(str(value), words)}") from None


def _fit_plain(value: object, hint: Any) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if hint is str and isinstance(value, str):
        return value
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and whole:
        return value
    if hint is float and (whole or isinstance(value, float)):
        return float(cast("float", value))
    if hint is Path and isinstance(value, str | Path):
        return Path(value).expanduser()
    if hint is Decimal and (whole or isinstance(value, str | float | Decimal)):
        try:
            number = Decimal(str(value))
        except InvalidOperation:
            raise Misfit("is not a number") from None
        if number.is_finite():
            return number
        raise Misfit("is not a finite number")
    if hint is timedelta:
        return _duration(value)
    raise Misfit(f"is {WORDS.get(hint, str(hint))}, not {_word(value)}")


def _duration(value: object) -> timedelta:
    """Seconds, or a text such as "90 s", "5 min", "2h"."""
    if isinstance(value, timedelta):
        return value
    match = (
        DURATION.fullmatch(str(value).strip()) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    )
    if match is None:
        raise Misfit('is a duration: seconds, or a text such as "90 s", "5 min", "2 h"')
    return timedelta(seconds=float(match[1]) * UNITS[match[2] or "s"])


def _word(value: object) -> str:
    return WORDS.get(type(value), type(value).__name__)
