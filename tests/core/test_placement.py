"""Which offer is taken, and what is said of the others."""

from datetime import timedelta
from decimal import Decimal

import pytest

from app.core.cooling import Cooldown
from app.core.images import Mode, TrustRule
from app.core.model import Ask
from app.core.placement import rank, reject
from providers.contract import Availability, BootsFrom, Need, Offer, Traits
from tests.core.values import NOON, offer, pool

HOURLY = Traits(billing_granularity=timedelta(hours=1))


def test_own_hosts_come_first_then_the_lowest_expected_bill() -> None:
    offers = [
        offer("cheap-hourly", "1.50", provider="hourly"),
        offer("exact", "2"),
        offer("own", "5", own=True, provider="rack"),
    ]
    placed = rank(Need(), Ask(), pool(), offers, {"hourly": HOURLY}, (), NOON)
    assert [chosen.id for chosen in placed.ranked] == ["own", "exact", "cheap-hourly"]


@pytest.mark.parametrize(
    ("need", "bad", "rule"),
    [
        (Need(gpu="rubin", gpus=1), offer("x", gpu="h100", gpus=1), "gpu"),
        (Need(gpu="rubin", gpus=4), offer("x", gpu="RUBIN", gpus=1), "gpu-count"),
        (Need(gpu_memory_gib=80), offer("x", gpu_memory_gib=40), "gpu-memory"),
        (Need(architecture="arm64"), offer("x"), "architecture"),
        (Need(regions=frozenset({"my"})), offer("x"), "region"),
        (Need(spot=False), offer("x", spot=True), "spot"),
        (Need(max_price_per_hour=Decimal("1.99")), offer("x", "2"), "price"),
        (Need(), offer("x", availability=Availability.NONE), "capacity"),
        (Need(memory_gib=64), offer("x", memory_gib=32), "memory"),
        (Need(disk_gib=64), offer("x", disk_gib=32), "disk"),
    ],
)
def test_every_rejection_names_its_rule(need: Need, bad: Offer, rule: str) -> None:
    found = reject(bad, need, Ask(), pool(), (), NOON)
    assert found is not None
    assert found[0] == rule


def test_a_country_counts_as_a_region() -> None:
    assert reject(offer("x", region="ap-1", country="SG"), Need(regions=frozenset({"sg"})), Ask(), pool(), (), NOON) is None


def test_a_pool_may_rent_only_for_jobs_that_say_burst() -> None:
    careful = pool(rent_on_burst_only=True)
    assert reject(offer("x"), Need(), Ask(), careful, (), NOON) == ("burst", "rented machines are only for jobs that say burst")
    assert reject(offer("x"), Need(), Ask(burst=True), careful, (), NOON) is None
    assert reject(offer("x", own=True), Need(), Ask(), careful, (), NOON) is None


def test_the_record_keeps_every_verdict_and_counts_rejections() -> None:
    ban = Cooldown("cloud", "sg", "a", "a", NOON, NOON + timedelta(minutes=1), 1, "1 failed lately")
    placed = rank(
        Need(max_price_per_hour=Decimal(3)), Ask(), pool(), [offer("a"), offer("b"), offer("c", "9")], {}, (ban,), NOON
    )
    record = placed.record(placed.ranked[0])
    assert (record["seen"], record["passed"]) == (3, 1)
    assert record["chosen"] == {"provider": "cloud", "offer": "b"}
    assert record["rejected"] == {"cooling-down": 1, "price": 1}
    assert [verdict["passed"] for verdict in record["verdicts"]] == [True, False, False]


def test_a_machine_that_the_image_was_not_built_for_is_not_rented() -> None:
    offers = [offer("x86"), offer("arm", "1", architecture="arm64")]
    placed = rank(Need(), Ask(), pool(), offers, {}, (), NOON, built_for={"amd64"})
    assert [chosen.id for chosen in placed.ranked] == ["x86"]
    (no,) = [verdict for verdict in placed.verdicts if not verdict.passed]
    assert (no.rule, no.detail) == ("image", "is arm64, the image is built for amd64")


def test_a_guarded_pool_needs_a_machine_and_no_container() -> None:
    traits = {"cloud": Traits(boots_from=BootsFrom.CONTAINER_IMAGE)}
    guarded = pool(mode=Mode.GUARDED, trust=TrustRule())
    assert rank(Need(), Ask(), guarded, [offer("a")], traits, (), NOON).record(None)["rejected"] == {"mode": 1}
    assert len(rank(Need(), Ask(), pool(mode=Mode.CONTAINED), [offer("a")], traits, (), NOON).ranked) == 1


def test_spot_comes_first_where_the_pool_wants_it_so_and_on_demand_where_none_passes() -> None:
    offers = [offer("exact", "1"), offer("reclaimable", "2", spot=True)]
    placed = rank(Need(), Ask(), pool(spot_first=True), offers, {}, (), NOON)
    assert [one.id for one in placed.ranked] == ["reclaimable", "exact"]
    assert [one.id for one in rank(Need(), Ask(), pool(), offers, {}, (), NOON).ranked] == ["exact", "reclaimable"]


def test_a_provider_that_is_closed_is_turned_down_with_its_reason() -> None:
    closed = {"cloud": ("paused", "paused by ann")}
    placed = rank(Need(), Ask(), pool(), [offer("a"), offer("b", provider="rack")], {}, (), NOON, closed=closed)
    assert [one.id for one in placed.ranked] == ["b"]
    assert (placed.verdicts[1].rule, placed.verdicts[1].detail) == ("paused", "paused by ann")


def test_the_usual_time_of_the_jobs_decides_what_a_minimum_costs() -> None:
    offers = [offer("hourly", "1.50", provider="hourly"), offer("exact", "2")]
    short = rank(Need(), Ask(), pool(), offers, {"hourly": HOURLY}, (), NOON, usual=timedelta(minutes=20))
    long = rank(Need(), Ask(), pool(), offers, {"hourly": HOURLY}, (), NOON, usual=timedelta(hours=2))
    assert (short.ranked[0].id, long.ranked[0].id) == ("exact", "hourly")
    assert [verdict.expected for verdict in long.verdicts] == [Decimal("3.00"), Decimal(4)]
    assert long.record(None)["usual_minutes"] == 120
