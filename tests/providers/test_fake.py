"""The fake: how it lies, stalls and loses replies on request, what it bills, and that it repeats itself from a seed."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from providers.contract import Availability, Need, NoCapacity, Phase, ProviderError, Refused, Throttled, Unclear
from providers.fake import FakeProvider, FakeSettings
from providers.fake_cloud import Trouble
from tests.providers.benches import FakeBench, ManualClock, Orders

MINUTE = timedelta(minutes=1)


def stand(**settings: object) -> tuple[FakeProvider, ManualClock, Orders]:
    clock = ManualClock()
    provider = FakeProvider("fake", FakeSettings(**settings), clock=clock)  # pyright: ignore[reportArgumentType]
    return provider, clock, Orders(provider.cloud.shelf[0], now=clock.now())


async def test_a_machine_boots_runs_and_ends_by_the_clock() -> None:
    provider, clock, order = stand(boot=20 * timedelta(seconds=1), ending=MINUTE)
    instance = await provider.create(order())
    assert instance.phase is Phase.STARTING
    clock.time += timedelta(seconds=20)
    running = await provider.get(instance.id)
    assert running is not None
    assert running.phase is Phase.RUNNING
    await provider.destroy(instance.id)
    ending = await provider.get(instance.id)
    assert ending is not None
    assert ending.phase is Phase.DESTROYING
    clock.time += MINUTE
    assert await provider.get(instance.id) is None


async def test_the_invoice_counts_from_creation_to_absence_by_granularity_and_minimum() -> None:
    provider, clock, order = stand(price_per_hour=Decimal("3.60"), granularity=MINUTE, minimum=10 * MINUTE)
    short, long = await provider.create(order()), await provider.create(order())
    clock.time += timedelta(seconds=61)
    await provider.destroy(short.id)
    clock.time += timedelta(minutes=24)
    invoice = provider.cloud.invoice()
    assert [line.billed for line in invoice.lines] == [10 * MINUTE, 26 * MINUTE]
    assert [line.amount for line in invoice.lines] == [Decimal("0.60"), Decimal("1.56")]
    assert (invoice.total, invoice.currency) == (Decimal("2.16"), "USD")
    assert provider.cloud.invoice(clock.now() - timedelta(minutes=24)).total == Decimal("1.20")
    assert {line.machine for line in invoice.lines} == {short.id, long.id}


async def test_an_amount_is_rounded_to_the_cent_and_kept_exact_beside_it() -> None:
    provider, clock, order = stand(price_per_hour=Decimal("1.99"))
    await provider.create(order())
    clock.time += timedelta(seconds=100)
    invoice = provider.cloud.invoice()
    assert invoice.total == Decimal("0.06")
    assert invoice.exact.quantize(Decimal("0.000001")) == Decimal("0.055278")


async def test_a_price_is_fixed_at_creation() -> None:
    provider, clock, order = stand(price_per_hour=Decimal("1.00"))
    await provider.create(order())
    provider.cloud.price("fake-1", Decimal("9.00"))
    assert (await provider.offers(Need()))[0].price_per_hour == Decimal("9.00")
    await provider.create(order())
    clock.time += timedelta(hours=1)
    assert [line.amount for line in provider.cloud.invoice().lines] == [Decimal("1.00"), Decimal("9.00")]


async def test_a_late_create_appears_after_its_delay() -> None:
    provider, clock, order = stand()
    wanted = order()
    provider.cloud.faults.script("create", Trouble.LATE, wait=MINUTE)
    with pytest.raises(Unclear) as caught:
        await provider.create(wanted)
    assert caught.value.maybe_created
    assert not await provider.owned(order.owner)
    clock.time += MINUTE
    assert [instance.tag for instance in await provider.owned(order.owner)] == [wanted.tag]


@pytest.mark.parametrize(("honours_keys", "machines"), [(True, 1), (False, 2)])
async def test_a_late_create_beside_a_second_one_doubles_only_where_keys_are_not_honoured(
    honours_keys: bool, machines: int
) -> None:
    provider, clock, order = stand(honours_keys=honours_keys, unique_names=False)
    wanted = order()
    provider.cloud.faults.script("create", Trouble.LATE, wait=MINUTE)
    with pytest.raises(Unclear):
        await provider.create(wanted)
    await provider.create(wanted)
    clock.time += MINUTE
    assert len(await provider.owned(order.owner)) == machines


async def test_a_doubled_create_names_one_and_lists_two() -> None:
    provider, _, order = stand()
    provider.cloud.faults.script("create", Trouble.DOUBLED)
    named = await provider.create(order())
    listed = await provider.owned(order.owner)
    assert len(listed) == 2
    assert named.id in {instance.id for instance in listed}
    assert len({instance.tag for instance in listed}) == 1


async def test_a_lagging_list_shows_neither_the_newest_machine_nor_the_newest_end() -> None:
    provider, clock, order = stand()
    first = await provider.create(order())
    provider.cloud.faults.list_lag = MINUTE
    assert not await provider.owned(order.owner)
    assert await provider.get(first.id) is not None, "get does not lag"
    clock.time += MINUTE
    assert len(await provider.owned(order.owner)) == 1
    await provider.destroy(first.id)
    assert await provider.get(first.id) is None
    assert [instance.phase for instance in await provider.owned(order.owner)] == [Phase.DESTROYING]
    clock.time += MINUTE
    assert not await provider.owned(order.owner)


async def test_a_stuck_destroy_bills_on_until_it_ends() -> None:
    provider, clock, order = stand(price_per_hour=Decimal(60))
    instance = await provider.create(order())
    provider.cloud.faults.script("destroy", Trouble.STUCK, wait=10 * MINUTE)
    await provider.destroy(instance.id)
    clock.time += 9 * MINUTE
    stuck = await provider.get(instance.id)
    assert stuck is not None
    assert stuck.phase is Phase.DESTROYING
    clock.time += 5 * MINUTE
    assert await provider.get(instance.id) is None
    assert provider.cloud.invoice().total == Decimal("10.00")


async def test_an_ignored_destroy_does_nothing_and_the_next_one_works() -> None:
    provider, _, order = stand()
    instance = await provider.create(order())
    provider.cloud.faults.script("destroy", Trouble.IGNORED)
    await provider.destroy(instance.id)
    assert await provider.get(instance.id) is not None
    await provider.destroy(instance.id)
    assert await provider.get(instance.id) is None


async def test_a_stalled_call_takes_its_time() -> None:
    provider, clock, _ = stand()
    began = clock.now()
    provider.cloud.faults.script("offers", Trouble.STALLED, wait=MINUTE)
    assert len(await provider.offers(Need())) == 1
    assert clock.now() - began == MINUTE


async def test_trouble_lasts_for_some_calls_or_until_a_time() -> None:
    provider, clock, order = stand()
    faults = provider.cloud.faults
    faults.script("create", Trouble.NO_CAPACITY, times=2)
    faults.script("create", Trouble.THROTTLED, until=clock.now() + MINUTE, wait=timedelta(seconds=9))
    for _ in range(2):
        with pytest.raises(NoCapacity):
            await provider.create(order())
    for _ in range(3):
        with pytest.raises(Throttled) as caught:
            await provider.create(order())
        assert caught.value.wait == timedelta(seconds=9)
    clock.time += MINUTE
    await provider.create(order())
    faults.script("owned", Trouble.REFUSED, times=None)
    for _ in range(3):
        with pytest.raises(Refused):
            await provider.owned(order.owner)
    faults.clear()
    assert len(await provider.owned(order.owner)) == 1


async def test_a_full_cloud_says_so_before_and_at_the_order() -> None:
    provider, _, order = stand(capacity=1)
    await provider.create(order())
    assert [offer.availability for offer in await provider.offers(Need())] == [Availability.NONE]
    with pytest.raises(NoCapacity):
        await provider.create(order())


async def test_a_name_of_another_owner_is_refused() -> None:
    provider, _, order = stand()
    taken = order()
    await provider.create(taken)
    with pytest.raises(Refused):
        await provider.create(replace(taken, owner="stranger", key="other"))


async def test_a_dead_man_switch_ends_a_forgotten_machine() -> None:
    provider, clock, order = stand(dead_man_switch=True)
    instance = await provider.create(order())
    clock.time += timedelta(hours=1)
    assert await provider.get(instance.id) is None


async def test_every_call_is_logged_with_what_came_of_it() -> None:
    provider, _, order = stand()
    wanted = order()
    provider.cloud.faults.script("create", Trouble.LOST_REPLY)
    with pytest.raises(Unclear):
        await provider.create(wanted)
    await provider.create(wanted)
    assert [(call.verb, call.subject, call.outcome) for call in provider.cloud.calls] == [
        ("create", wanted.tag, "lost reply: Unclear"),
        ("create", wanted.tag, "ok"),
    ]


async def test_a_refused_health_is_not_healthy() -> None:
    provider, _, _ = stand()
    provider.cloud.faults.script("check", Trouble.REFUSED, text="the key has expired")
    health = await provider.check()
    assert (health.ok, health.summary) == (False, "the key has expired")
    assert (await provider.check()).ok


async def test_chaos_repeats_itself_from_the_seed() -> None:
    async def story(seed: int) -> list[str]:
        provider, clock, order = stand(seed=seed, chaos=Decimal("0.5"))
        for _ in range(40):
            try:
                await provider.create(order())
            except ProviderError:
                clock.time += timedelta(seconds=1)
        return [call.outcome for call in provider.cloud.calls]

    one, again, other = await story(1), await story(1), await story(2)
    assert one == again
    assert one != other
    assert {"ok", "lost reply: Unclear", "throttled: Throttled"} <= set(one)


async def test_a_restart_finds_the_cloud_as_it_was() -> None:
    bench = FakeBench()
    created = await (await bench.provider()).create(bench.order())
    assert await (await bench.provider()).get(created.id) is not None
