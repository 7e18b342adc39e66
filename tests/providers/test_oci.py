"""The wrapper of Oracle's cloud against a fake behind its SDK: the conformance suite, and what is asked in which words."""

import base64
from dataclasses import replace
from datetime import UTC
from typing import Any

import pytest

from providers.conformance import Check
from providers.contract import NoCapacity, Phase, Reach, Refused, Unclear, Why
from providers.oci_launch import USER_DATA, token
from providers.regions import walk
from tests.providers.oci_bench import AWAY, HOME, IMAGES, SUBNETS, OciBench, bench
from tests.providers.oci_cloud import A10, COMPARTMENT, DOMAINS, END, GET, H100, LAUNCH, LIST, Call, error
from tests.providers.suite import suite


def launches(stood_up: OciBench, region: str = AWAY) -> list[Call]:
    return [call for call in stood_up.cloud.regions[region].calls if call.operation == LAUNCH]


def asked(stood_up: OciBench) -> list[Any]:
    return [call.content["availabilityDomain"] for call in launches(stood_up)]


@suite(OciBench.faults)
async def test_conformance(check: Check) -> None:
    async with bench() as stood_up:
        await check.run(stood_up)


async def test_one_call_says_all_that_the_machine_is_to_be() -> None:
    async with bench() as stood_up:
        order = stood_up.another(HOME)
        await stood_up.oci().create(order)
        (call,) = launches(stood_up, HOME)
        tags = {
            "sublet-owner": order.owner,
            "sublet-tag": order.tag,
            "sublet-key": order.key,
            "sublet-ends-at": order.ends_at.astimezone(UTC).isoformat(),
        }
        assert call.headers["opc-retry-token"] == token(order.key, DOMAINS[HOME][0])
        assert call.content == {
            "availabilityDomain": DOMAINS[HOME][0],
            "compartmentId": COMPARTMENT,
            "displayName": order.tag,
            "shape": H100,
            "freeformTags": tags,
            "sourceDetails": {"sourceType": "image", "imageId": IMAGES[HOME], "bootVolumeSizeInGBs": 200},
            "createVnicDetails": {"subnetId": SUBNETS[HOME], "assignPublicIp": False, "freeformTags": tags},
            "metadata": {"user_data": base64.b64encode(order.user_data.encode()).decode()},
            "instanceOptions": {"areLegacyImdsEndpointsDisabled": True},
            "agentConfig": {"isManagementDisabled": True},
        }
        assert not any(call.operation == LIST for call in stood_up.cloud.regions[HOME].calls), "one domain needs no look"


async def test_own_key_own_groups_and_a_public_address_only_when_asked() -> None:
    group, key = f"ocid1.networksecuritygroup.oc1.{AWAY}.aaaaaaaagroup7", f"ocid1.key.oc1.{AWAY}.aaaaaaaakey7example"
    async with bench(security_groups={AWAY: (group,)}, public_address=True, kms_key=key, disk_gib=500) as stood_up:
        await stood_up.oci().create(stood_up.order())
        said = launches(stood_up)[0].content
        assert said["createVnicDetails"]["assignPublicIp"] and said["createVnicDetails"]["nsgIds"] == [group]
        assert said["sourceDetails"]["kmsKeyId"] == key and said["sourceDetails"]["bootVolumeSizeInGBs"] == 500


async def test_the_longest_script_fits_into_the_metadata() -> None:
    """The fake counts as Oracle does: all metadata, after base64."""
    async with bench() as stood_up:
        order = stood_up.order()
        await stood_up.oci().create(replace(order, user_data="#" * USER_DATA))
        size = sum(len(name) + len(value) for name, value in launches(stood_up)[0].content["metadata"].items())
        assert 31000 < size <= 32000


