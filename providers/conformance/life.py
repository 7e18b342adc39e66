"""Checks of a life without trouble: created, found again, destroyed, and nothing shown that should not be."""

import asyncio
import logging
from dataclasses import replace
from decimal import Decimal

from providers.conformance.bench import Bench, Fault, absent, check, expect, gone, refusal, settled, tagged, until
from providers.contract import Instance, Need, Phase, Provider, ProviderError, Refused, Throttled, Unclear


@check()
async def offers_are_priced_and_dated(bench: Bench) -> None:
    """Offers are priced, dated and named."""
    provider = await bench.provider()
    offers = await provider.offers(Need())
    expect(len(offers) > 0, "no offer")
    expect(len({offer.id for offer in offers}) == len(offers), "two offers have one id")
    for offer in offers:
        expect(type(offer.price_per_hour) is Decimal and offer.price_per_hour >= 0, "a price is no Decimal >= 0")
        expect(offer.seen_at.tzinfo is not None, "seen_at has no time zone")
        expect(offer.provider == provider.name and bool(offer.region) and bool(offer.currency), "an offer lacks a name")


@check()
async def health_is_told(bench: Bench) -> None:
    """`check` tells health without cost."""
    provider = await bench.provider()
    health = await provider.check()
    expect(health.ok and bool(health.summary), f"not healthy: {health.summary}")
    expect(not await provider.owned(bench.order().owner), "check created something")


@check()
async def created_runs_and_is_listed(bench: Bench) -> None:
    """What is created comes to run, and is listed with its tag and key."""
    provider, order = await bench.provider(), bench.order()
    instance = await provider.create(order)
    expect(instance.tag == order.tag and bool(instance.id), "create gave another tag, or no id")
    running = await settled(bench, provider, instance)
    expect(running.id == instance.id and running.tag == order.tag, "get shows something else")
    listed = await tagged(bench, provider, order)
    expect(listed.id == instance.id, "owned shows another id")
    expect(listed.key in ("", order.key), "owned shows another key")


@check()
async def one_key_twice_is_one_instance(bench: Bench) -> None:
    """Create twice with one key gives one instance, also after a restart."""
    provider, order = await bench.provider(), bench.order()
    first = await provider.create(order)
    second = await provider.create(order)
    third = await (await bench.provider()).create(order)
    expect(first.id == second.id == third.id, "one key gave two instances")
    await tagged(bench, provider, order)


@check()
async def one_key_at_once_is_one_instance(bench: Bench) -> None:
    """Create with one key from two services at the same moment gives one instance."""
    providers, order = (await bench.provider(), await bench.provider()), bench.order()
    results = await asyncio.gather(*(provider.create(order) for provider in providers), return_exceptions=True)
    expect(all(isinstance(result, Instance | ProviderError) for result in results), "raised what is no ProviderError")
    again = await providers[0].create(order)
    expect({again.id} >= {result.id for result in results if isinstance(result, Instance)}, "one key gave two instances")
    await tagged(bench, providers[0], order)


@check()
async def another_key_under_one_tag_is_no_second_instance(bench: Bench) -> None:
    """Another attempt under a tag that is taken makes no second instance."""
    provider, order = await bench.provider(), bench.order()
    if not provider.traits.unique_names:
        return
    first = await provider.create(order)
    await refusal(provider.create(replace(order, key=bench.order().key)))
    expect((await tagged(bench, provider, order)).id == first.id, "another instance took the tag")


@check()
async def killed_after_create_is_found(bench: Bench) -> None:
    """Killed between create and record: a new service finds the instance by its tag."""
    order = bench.order()
    created = await (await bench.provider()).create(order)
    found = await tagged(bench, await bench.provider(), order)
    expect(found.id == created.id, "owned shows another id")


@check()
async def given_up_create_is_one_instance(bench: Bench) -> None:
    """A create that was given up on, then asked again, gives one instance."""
    provider, order = await bench.provider(), bench.order()
    task = asyncio.create_task(provider.create(order))
    await asyncio.sleep(0)
    await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()) is not None:
        expect(isinstance(error, ProviderError), f"raised {type(error).__name__}")

    async def again() -> Instance | None:
        try:
            return await provider.create(order)
        except (Throttled, Unclear):
            return None

    created = await until(bench, again, "created again")
    expect((await tagged(bench, provider, order)).id == created.id, "owned shows another id")


@check()
async def destroyed_is_gone(bench: Bench) -> None:
    """Destroy ends in proven absence, for this service and the next, and the listing agrees."""
    provider, order = await bench.provider(), bench.order()
    instance = await provider.create(order)
    await provider.destroy(instance.id)
    await gone(bench, provider, instance.id)
    expect(await absent(await bench.provider(), instance.id), "a new service still sees it")

    async def unlisted() -> bool | None:
        left = [other for other in await provider.owned(order.owner) if other.phase is not Phase.ENDED]
        return None if any(other.id == instance.id for other in left) else True

    await until(bench, unlisted, "no longer listed")


@check()
async def destroy_repeats(bench: Bench) -> None:
    """Destroy twice, at once, and after the end, is no error."""
    provider, order = await bench.provider(), bench.order()
    instance = await settled(bench, provider, await provider.create(order))
    await asyncio.gather(provider.destroy(instance.id), (await bench.provider()).destroy(instance.id))
    await provider.destroy(instance.id)
    await gone(bench, provider, instance.id)
    await provider.destroy(instance.id)
    expect(await absent(provider, instance.id), "it came back")


