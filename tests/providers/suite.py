"""The conformance suite as the cases of a test: one for each check that a bench can stand up."""

import pytest

from providers.conformance import CHECKS, Fault


def suite(faults: frozenset[Fault], *words: str) -> pytest.MarkDecorator:
    """The checks that need no other faults; with `words`, only those that have one of them in their name."""
    checks = [check for check in CHECKS if check.applies_to(faults)]
    if words:
        checks = [check for check in checks if any(word in check.name for word in words)]
    assert checks
    return pytest.mark.parametrize("check", checks, ids=[check.name for check in checks])
