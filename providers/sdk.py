"""A vendor's SDK is an optional extra: it is imported when the first provider of its kind is built, and asked for by name."""

import importlib
from typing import Any


def sdk(module: str, extra: str) -> Any:
    """The module of an SDK. Raises ValueError, with what to install, where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"it needs {error.name or module}, which is not installed: `make install EXTRAS={extra}`, "
            f"or `pip install 'sublet[{extra}]'`"
        ) from None
