"""A machine (a folder that every user can reach) and a service on loopback."""

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.node.agents import open_folder
from tests.node.service import Service, serving


@pytest.fixture
def machine() -> Generator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture
def service() -> Generator[Service]:
    with serving() as service:
        yield service
