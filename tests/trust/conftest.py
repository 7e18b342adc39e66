"""The scene of a story, closed when it ends."""

from collections.abc import AsyncGenerator

import pytest

from tests.trust.scene import Scene


@pytest.fixture
async def scene() -> AsyncGenerator[Scene]:
    made = Scene()
    yield made
    await made.aclose()
