"""Real parts that tests use when the machine has them: a Docker engine, PostgreSQL, Chromium.

A test whose part is missing is skipped, and said so loudly in one list at the end of the run;
with REQUIRE=all (or a comma-separated list of parts) such a skip is a failure.
"""

import os
from typing import NoReturn

import pytest

missing: dict[str, str] = {}
"""part -> what to install; filled as tests ask, shown by conftest's summary."""


def required(part: str) -> bool:
    """Whether this run promised to have the part."""
    wanted = {word.strip() for word in os.environ.get("REQUIRE", "").split(",")}
    return "all" in wanted or part in wanted


def lacks(part: str, remedy: str) -> NoReturn:
    """End the calling test: the machine lacks a part. `remedy` is a sentence that says what to install."""
    missing[part] = remedy
    if required(part):
        pytest.fail(f"{part} is required by REQUIRE and is not here: {remedy}", pytrace=False)
    pytest.skip(f"{part} is not here: {remedy}")
