"""Which pool a job's labels mean, and what they may ask: a label can lower, never raise."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.labels import match, sharpen
from app.core.model import Ask
from providers.contract import Need
from tests.core.values import pool

WIDE = pool(
    may_add=frozenset({"spot", "burst", "region:sg", "region:my", "gpus:4", "gpu:h100"}),
    need=Need(gpu="rubin", gpus=1, regions=frozenset({"sg", "my"}), max_price_per_hour=Decimal("9.50")),
)


@pytest.mark.parametrize(
    "labels", [["gpu", "rubin"], ["RUBIN", "Gpu"], ["gpu:rubin"], ["self-hosted", "linux", "x64", "gpu", "rubin"]]
)
def test_the_pools_labels_in_any_spelling_are_served(labels: list[str]) -> None:
    assert match(labels, [WIDE], "github").pool is WIDE


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ([], "no labels"),
        (["gpu"], "No pool serves"),
        (["ubuntu-latest"], "No pool serves"),
        (["gpu", "rubin", "windows"], "windows is not one that a job may add"),
        (["gpu", "rubin", "region:us"], "region:us"),
        (["gpu", "rubin", "gpus:5"], "gpus:5"),
        (["gpu", "rubin", "gpus:0"], "gpus:0"),
        (["gpu", "rubin", "gpus:²"], "gpus:²"),
        (["gpu", "rubin", "gpus:1", "gpus:2"], "gpus:2"),
        (["gpu", "rubin", "gpu:b200"], "gpu:b200"),
        (["gpu", "rubin", "x" * 300], "longer than"),
        ([f"l{n}" for n in range(30)], "more than 20"),
    ],
)
def test_anything_else_is_not_ours_and_says_why(labels: list[str], why: str) -> None:
    found = match(labels, [WIDE], "github")
    assert found.pool is None
    assert why in found.why_not


def test_a_pool_that_allows_nothing_adds_nothing() -> None:
    assert match(["gpu", "rubin", "spot"], [pool()], "github").pool is None


def test_a_pool_that_forbids_spot_is_not_talked_into_it() -> None:
    firm = pool(may_add=frozenset({"spot"}), need=Need(spot=False))
    assert match(["gpu", "rubin", "spot"], [firm], "github").pool is None


def test_a_pool_of_another_forge_does_not_serve() -> None:
    assert match(["gpu", "rubin"], [pool(forges=frozenset({"gitlab"}))], "github").pool is None


def test_what_a_job_asks_lies_over_the_pools_need() -> None:
    found = match(["gpu", "rubin", "spot", "burst", "region:sg", "gpus:4", "gpu:h100"], [WIDE], "github")
    assert found.ask == Ask(spot=True, burst=True, gpu="h100", gpus=4, regions=frozenset({"sg"}))
    need = sharpen(WIDE.need, found.ask)
    assert (need.gpu, need.gpus, need.regions, need.spot) == ("h100", 4, frozenset({"sg"}), True)


@given(
    st.lists(
        st.sampled_from(
            ["gpu", "rubin", "spot", "burst", "region:sg", "region:us", "gpus:4", "gpus:99", "gpu:h100", "price:1000"]
        )
    )
)
def test_no_label_raises_a_limit(labels: list[str]) -> None:
    found = match(labels, [WIDE], "github")
    if found.pool is not None:
        need = sharpen(WIDE.need, found.ask, labels)
        assert need.max_price_per_hour == WIDE.need.max_price_per_hour
        assert need.gpus <= 4
        assert need.regions <= WIDE.need.regions
