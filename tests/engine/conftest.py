"""Stories of the engine run on SQLite: where SQL differs, the store's own tests and the journeys see both databases."""

from collections.abc import Generator

import pytest

from app.store.db import Database
from tests.parts.reopened import reopened


@pytest.fixture
def database(sqlite_url: str) -> Generator[Database]:
    """The store on a fresh migrated SQLite file."""
    with reopened(sqlite_url) as opened:
        yield opened
