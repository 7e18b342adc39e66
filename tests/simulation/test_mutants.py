"""A campaign that finds nothing proves nothing: each planted bug must be found, by the invariant that it breaks."""

from __future__ import annotations

import pytest

from tests.simulation import campaign
from tests.simulation.mutants import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_the_campaign_finds(mutant: Mutant) -> None:
    with mutant.planted():
        for result in campaign.play(mutant.seeds):
            if any(violation.startswith(mutant.found_as) for violation in result.violations):
                return
    pytest.fail(f"{mutant.name} ({mutant.does}) broke nothing in seeds {mutant.seeds}")


def test_there_are_at_least_ten() -> None:
    assert len(MUTANTS) >= 10