async def test_preemptible_is_a_virtual_machine_whose_disk_goes_with_it() -> None:
    async with bench() as stood_up:
        provider = stood_up.oci()
        made = await provider.create(stood_up.another(kind=A10, preemptible=True))
        taken = launches(stood_up)[0].content["preemptibleInstanceConfig"]
        assert taken == {"preemptionAction": {"type": "TERMINATE", "preserveBootVolume": False}}
        assert made.detail == "PROVISIONING (preemptible)"
        with pytest.raises(Refused, match="no preemptible bare metal"):
            await provider.create(stood_up.another(preemptible=True))
        assert len(launches(stood_up)) == 1


async def test_a_preemptible_machine_that_nobody_asked_to_end_was_taken() -> None:
    async with bench() as stood_up:
        provider = stood_up.oci()
        ours, theirs = [await provider.create(stood_up.another(kind=A10, preemptible=True)) for _ in range(2)]
        plain = await provider.create(stood_up.order())
        await provider.destroy(ours.id)
        for made in (theirs, plain):
            stood_up.away.instances[made.id.partition("/")[2]]["lifecycleState"] = "TERMINATED"
        shown = {instance.id: instance.preempted for instance in await provider.owned(stood_up.order.owner)}
        assert shown == {ours.id: False, theirs.id: True, plain.id: False}


async def test_the_boot_volume_ends_with_its_machine() -> None:
    async with bench() as stood_up:
        provider = stood_up.oci()
        made = await provider.create(stood_up.order())
        assert stood_up.away.volumes
        await provider.destroy(made.id)
        (end,) = [call for call in stood_up.away.calls if call.operation == END]
        assert end.query == {"preserveBootVolume": "false", "preserveDataVolumesCreatedAtLaunch": "false"}
        assert not stood_up.away.volumes


async def test_a_404_is_no_proof_and_the_whole_list_is() -> None:
    """Oracle answers the same for a machine that is not there and for one that the key may not see."""
    async with bench() as stood_up:
        provider = stood_up.oci()
        for _ in range(4):
            await provider.create(stood_up.order())
        made = await provider.create(stood_up.order())
        name = made.id.partition("/")[2]
        stood_up.away.hidden.add(name)
        now = await provider.get(made.id)
        assert now is not None and now.id == made.id and now.phase is not Phase.ENDED
        with pytest.raises(Refused) as refused:
            await provider.destroy(made.id)
        assert refused.value.why is Why.CREDENTIALS, "it lives, and the key may not end it"
        del stood_up.away.instances[name]
        before = len(stood_up.away.calls)
        assert await provider.get(made.id) is None
        assert [call.operation for call in stood_up.away.calls[before:]] == [GET, LIST, LIST], "both pages are seen"
        await provider.destroy(made.id)


async def test_a_404_with_a_broken_list_is_unclear() -> None:
    async with bench() as stood_up:
        provider = stood_up.oci()
        made = await provider.create(stood_up.order())
        stood_up.away.hidden.add(made.id.partition("/")[2])
        stood_up.trip(LIST, 500, error("InternalServerError"), times=3)
        with pytest.raises(Unclear):
            await provider.get(made.id)
        stood_up.trip(LIST, 404, error("NotAuthorizedOrNotFound"))
        with pytest.raises(Refused) as refused:
            await provider.get(made.id)
        assert refused.value.why is Why.CREDENTIALS


async def test_a_machine_that_cannot_be_ended_now_is_asked_again_later() -> None:
    async with bench() as stood_up:
        provider = stood_up.oci()
        made = await provider.create(stood_up.order())
        stood_up.trip(END, 409, error("IncorrectState", "The instance is PROVISIONING."))
        with pytest.raises(Unclear):
            await provider.destroy(made.id)
        await provider.destroy(made.id)
        await provider.destroy(made.id)  # TERMINATING: a 409 that is no trouble


async def test_a_domain_without_machines_is_passed_over() -> None:
    async with bench() as stood_up:
        provider, order = stood_up.oci(), stood_up.order()
        domains = walk(order.key, DOMAINS[AWAY], None)
        stood_up.away.short = {(H100, domains[0]), (H100, domains[1])}
        made = await provider.create(order)
        assert asked(stood_up) == list(domains)
        assert len({call.headers["opc-retry-token"] for call in launches(stood_up)}) == 3
        stood_up.away.short.clear()
        again, restarted = await provider.create(order), await stood_up.oci().create(order)
        assert again.id == restarted.id == made.id and len(stood_up.away.instances) == 1


