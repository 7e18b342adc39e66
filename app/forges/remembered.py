"""What a listing told last, with its ETag: whoever asks again with it learns for little that nothing changed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

MOST = 4000  # pages
LONGEST_ETAG = 200


class Remembered:
    """Pages by what was asked. Safe to share between threads; the least used are forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pages: OrderedDict[Hashable, tuple[str, object]] = OrderedDict()

    def find(self, question: Hashable) -> tuple[str, object]:
        """The ETag and what was read from the page; an empty ETag: nothing is known, so ask without."""
        with self._lock:
            if question in self._pages:
                self._pages.move_to_end(question)
            return self._pages.get(question, ("", None))

    def keep(self, question: Hashable, etag: str, found: object) -> None:
        """A page as it was just read; without an ETag what was known of it is forgotten."""
        with self._lock:
            self._pages.pop(question, None)
            if etag and len(etag) <= LONGEST_ETAG:
                self._pages[question] = (etag, found)
                while len(self._pages) > MOST:
                    self._pages.popitem(last=False)
