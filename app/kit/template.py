"""Words with places to fill in: `{name}` inside a word. Braces around anything else are left as they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_PLACE = re.compile(r"\{([a-z][a-z_]{0,30})\}")


def names(words: Iterable[str]) -> frozenset[str]:
    """The places that the words have."""
    return frozenset(name for word in words for name in _PLACE.findall(word))


def fill(words: Iterable[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """The words with every place filled in, each word still one word. A place without a value stays as it is."""
    return tuple(_PLACE.sub(lambda place: values.get(place[1], place[0]), word) for word in words)