async def test_a_domain_that_gave_no_clear_answer_is_asked_again_before_any_other() -> None:
    async with bench() as stood_up:
        provider, order = stood_up.oci(), stood_up.order()
        domains = walk(order.key, DOMAINS[AWAY], None)
        stood_up.trip(LAUNCH, 500, error("InternalError", "Out of host capacity."))
        stood_up.trip(LAUNCH, None, reaches=True)
        with pytest.raises(Unclear) as unclear:
            await provider.create(order)
        assert unclear.value.maybe_created
        await provider.create(order)
        assert asked(stood_up) == [domains[0], domains[1], domains[1]] and len(stood_up.away.instances) == 1


async def test_a_new_service_looks_for_the_key_before_it_asks_a_domain() -> None:
    async with bench() as stood_up:
        order = stood_up.order()
        stood_up.trip(LAUNCH, 500, error("InternalError", "Out of host capacity."))
        stood_up.trip(LAUNCH, None, reaches=True)
        with pytest.raises(Unclear):
            await stood_up.oci().create(order)
        made = await stood_up.oci().create(order)
        assert made.tag == order.tag and len(launches(stood_up)) == 2 and len(stood_up.away.instances) == 1


@pytest.mark.parametrize(("kind", "preemptible", "reach"), [(A10, True, Reach.OFFER), (A10, False, Reach.REGION)])
async def test_no_domain_has_one(kind: str, preemptible: bool, reach: Reach) -> None:
    """Without machines at the full price there are none for less; without preemptible ones there may be others."""
    async with bench() as stood_up:
        stood_up.away.short = {(kind, domain) for domain in DOMAINS[AWAY]}
        with pytest.raises(NoCapacity, match="Out of host capacity") as no:
            await stood_up.oci().create(stood_up.another(kind=kind, preemptible=preemptible))
        assert no.value.reach is reach and len(launches(stood_up)) == 3


@pytest.mark.parametrize("status", [500, 429, None])
async def test_the_sdk_never_sends_a_create_twice(status: int | None) -> None:
    async with bench() as stood_up:
        stood_up.trip(LAUNCH, status, error("InternalServerError"), reaches=True, times=5)
        with pytest.raises(Exception, match="oci us-phoenix-1 launch_instance"):
            await stood_up.oci().create(stood_up.order())
        assert len(launches(stood_up)) == 1


async def test_a_read_is_asked_three_times() -> None:
    async with bench() as stood_up:
        stood_up.trip(LIST, 503, error("ServiceUnavailable"), times=2)
        assert await stood_up.oci().owned("nobody") == []
        assert sum(call.operation == LIST for call in stood_up.away.calls) == 3


async def test_a_token_whose_machine_has_ended_gives_its_record() -> None:
    async with bench() as stood_up:
        provider, order = stood_up.oci(), stood_up.another(HOME)
        made = await provider.create(order)
        await provider.destroy(made.id)
        again = await provider.create(order)
        assert again.id == made.id and again.phase in (Phase.DESTROYING, Phase.ENDED)
        assert len(launches(stood_up, HOME)) == 2 and len(stood_up.cloud.regions[HOME].instances) == 1
        stood_up.cloud.regions[HOME].instances[made.id.partition("/")[2]]["displayName"] = "renamed"
        with pytest.raises(Unclear, match="nothing under it is shown") as unclear:
            await provider.create(order)
        assert unclear.value.maybe_created


async def test_a_token_of_another_request_is_unclear() -> None:
    async with bench() as stood_up:
        provider, order = stood_up.oci(), stood_up.another(HOME)
        await provider.create(order)
        with pytest.raises(Unclear, match="Conflict") as unclear:
            await provider.create(replace(order, user_data=order.user_data + "true\n"))
        assert unclear.value.maybe_created and len(stood_up.cloud.regions[HOME].instances) == 1
