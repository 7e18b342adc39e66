"""Which offer is taken, and what is said of the others."""

from dataclasses import asdict
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.core.images import Mode, TrustRule
from app.core.model import Ask, Lease, Reason
from app.core.placement import Ban, bans, rank, reject
from app.core.states import State
from providers.contract import Availability, BootsFrom, Need, Offer, Traits
from tests.core.values import NOON, lease, offer, pool

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


def test_an_offer_that_failed_is_banned_longer_each_time_until_one_serves() -> None:
    def failed(number: int, **values: Any) -> Lease:
        return lease(number, State.RELEASED, provider="cloud", region="sg", offer=asdict(offer("x")), gone_at=NOON, **values)

    once = [failed(1, reason=Reason.BOOT_TIMEOUT)]
    assert bans(once, NOON, timedelta(minutes=1))[0].until == NOON + timedelta(minutes=1)
    twice = [*once, failed(2, reason=Reason.BAD_NODE)]
    assert bans(twice, NOON, timedelta(minutes=1))[0].until == NOON + timedelta(minutes=2)
    served = [*twice, failed(3, reason=Reason.JOB_DONE, job_started_at=NOON)]
    assert bans(served, NOON, timedelta(minutes=1)) == ()


def test_a_job_that_was_cancelled_says_nothing_against_the_machine() -> None:
    gone = lease(
        1, State.RELEASED, provider="cloud", region="sg", offer=asdict(offer("x")), gone_at=NOON, reason=Reason.JOB_GONE
    )
    assert bans([gone], NOON, timedelta(minutes=1)) == ()


def test_the_record_keeps_every_verdict_and_counts_rejections() -> None:
    ban = Ban("cloud", "a", "sg", NOON + timedelta(minutes=1), "1 failed lately")
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
