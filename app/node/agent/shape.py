"""Parsed JSON of strangers: take the part that is wanted, or nothing."""

from __future__ import annotations

from typing import Any, cast


def table(value: object) -> dict[str, Any]:
    """The value itself if it is an object, else an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def items(value: object) -> list[Any]:
    """The value itself if it is a list, else an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def texts(value: object) -> dict[str, str] | None:
    """The value itself if it is an object whose values are all texts."""
    found = table(value)
    return found if isinstance(value, dict) and all(isinstance(text, str) for text in found.values()) else None
