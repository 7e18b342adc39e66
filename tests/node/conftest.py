"""A machine (a folder that every user can reach), a service on loopback, and the real routes on a fresh database."""

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from app.store.db import Database
from tests.node.agents import open_folder
from tests.node.guarded import Ward, guarded
from tests.node.service import Service, serving
from tests.node.site import Site
from tests.parts.reopened import reopened


@pytest.fixture
def machine() -> Generator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture
def service() -> Generator[Service]:
    with serving() as service:
        yield service


@pytest.fixture(scope="session")
def ward() -> Generator[Ward]:
    """A guarded engine, shared by the tests of a worker."""
    with guarded() as made:
        yield made


@pytest.fixture
def db(sqlite_url: str) -> Generator[Database]:
    with reopened(sqlite_url) as opened:
        yield opened


@pytest.fixture
async def site(db: Database, tmp_path: Path) -> AsyncGenerator[Site]:
    made = Site(db, tmp_path)
    async with made.client:
        yield made
