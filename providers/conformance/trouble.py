"""Checks with faults: lost replies, half-created instances, a no of every kind, broken lists, preemption."""

from providers.conformance.bench import Bench, Fault, check, expect, gone, refusal, settled, tagged, until
from providers.contract import NoCapacity, Phase, ProviderError, Refused, Throttled, Unclear, Why


@check(Fault.LOST_REPLY)
async def lost_reply_is_unclear_then_found(bench: Bench) -> None:
    """A lost reply is `Unclear`; the instance is then found by tag, and the same key finds it too."""
    provider, order = await bench.provider(), bench.order()
    await bench.cause(Fault.LOST_REPLY)
    error = await refusal(provider.create(order))
    expect(isinstance(error, Unclear) and error.maybe_created, f"a lost reply became {type(error).__name__}")
    found = await tagged(bench, provider, order)
    if provider.traits.idempotent_create or provider.traits.unique_names:
        expect((await provider.create(order)).id == found.id, "asked again, there were two")
        await tagged(bench, provider, order)


@check(Fault.HALF_CREATED)
async def half_created_is_shown_and_ends(bench: Bench) -> None:
    """A half-created instance is listed as failed or starting, and can be destroyed."""
    provider, order = await bench.provider(), bench.order()
    await bench.cause(Fault.HALF_CREATED)
    await refusal(provider.create(order))
    half = await tagged(bench, provider, order)
    expect(half.phase in (Phase.FAILED, Phase.STARTING, Phase.STOPPED), f"it shows as {half.phase}")
    await provider.destroy(half.id)
    await gone(bench, provider, half.id)


@check(Fault.HALF_CREATED)
async def half_created_is_completed_by_its_key(bench: Bench) -> None:
    """A half-created instance comes to run when the same create comes again, where keys are honoured."""
    provider, order = await bench.provider(), bench.order()
    if not provider.traits.idempotent_create:
        return
    await bench.cause(Fault.HALF_CREATED)
    await refusal(provider.create(order))
    half = await tagged(bench, provider, order)
    again = await (await bench.provider()).create(order)
    expect(again.id == half.id, "asked again, there were two")
    await settled(bench, provider, again)


async def _refused_as(bench: Bench, fault: Fault, kind: type[ProviderError]) -> ProviderError:
    provider, order = await bench.provider(), bench.order()
    await bench.cause(fault)
    error = await refusal(provider.create(order))
    expect(isinstance(error, kind), f"{fault} became {type(error).__name__}, not {kind.__name__}: {error}")
    expect(bool(str(error)), "the error has no message")
    found = [instance for instance in await provider.owned(order.owner) if instance.tag == order.tag]
    expect(not found, f"{fault} left an instance behind")
    return error


@check(Fault.NO_CAPACITY)
async def no_capacity_is_told(bench: Bench) -> None:
    """No capacity is `NoCapacity`, and nothing stays."""
    await _refused_as(bench, Fault.NO_CAPACITY, NoCapacity)


@check(Fault.QUOTA)
async def quota_is_told(bench: Bench) -> None:
    """An exhausted quota is `Refused`, never no capacity."""
    error = await _refused_as(bench, Fault.QUOTA, Refused)
    expect(isinstance(error, Refused) and error.why is Why.QUOTA, "it is not told that it is for the quota")


@check(Fault.CREDENTIALS)
async def credentials_are_told(bench: Bench) -> None:
    """Bad credentials are `Refused`, never no capacity."""
    error = await _refused_as(bench, Fault.CREDENTIALS, Refused)
    expect(isinstance(error, Refused) and error.why is Why.CREDENTIALS, "it is not told that it is for the credentials")


@check(Fault.THROTTLED)
async def throttling_is_told(bench: Bench) -> None:
    """A rate limit is `Throttled` with a wait."""
    error = await _refused_as(bench, Fault.THROTTLED, Throttled)
    expect(isinstance(error, Throttled) and error.wait.total_seconds() > 0, "no wait is told")


@check(Fault.SERVER_ERROR)
async def server_errors_are_unclear(bench: Bench) -> None:
    """A vendor's own error is `Unclear`: it may have happened."""
    error = await _refused_as(bench, Fault.SERVER_ERROR, Unclear)
    expect(isinstance(error, Unclear) and error.maybe_created, "it is sure that nothing was created")


@check(Fault.MALFORMED)
async def malformed_answers_are_not_believed(bench: Bench) -> None:
    """An unreadable answer to create is `Unclear`, or is made good by looking; one instance either way."""
    provider, order = await bench.provider(), bench.order()
    await bench.cause(Fault.MALFORMED)
    try:
        await provider.create(order)
    except ProviderError as error:
        expect(isinstance(error, Unclear) and error.maybe_created, f"it became {type(error).__name__}")
    await tagged(bench, provider, order)


@check(Fault.BROKEN_LIST)
async def broken_list_is_unknown_as_a_whole(bench: Bench) -> None:
    """A listing with one failed page is `Unclear` as a whole."""
    provider, order = await bench.provider(), bench.order()
    await provider.create(order)
    await bench.cause(Fault.BROKEN_LIST)
    error = await refusal(provider.owned(order.owner))
    expect(isinstance(error, Unclear), f"it became {type(error).__name__}")
    await tagged(bench, provider, order)


@check(Fault.PREEMPTED)
async def preemption_is_seen(bench: Bench) -> None:
    """An instance that the vendor took away is seen to be off, or gone."""
    provider, order = await bench.provider(), bench.order()
    instance = await settled(bench, provider, await provider.create(order))
    await bench.cause(Fault.PREEMPTED)

    async def look() -> bool | None:
        now = await provider.get(instance.id)
        off = (Phase.STOPPED, Phase.FAILED, Phase.DESTROYING, Phase.ENDED)
        return True if now is None or now.phase in off else None

    await until(bench, look, "the preemption seen")
    await provider.destroy(instance.id)
    await gone(bench, provider, instance.id)
