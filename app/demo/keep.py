"""The forge's book on disk: one JSON file, replaced as a whole, so that a kill at any moment loses nothing."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from app.demo.keys import private_file
from app.demo.nouns import Book

BOOK = TypeAdapter(Book)


class Shelf:
    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Book | None:
        """The book as it was last written; None if there is none. A file that cannot be read raises ValueError."""
        if not self._path.is_file():
            return None
        return BOOK.validate_json(self._path.read_bytes())

    def save(self, book: Book) -> None:
        private_file(self._path, BOOK.dump_json(book).decode())
