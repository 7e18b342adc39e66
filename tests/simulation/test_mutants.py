"""A campaign that finds nothing proves nothing: each planted bug must be found, by an invariant that it breaks."""

from __future__ import annotations

import itertools

import pytest

from tests.simulation import campaign
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.test_campaign import SEEDS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_the_campaign_finds(mutant: Mutant) -> None:
    """Among the seeds of the default campaign; those that found it last are tried first, as every change moves the stories."""
    with mutant.planted(), campaign.stage() as here:
        for seed in itertools.chain(mutant.seeds, range(SEEDS)):
            if any(violation.startswith(mutant.found_as) for violation in here.play(seed).violations):
                return
    pytest.fail(f"{mutant.name}: what {mutant.does} broke nothing in {SEEDS} seeds")


def test_there_are_at_least_ten() -> None:
    assert len(MUTANTS) >= 10
