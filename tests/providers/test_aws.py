"""The wrapper of AWS against moto behind boto3: the conformance suite, and what is asked of EC2 in which words."""

from dataclasses import replace
from datetime import UTC

import pytest

from providers.aws_launch import token
from providers.conformance import Check
from providers.contract import NoCapacity, Phase, Reach, Refused, Unclear
from providers.regions import walk
from tests.providers.aws_bench import B300, H200, HOME, AwsBench, bench
from tests.providers.aws_cloud import LIST, RUN, Call, cloud, ended_at, error
from tests.providers.suite import suite

FIRST_THEN_REST = 3  # zones of B300 in Jakarta


def runs(stood_up: AwsBench) -> list[Call]:
    return [call for call in stood_up.cloud.wire.calls if call.action == RUN]


@suite(AwsBench.faults)
async def test_conformance(check: Check) -> None:
    async with bench() as stood_up:
        await check.run(stood_up)


async def test_one_call_says_all_that_the_machine_is_to_be() -> None:
    async with bench() as stood_up:
        order = stood_up.order()
        made = await stood_up.aws().create(order)
        (call,) = runs(stood_up)
        said = call.values
        assert said["ClientToken"] == token(order.key) and len(said["ClientToken"]) == 64
        assert call.user_data == order.user_data
        assert (said["MinCount"], said["MaxCount"], said["InstanceType"]) == ("1", "1", B300)
        assert said["InstanceInitiatedShutdownBehavior"] == "terminate"
        assert said["MetadataOptions.HttpTokens"] == "required" and said["MetadataOptions.HttpPutResponseHopLimit"] == "1"
        assert said["NetworkInterface.1.AssociatePublicIpAddress"] == "false"
        assert said["NetworkInterface.1.DeleteOnTermination"] == "true"
        disk = "BlockDeviceMapping.1.Ebs."
        assert said["BlockDeviceMapping.1.DeviceName"] == "/dev/sda1" and said[disk + "VolumeSize"] == "200"
        assert said[disk + "Encrypted"] == said[disk + "DeleteOnTermination"] == "true" and disk + "KmsKeyId" not in said
        assert not any(key.startswith(("InstanceMarketOptions", "IamInstanceProfile", "KeyName", "SubnetId")) for key in said)
        resources = {said[f"TagSpecification.{number}.ResourceType"]: number for number in (1, 2, 3)}
        assert set(resources) == {"instance", "volume", "network-interface"}
        for number in resources.values():
            prefix = f"TagSpecification.{number}.Tag."
            tags = {said[f"{prefix}{at}.Key"]: said[f"{prefix}{at}.Value"] for at in range(1, 6)}
            ends = order.ends_at.astimezone(UTC).isoformat()
            assert tags == {
                "Name": order.tag,
                "sublet.owner": order.owner,
                "sublet.tag": order.tag,
                "sublet.key": order.key,
                "sublet.ends-at": ends,
            }
        (volume,) = stood_up.cloud.instance(made.id).block_device_mapping.values()
        disk_itself = stood_up.cloud.backend(HOME).volumes[volume.volume_id]
        assert disk_itself.encrypted and disk_itself.size == 200, "the disk is not as it was asked for"


async def test_own_key_own_groups_and_a_public_address_only_when_asked() -> None:
    group = cloud().backend(HOME).get_default_security_group().id
    stood_up = AwsBench(cloud(), security_groups={HOME: (group,)}, public_address=True, kms_key="alias/sublet", disk_gib=500)
    try:
        await stood_up.aws().create(stood_up.order())
        said = runs(stood_up)[0].values
        assert said["NetworkInterface.1.AssociatePublicIpAddress"] == "true"
        assert said["NetworkInterface.1.SecurityGroupId.1"] == group
        assert (said["BlockDeviceMapping.1.Ebs.KmsKeyId"], said["BlockDeviceMapping.1.Ebs.VolumeSize"]) == (
            "alias/sublet",
            "500",
        )
    finally:
        await stood_up.aclose()


async def test_spot_is_one_time_and_leaves_no_request_behind() -> None:
    async with bench() as stood_up:
        provider = stood_up.aws()
        made = await provider.create(stood_up.another(spot=True))
        said = runs(stood_up)[0].values
        assert said["InstanceMarketOptions.MarketType"] == "spot"
        assert said["InstanceMarketOptions.SpotOptions.SpotInstanceType"] == "one-time"
        assert said["InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior"] == "terminate"
        assert stood_up.cloud.instance(made.id).lifecycle == "spot"
        await provider.destroy(made.id)
        assert not stood_up.cloud.backend(HOME).spot_instance_requests, "a spot request would rent again"


async def test_a_spot_machine_that_aws_took_is_preempted_and_dated() -> None:
    async with bench() as stood_up:
        provider = stood_up.aws()
        made = await provider.create(stood_up.another(spot=True))
        stood_up.cloud.take_back(stood_up.cloud.instance(made.id))
        now = await provider.get(made.id)
        assert now is not None and now.phase is Phase.ENDED and now.preempted
        assert now.detail == "terminated: Server.SpotInstanceTermination"
        assert (await provider.owned(stood_up.order.owner))[0].preempted


async def test_the_record_of_an_ended_machine_dates_its_end() -> None:
    async with bench() as stood_up:
        provider = stood_up.aws()
        made = await provider.create(stood_up.order())
        await provider.destroy(made.id)
        now = await provider.get(made.id)
        assert now is not None and now.phase is Phase.ENDED and not now.preempted
        assert now.ended_at == ended_at(stood_up.cloud.instance(made.id))


