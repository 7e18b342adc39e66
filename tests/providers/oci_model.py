"""Judges JSON by the models of Oracle's own SDK: names, types, what is required, which words are allowed."""

import functools
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from providers.sdk import sdk

ALLOWED = re.compile(r"Allowed values for this property are: ([^\n]*)")
WORD = re.compile(r'"([^"]+)"')
PLAIN: Mapping[str, tuple[type, ...]] = {"str": (str,), "bool": (bool,), "int": (int,), "float": (int, float)}


def misfit(kind: str, value: object, where: str = "") -> str:
    """What is wrong with the value as a `kind` of the SDK ("Instance", "list[Shape]", "dict(str, str)"); empty: nothing."""
    where = where or kind
    if kind.startswith("list["):
        if not isinstance(value, list):
            return f"{where} is no list"
        rows = cast("list[object]", value)
        return next(filter(None, (misfit(kind[5:-1], row, f"{where}[{at}]") for at, row in enumerate(rows))), "")
    if kind.startswith("dict("):
        return _misfit_in_dict(kind[5:-1].partition(", ")[2], value, where)
    if kind in PLAIN:
        good = isinstance(value, PLAIN[kind]) and (kind == "bool" or not isinstance(value, bool))
        return "" if good else f"{where} is no {kind}"
    if kind == "object":
        return ""
    if kind == "datetime":
        return "" if isinstance(value, str) and _is_time(value) else f"{where} is no time"
    return _misfit_in_model(kind, value, where)


def _misfit_in_dict(kind: str, value: object, where: str) -> str:
    if not isinstance(value, dict):
        return f"{where} is no object"
    found = cast("dict[object, object]", value).items()
    return next(filter(None, (misfit(kind, item, f"{where}.{name}") for name, item in found)), "")


def _misfit_in_model(kind: str, value: object, where: str) -> str:
    if not isinstance(value, dict):
        return f"{where} is no object"
    given = cast("dict[str, object]", value)
    model = _model(kind)
    if hasattr(model, "get_subtype"):  # told by a word of its own, such as `sourceType`
        model = _model(model.get_subtype(given))
    empty = model()
    names: dict[str, str] = {written: name for name, written in empty.attribute_map.items()}
    unknown = sorted(set(given) - set(names))
    if unknown:
        return f"{where} has {unknown[0]!r}, which {model.__name__} does not know"
    for written, name in names.items():
        about = getattr(model, name).__doc__ or ""
        if given.get(written) is None:
            if "**[Required]**" in about:
                return f"{where} lacks {written}"
            continue
        wrong = misfit(empty.swagger_types[name], given[written], f"{where}.{written}")
        allowed = ALLOWED.search(about)
        if not wrong and allowed and given[written] not in WORD.findall(allowed[1]):
            wrong = f"{where}.{written} is {given[written]!r}, which is none of its words"
        if wrong:
            return wrong
    return ""


@functools.cache
def _model(kind: str) -> Any:
    core, identity = sdk("oci.core.models", "oci"), sdk("oci.identity.models", "oci")
    return getattr(core, kind, None) or getattr(identity, kind)


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
