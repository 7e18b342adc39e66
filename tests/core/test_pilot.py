"""A pilot's need and pool: what it may rent is its provider's, its caller's and its pool's word together."""

from __future__ import annotations

from decimal import Decimal

import pytest

from app.core.images import Mode, TrustRule
from app.core.model import Demand, DemandKey, Lease, Pool
from app.core.pilot import AT_MOST, USUAL, base_of, is_pilot, key_of, need_of, pilot_pool, pool_of
from app.core.policy import Snapshot, decide
from app.core.states import State
from providers.contract import Need
from tests.core.values import KEY, NOON, TRAIN, lease, pool

FIVE, TWO = Decimal(5), Decimal(2)


@pytest.mark.parametrize("base", ["", "gpu", "gpu-rubin"])
def test_its_key_names_its_pool_and_no_forge(base: str) -> None:
    key = key_of(base)
    assert is_pilot(key) and base_of(key) == base and key.pool.endswith("(pilot)") and key.forge == ""


def test_no_demand_has_such_a_key() -> None:
    assert not is_pilot(KEY) and not is_pilot(DemandKey("(pilot)", "github", TRAIN, ("gpu",)))


def test_without_a_pool_it_takes_any_machine_and_with_a_gpu_any_that_has_one() -> None:
    assert need_of(None, gpu=None, region=None, gpus=True, most=FIVE) == Need(gpus=1, max_price_per_hour=FIVE)
    assert need_of(None, gpu=None, region=None, gpus=False, most=FIVE) == Need(max_price_per_hour=FIVE)
    asked = need_of(None, gpu="h100", region="DE", gpus=False, most=None)
    assert asked == Need(gpu="h100", gpus=1, regions=frozenset({"de"}), gpu_architecture="Hopper")


def test_a_pools_limits_can_be_lowered_and_never_raised() -> None:
    base = pool(need=Need(gpu="h100", gpus=4, memory_gib=64, regions=frozenset({"sg", "de"}), max_price_per_hour=TWO))
    asked = need_of(base, gpu="H100", region="sg", gpus=True, most=FIVE)
    assert (asked.gpus, asked.memory_gib, asked.regions, asked.max_price_per_hour) == (4, 64, frozenset({"sg"}), TWO)
    assert need_of(base, gpu=None, region=None, gpus=True, most=Decimal(1)).max_price_per_hour == 1
    with pytest.raises(ValueError, match="The pool gpu rents h100, and no b200"):
        need_of(base, gpu="b200", region=None, gpus=True, most=FIVE)
    with pytest.raises(ValueError, match="The pool gpu rents in de, sg, and not in us"):
        need_of(base, gpu=None, region="us", gpus=True, most=FIVE)


def test_it_rents_from_one_provider_and_runs_the_image_of_the_pool_that_it_names() -> None:
    trust = TrustRule()
    base = pool("train", image="registry/train:1", trust=trust, mode=Mode.CONTAINED, machine_image="ubuntu")
    made = pilot_pool(key_of("train"), Need(gpus=1), "cloud", {"train": base})
    assert (made.image, made.trust, made.mode, made.machine_image) == ("registry/train:1", trust, Mode.CONTAINED, "ubuntu")
    assert (made.providers, made.need, made.max_duration, made.usual) == (("cloud",), Need(gpus=1), AT_MOST, USUAL)
    assert pool_of(lease(1, key=key_of("train"), provider="cloud", need=Need(gpus=1)), {"train": base}) == made
    gone = pilot_pool(key_of("train"), Need(gpus=1), "cloud", {})
    assert (gone.image, gone.trust, gone.name) == (None, None, "train (pilot)")


def a_draw(key: DemandKey, demand: Demand, pool: Pool, attempt: int) -> Lease:
    return lease(9)


@pytest.mark.parametrize("state", [State.PLANNED, State.LAUNCHING, State.BOOTING, State.PROVING])
def test_policy_neither_drains_it_nor_counts_on_it(state: State) -> None:
    alive = (lease(1, state, key=key_of()), lease(2, state, key=key_of("gpu")))
    plan = decide(Snapshot((), alive, {"gpu": 0}, (), NOON), {"gpu": pool()}, a_draw)
    assert plan.drain == () and plan.new == ()
    other = decide(Snapshot((), (lease(3, state),), {"gpu": 1}, (), NOON), {"gpu": pool()}, a_draw)
    assert [one for one, *_ in other.drain] == [lease(3).id], "one for jobs would be given back"