@check()
async def unknown_ids_are_no_error(bench: Bench) -> None:
    """Unknown and hostile ids: get gives None, destroy does nothing."""
    provider, order = await bench.provider(), bench.order()
    instance = await provider.create(order)
    similar = instance.id[:-1] + ("0" if instance.id[-1] != "0" else "1")
    for stranger in (similar, "no-such-instance", "../../etc", "a/../b", "", "x?y=z#w", "ä ö", "-rf"):
        expect(await provider.get(stranger) is None, f"get({stranger!r}) gave something")
        await provider.destroy(stranger)
    expect(await provider.get(instance.id) is not None, "destroying a stranger ended ours")


@check()
async def owned_shows_its_owner_only(bench: Bench) -> None:
    """`owned` shows the instances of that owner tag and no other's."""
    provider, ours = await bench.provider(), bench.order()
    theirs = replace(bench.order(), owner=ours.owner + "x")
    one, other = await provider.create(ours), await provider.create(theirs)
    expect([instance.id for instance in await provider.owned(ours.owner)] == [one.id], "ours are not shown as ours")
    expect([instance.id for instance in await provider.owned(theirs.owner)] == [other.id], "theirs are not theirs")
    expect(not await provider.owned("nobody"), "nobody owns something")


@check()
async def a_crowd_is_listed_whole(bench: Bench) -> None:
    """More instances than one page holds are all listed."""
    provider = await bench.provider()
    orders = [bench.order() for _ in range(bench.crowd)]
    made = [await provider.create(order) for order in orders]
    listed = {instance.id for instance in await provider.owned(orders[0].owner)}
    expect(listed == {instance.id for instance in made}, f"{len(listed)} of {len(made)} are listed")


@check()
async def vendor_states_are_mapped(bench: Bench) -> None:
    """Every vendor state that can be brought about shows as its phase, in get and in the listing, and can be ended."""
    for state, phase in bench.states.items():
        provider, order = await bench.provider(), bench.order()
        instance = await settled(bench, provider, await provider.create(order))
        await bench.put(instance.id, state)

        async def shown(provider: Provider = provider, instance: Instance = instance, phase: Phase = phase) -> bool | None:
            now = await provider.get(instance.id)
            return True if now is not None and now.phase is phase else None

        await until(bench, shown, f"{state} shown as {phase}")
        expect((await tagged(bench, provider, order)).phase is phase, f"the listing does not show {state} as {phase}")
        await provider.destroy(instance.id)
        await gone(bench, provider, instance.id)


@check()
async def too_long_a_script_is_refused(bench: Bench) -> None:
    """User data over the limit is refused before the call."""
    provider, order = await bench.provider(), bench.order()
    limit = provider.traits.user_data_limit
    if limit is None:
        return
    padding = "#" * (limit - len(order.user_data.encode()))
    for script in (order.user_data + padding + "#", order.user_data + padding[1:] + "é"):
        error = await refusal(provider.create(replace(order, user_data=script)))
        expect(isinstance(error, Refused), f"it became {type(error).__name__}")
    expect(not await provider.owned(order.owner), "it was created all the same")
    await provider.create(replace(order, user_data=order.user_data + padding))


@check()
async def bad_names_are_refused(bench: Bench) -> None:
    """Tags and owners outside a-z, 0-9 and '-' are refused before the call."""
    provider, order = await bench.provider(), bench.order()
    for tag in ("", "Upper", "under_score", "dot.dot", "../up", "-lead", "a b", "x" * 64, "ä"):
        error = await refusal(provider.create(replace(order, tag=tag)))
        expect(isinstance(error, Refused), f"tag {tag!r} became {type(error).__name__}")
    expect(isinstance(await refusal(provider.create(replace(order, owner="a=b,c"))), Refused), "a bad owner was taken")
    expect(not await provider.owned(order.owner), "it was created all the same")
    longest = replace(order, tag=(order.tag + "-" + "x" * 63)[: provider.traits.tag_limit or 63])
    await provider.create(longest)
    expect((await tagged(bench, provider, longest)).tag == longest.tag, "the longest tag came back changed")


class _Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@check()
async def secrets_are_not_shown(bench: Bench) -> None:
    """Secrets and the start-up script are absent from repr, errors and logs."""
    root, log = logging.getLogger(), _Log()
    level = root.level
    root.addHandler(log)
    root.setLevel(logging.DEBUG)
    try:
        provider, order = await bench.provider(), bench.order()
        order = replace(order, user_data=order.user_data + "\n# hush-hush-token\n")
        shown = [repr(provider), str(provider), repr(getattr(provider, "settings", "")), repr(provider.traits)]
        for fault in sorted(bench.faults & {Fault.CREDENTIALS, Fault.SERVER_ERROR, Fault.THROTTLED}):
            await bench.cause(fault)
            error = await refusal(provider.create(order))
            shown += [str(error), repr(error), repr(error.__cause__), repr(error.__context__)]
        instance = await provider.create(order)
        shown += [repr(instance), repr(await provider.owned(order.owner)), repr(await provider.check())]
        await provider.destroy(instance.id)
    finally:
        root.removeHandler(log)
        root.setLevel(level)
    for secret in (*bench.secrets, "hush-hush-token"):
        expect(not any(secret in text for text in shown), "a secret is shown in a repr or an error")
        expect(not any(secret in line for line in log.lines), "a secret is shown in a log line")
