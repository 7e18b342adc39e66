"""The kinds of value that settings are made of: prices, labels, names, web addresses, paths and secrets."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from app.settings.secrets import HOW, SecretPlace

_folder: ContextVar[Path] = ContextVar("folder that relative paths in the settings start from", default=Path())


@contextmanager
def paths_from(folder: Path) -> Generator[None]:
    """While it lasts, relative paths that are read start from `folder`."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def folder() -> Path:
    """Where relative paths start that are read now."""
    return _folder.get()


class Section(BaseModel):
    """One table of the settings file: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, arbitrary_types_allowed=True, str_strip_whitespace=True
    )


def table(value: Any) -> dict[str, Any] | None:
    """A copy of a TOML table, whose keys are text; None for anything else."""
    return dict(cast(dict[str, Any], value)) if isinstance(value, dict) else None


def place(value: Any) -> SecretPlace:
    """A secret's address from its text. Raises ValueError, which never repeats the text."""
    if isinstance(value, SecretPlace):
        return value
    if not isinstance(value, str):
        raise ValueError(f"a secret is never written in place: {HOW}")
    return SecretPlace(value.strip(), folder=_folder.get())


def _price(value: Any) -> Decimal:
    if isinstance(value, float):
        raise ValueError('a price is written as text, for example "9.50", so that it stays exact')
    try:
        price = Decimal(value if isinstance(value, Decimal | int) else str(value))
    except InvalidOperation:
        raise ValueError('a price is a plain number in quotes, for example "9.50"') from None
    if not price.is_finite() or price < 0 or price > 100_000:
        raise ValueError("a price lies between 0 and 100000")
    return price


def _path(value: Any) -> Any:
    return _folder.get() / Path(value).expanduser() if isinstance(value, str) else value


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine only."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a web address begins with https:// and a host name")
    if parts.username or parts.password:
        raise ValueError("a web address holds no user name and no password")
    if parts.query or parts.fragment:
        raise ValueError("a web address has no ? and no # part here")
    if parts.scheme != "https" and not is_loopback(parts.hostname):
        raise ValueError("must begin with https://: tokens travel over it (http is for this machine only)")
    return value.rstrip("/")


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", value):
        raise ValueError("a name is made of a-z, 0-9 and inner hyphens, at most 63 characters")
    return value


def _label(value: str) -> str:
    if not value or len(value) > 100 or "," in value or not value.isprintable():
        raise ValueError("a label has 1 to 100 printable characters and no comma")
    return value.lower()


def _addition(value: str) -> str:
    value = value.lower()
    if value in ("spot", "burst") or re.fullmatch(
        r"region:[a-z0-9][a-z0-9._-]*|gpu:[a-z0-9][a-z0-9._-]*|gpus:[1-9][0-9]?", value
    ):
        return value
    raise ValueError('a job may add "spot", "burst", "region:NAME", "gpu:NAME" or "gpus:NUMBER" (at most that many)')


_AS_TEXT = PlainSerializer(str, return_type=str, when_used="always")

SecretField = Annotated[
    SecretPlace,
    BeforeValidator(place),
    _AS_TEXT,
    WithJsonSchema({"type": "string", "pattern": "^(env|file|cmd):", "title": "secret"}),
]
Price = Annotated[
    Decimal,
    BeforeValidator(_price),
    _AS_TEXT,
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?$", "title": "price"}),
]
FilePath = Annotated[Path, BeforeValidator(_path), _AS_TEXT]
WebAddress = Annotated[str, AfterValidator(_web_address)]
Name = Annotated[str, AfterValidator(_name)]
Label = Annotated[str, AfterValidator(_label)]
Addition = Annotated[str, AfterValidator(_addition)]
Words = Annotated[str, Field(max_length=500)]