async def test_a_zone_without_machines_is_passed_over() -> None:
    async with bench() as stood_up:
        provider, order = stood_up.aws(), stood_up.order()
        zones = walk(order.key, stood_up.settings.subnets[HOME], None)
        names = {subnet: stood_up.cloud.backend(HOME).get_subnet(subnet).availability_zone for subnet in zones}
        stood_up.cloud.short = {(B300, names[zones[0]]), (B300, names[zones[1]])}
        made = await provider.create(order)
        assert stood_up.cloud.instance(made.id).availability_zone == names[zones[2]]
        assert [call.values["NetworkInterface.1.SubnetId"] for call in runs(stood_up)] == list(zones)
        assert len({call.values["ClientToken"] for call in runs(stood_up)}) == 1
        stood_up.cloud.short.clear()
        again, restarted = await provider.create(order), await stood_up.aws().create(order)
        assert again.id == restarted.id == made.id, "an earlier zone, with machines again, made a second one"


async def test_a_zone_that_gave_no_clear_answer_is_asked_again_before_any_other() -> None:
    async with bench() as stood_up:
        provider, order = stood_up.aws(), stood_up.order()
        zones = walk(order.key, stood_up.settings.subnets[HOME], None)
        stood_up.trip(RUN, 500, error("InsufficientInstanceCapacity", "no capacity in the zone"))
        stood_up.trip(RUN, None, reaches=True)
        with pytest.raises(Unclear) as unclear:
            await provider.create(order)
        assert unclear.value.maybe_created
        made = await provider.create(order)
        asked = [call.values["NetworkInterface.1.SubnetId"] for call in runs(stood_up)]
        assert asked == [zones[0], zones[1], zones[1]], "the first zone has machines again, and must not be asked"
        assert [instance.id for instance in stood_up.cloud.instances(order.owner)] == [made.id.partition("/")[2]]


async def test_a_new_service_looks_for_the_key_before_it_asks_a_zone() -> None:
    async with bench() as stood_up:
        order = stood_up.order()
        stood_up.trip(RUN, 500, error("InsufficientInstanceCapacity", "no capacity in the zone"))
        stood_up.trip(RUN, None, reaches=True)
        with pytest.raises(Unclear):
            await stood_up.aws().create(order)
        before = len(runs(stood_up))
        made = await stood_up.aws().create(order)
        assert len(runs(stood_up)) == before and len(stood_up.cloud.instances(order.owner)) == 1
        assert made.tag == order.tag


async def test_only_zones_that_have_the_type_are_asked() -> None:
    async with bench() as stood_up:
        provider = stood_up.aws()
        kinds = await provider._catalogue.kinds(HOME)  # pyright: ignore[reportPrivateUsage]
        assert len(kinds[H200].places) == 2 and len(kinds[B300].places) == 3
        stood_up.cloud.short = {(H200, f"{HOME}{zone}") for zone in "abc"}
        with pytest.raises(NoCapacity):
            await provider.create(stood_up.another(kind=H200))
        assert {call.values["NetworkInterface.1.SubnetId"] for call in runs(stood_up)} == set(kinds[H200].places)


@pytest.mark.parametrize(("spot", "reach"), [(True, Reach.OFFER), (False, Reach.REGION)])
async def test_no_zone_has_one(spot: bool, reach: Reach) -> None:
    """Without machines at the full price there are none for less; without spot machines there may be others."""
    async with bench() as stood_up:
        stood_up.cloud.short = {(B300, f"{HOME}{zone}") for zone in "abc"}
        with pytest.raises(NoCapacity) as no:
            await stood_up.aws().create(stood_up.another(spot=spot))
        assert no.value.reach is reach and "sufficient" in str(no.value) and len(runs(stood_up)) == FIRST_THEN_REST


@pytest.mark.parametrize("trouble", ["500", "cut"])
async def test_the_sdk_never_sends_a_create_twice(trouble: str) -> None:
    async with bench() as stood_up:
        for _ in range(5):
            stood_up.trip(RUN, 500 if trouble == "500" else None, error("InternalError"), reaches=True)
        with pytest.raises(Unclear):
            await stood_up.aws().create(stood_up.order())
        assert len(runs(stood_up)) == 1 and len(stood_up.cloud.instances(stood_up.order.owner)) == 1


async def test_a_read_is_asked_three_times() -> None:
    async with bench() as stood_up:
        stood_up.trip(LIST, 500, error("Unavailable"), times=2, region=HOME)
        assert await stood_up.aws().owned("nobody") == []
        assert sum(call.action == LIST and call.region == HOME for call in stood_up.cloud.wire.calls) == 3


async def test_a_token_whose_machine_has_ended_gives_its_record() -> None:
    """boto3's issue 4406: EC2 refuses such a token since 2025."""
    async with bench() as stood_up:
        provider, order = stood_up.aws(), stood_up.order()
        made = await provider.create(order)
        await provider.destroy(made.id)
        again = await provider.create(order)
        assert again.id == made.id and again.phase is Phase.ENDED
        assert len(runs(stood_up)) == 2 and len(stood_up.cloud.instances(order.owner)) == 1
        forgotten = stood_up.order()
        stood_up.trip(RUN, 400, error("IdempotentInstanceTerminated"))
        with pytest.raises(Refused, match="ended already"):
            await provider.create(forgotten)


async def test_a_token_of_another_request_is_unclear() -> None:
    """It was used: something may be there under it."""
    async with bench() as stood_up:
        provider, order = stood_up.aws(), stood_up.order()
        await provider.create(order)
        with pytest.raises(Unclear, match="IdempotentParameterMismatch") as unclear:
            await provider.create(replace(order, user_data=order.user_data + "true\n"))
        assert unclear.value.maybe_created and len(stood_up.cloud.instances(order.owner)) == 1
