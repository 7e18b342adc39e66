"""Nebius over the wire of its own SDK: the conformance suite, and what its API does that others do not."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from providers import nebius_account
from providers.conformance import Check, Fault
from providers.contract import NoCapacity, Phase, ProviderError, Refused, Secret, Throttled, Unclear, Why
from providers.nebius import NebiusSettings
from tests.providers.nebius_bench import NebiusBench, bench
from tests.providers.nebius_cloud import Code, Looked, RetryType, State, Trouble, common, compute
from tests.providers.suite import suite

CREATE, GET, LIST = "InstanceService/Create", "InstanceService/Get", "InstanceService/List"


@suite(NebiusBench.faults)
async def test_conformance(check: Check) -> None:
    async with bench() as stand:
        await check.run(stand)


@pytest.fixture
async def stand() -> AsyncIterator[NebiusBench]:
    async with bench() as stand:
        yield stand


async def test_what_a_create_carries(stand: NebiusBench) -> None:
    order = stand.order()
    await stand.nebius().create(order)
    ((_, sent, headers),) = stand.cloud.calls("Create")
    assert headers["x-idempotency-key"] == order.key
    assert (sent.metadata.name, sent.metadata.parent_id) == (order.tag, stand.cloud.project)
    ends = order.ends_at.strftime("%Y%m%dt%H%M%Sz")
    assert dict(sent.metadata.labels) == {
        "sublet-owner": order.owner,
        "sublet-tag": order.tag,
        "sublet-key": order.key,
        "sublet-ends-at": ends,
    }
    assert (sent.spec.resources.platform, sent.spec.resources.preset) == ("gpu-b200-sxm-a", "1gpu-20vcpu-224gb")
    assert sent.spec.preemptible.on_preemption.name == "STOP"
    assert sent.spec.recovery_policy.name == "FAIL"  # or a machine that powers itself off is started again
    assert sent.spec.boot_disk.existing_disk is None
    disk = sent.spec.boot_disk.managed_disk
    assert (disk.name, disk.spec.size_gibibytes, disk.spec.type.name) == (order.tag, 200, "NETWORK_SSD")
    assert disk.spec.source_image_family.image_family == "ubuntu24.04-cuda12"
    (network,) = sent.spec.network_interfaces
    assert network.subnet_id == "vpcsubnet-e00one"
    assert not network.HasField("public_ip_address")
    assert sent.spec.cloud_init_user_data == order.user_data
    assert not sent.spec.service_account_id  # the machine has no rights in the account


async def test_a_key_of_another_shape_is_sent_as_its_hash() -> None:
    async with bench(public_address=True, security_groups={"me-west1": "vpcsecuritygroup-e00x"}) as stand:
        order = replace(stand.order(), key="short/key", image="computeimage-e00mine")
        provider = stand.nebius()
        first = await provider.create(order)
        assert (await provider.create(order)).id == first.id
        (_, sent, headers), _ = stand.cloud.calls("Create")
        assert len(headers["x-idempotency-key"]) == 64
        assert "sublet-key" not in sent.metadata.labels
        assert sent.spec.boot_disk.managed_disk.spec.source_image_id == "computeimage-e00mine"
        assert sent.spec.network_interfaces[0].HasField("public_ip_address")
        assert [group.id for group in sent.spec.network_interfaces[0].security_groups] == ["vpcsecuritygroup-e00x"]


async def test_the_disk_goes_with_the_machine(stand: NebiusBench) -> None:
    provider = stand.nebius()
    instance = await provider.create(stand.order())
    assert len(stand.cloud.disks) == 1
    await provider.destroy(instance.id)
    assert await provider.get(instance.id) is None
    assert not stand.cloud.disks


@pytest.mark.parametrize("fault", [Fault.LOST_REPLY, Fault.SERVER_ERROR, Fault.THROTTLED, Fault.CREDENTIALS])
async def test_a_create_is_sent_once(stand: NebiusBench, fault: Fault) -> None:
    await stand.cause(fault)
    with pytest.raises(ProviderError):
        await stand.nebius().create(stand.order())
    assert len(stand.cloud.calls("Create")) == 1


ERRORS: list[tuple[Any, dict[str, Any], str, type[ProviderError], Why | None]] = [
    (Code.RESOURCE_EXHAUSTED, {"not_enough_resources": common.NotEnoughResources()}, "", NoCapacity, None),
    (Code.FAILED_PRECONDITION, {"not_enough_resources": common.NotEnoughResources()}, "", NoCapacity, None),
    (Code.RESOURCE_EXHAUSTED, {"quota_failure": common.QuotaFailure()}, "no resources", Refused, Why.QUOTA),
    (Code.RESOURCE_EXHAUSTED, {}, "Quota limit exceeded", Refused, Why.QUOTA),
    (Code.RESOURCE_EXHAUSTED, {}, "Not enough resources to start the VM", NoCapacity, None),
    (Code.RESOURCE_EXHAUSTED, {}, "", Throttled, None),
    (Code.RESOURCE_EXHAUSTED, {"retry_type": RetryType.NOTHING}, "", Refused, Why.QUOTA),
    (Code.UNAUTHENTICATED, {}, "", Refused, Why.CREDENTIALS),
    (Code.PERMISSION_DENIED, {}, "not enough resources", Refused, Why.CREDENTIALS),
    (Code.INVALID_ARGUMENT, {"bad_request": common.BadRequest()}, "", Refused, Why.REQUEST),
    (Code.NOT_FOUND, {"resource_not_found": common.ResourceNotFound()}, "", Refused, Why.REQUEST),
    (Code.FAILED_PRECONDITION, {"retry_type": RetryType.CALL}, "", Throttled, None),
    (Code.ALREADY_EXISTS, {"resource_already_exists": common.ResourceAlreadyExists()}, "", Unclear, None),
    (Code.ABORTED, {"operation_conflict": common.OperationConflict()}, "", Unclear, None),
    (Code.DEADLINE_EXCEEDED, {}, "", Unclear, None),
    (Code.UNAVAILABLE, {"retry_type": RetryType.CALL}, "", Unclear, None),
    (Code.INTERNAL, {"internal_error": common.InternalError()}, "", Unclear, None),
    (Code.UNKNOWN, {}, "", Unclear, None),
    (Code.DATA_LOSS, {}, "", Unclear, None),
    (Code.CANCELLED, {}, "", Unclear, None),
]


async def test_every_answer_is_sorted(stand: NebiusBench) -> None:
    for code, error, message, kind, why in ERRORS:
        provider = stand.nebius(replace(stand.settings, currency=f"c{len(stand.cloud.seen)}"))
        stand.cloud.troubles = [Trouble(CREATE, code, message, error)]
        with pytest.raises(ProviderError) as caught:
            await provider.create(stand.order())
        assert type(caught.value) is kind, (code, error, message, caught.value)
        assert getattr(caught.value, "why", None) is why, (code, error)
        assert getattr(caught.value, "maybe_created", True), code
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
        await stand.clock.sleep(60)
    assert not stand.cloud.machines


async def test_without_advice_a_throttled_account_keeps_still_for_half_a_minute(stand: NebiusBench) -> None:
    stand.cloud.troubles = [Trouble(LIST, Code.RESOURCE_EXHAUSTED, "", {"too_many_requests": common.TooManyRequests()})]
    with pytest.raises(Throttled) as caught:
        await stand.nebius().owned("owner")
    assert caught.value.wait == timedelta(seconds=30)
    asked = len(stand.cloud.seen)
    with pytest.raises(Throttled):  # another provider of the same account
        await stand.nebius().get("computeinstance-e00abc")
    assert len(stand.cloud.seen) == asked
    await stand.clock.sleep(29)
    assert await stand.nebius().get("computeinstance-e00abc") is None


NO_ROOM = (Code.RESOURCE_EXHAUSTED, "no room", {"not_enough_resources": common.NotEnoughResources()})


@pytest.mark.parametrize("wreck", [True, False])
async def test_an_operation_that_fails_for_want_of_room_is_no_capacity_and_leaves_nothing(
    stand: NebiusBench, wreck: bool
) -> None:
    stand.cloud.late_failure, stand.cloud.leaves_wreck = NO_ROOM, wreck
    with pytest.raises(NoCapacity):
        await stand.nebius().create(stand.order())
    assert not stand.cloud.machines
    assert not stand.cloud.disks


async def test_what_a_failed_operation_left_and_does_not_go_is_unclear_and_listed(stand: NebiusBench) -> None:
    stand.cloud.late_failure, stand.cloud.slow_delete = NO_ROOM, 30
    provider, order = stand.nebius(), stand.order()
    with pytest.raises(Unclear) as caught:
        await provider.create(order)
    assert caught.value.maybe_created
    (left,) = await provider.owned(order.owner)
    assert (left.tag, left.phase) == (order.tag, Phase.DESTROYING)


async def test_a_failed_operation_whose_wreck_cannot_be_read_is_unclear(stand: NebiusBench) -> None:
    stand.cloud.late_failure = NO_ROOM
    stand.cloud.troubles = [Trouble(GET, Code.INTERNAL, "", times=99)]
    with pytest.raises(Unclear):
        await stand.nebius().create(stand.order())


async def test_a_slow_operation_is_not_waited_for() -> None:
    async with bench(watch=timedelta(0)) as stand:
        stand.cloud.late_failure = NO_ROOM
        order = stand.order()
        instance = await stand.nebius().create(order)
        assert (instance.phase, instance.region) == (Phase.STARTING, "me-west1")
        assert not stand.cloud.calls("OperationService/Get")


@pytest.mark.parametrize(
    ("spot", "asked", "state", "reconciling", "phase", "preempted"),
    [
        (True, False, "STOPPED", False, Phase.STOPPED, True),
        (True, False, "STOPPING", True, Phase.STOPPED, True),
        (True, True, "STOPPED", False, Phase.STOPPED, False),
        (False, False, "STOPPED", False, Phase.STOPPED, False),
        (True, False, "STOPPED", True, Phase.STARTING, False),  # as every new machine is, for a moment
        (True, False, "RUNNING", False, Phase.RUNNING, False),
        (True, False, "UNRECOGNIZED_99", False, Phase.UNKNOWN, False),
    ],
)
async def test_who_stopped_it(
    stand: NebiusBench, spot: bool, asked: bool, state: str, reconciling: bool, phase: Phase, preempted: bool
) -> None:
    status = (
        compute.InstanceStatus.FromString(b"\x08\x63") if state.endswith("99") else compute.InstanceStatus(state=State[state])
    )
    status.reconciling = reconciling
    spec = compute.InstanceSpec(stopped=asked, preemptible=compute.PreemptibleSpec() if spot else None)
    metadata = common.ResourceMetadata(id="computeinstance-e00a", parent_id=stand.cloud.project, name="n")
    stand.cloud.machines["computeinstance-e00a"] = Looked(
        compute.Instance(metadata=metadata, spec=spec, status=status), 0, True
    )
    found = await stand.nebius().get("computeinstance-e00a")
    assert found is not None
    assert (found.phase, found.preempted, found.detail) == (phase, preempted, state)
    assert (found.tag, found.region) == ("n", "me-west1")


async def test_hostile_ids_are_never_sent(stand: NebiusBench) -> None:
    provider = stand.nebius()
    for stranger in ("", "computeinstance-", "computeinstance-E00", "computedisk-e00a", "computeinstance-e00a\n", "a/../b"):
        assert await provider.get(stranger) is None
        await provider.destroy(stranger)
    assert not stand.cloud.seen


async def test_a_machine_of_somebody_else_is_left_alone(stand: NebiusBench) -> None:
    provider = stand.nebius()
    instance = await provider.create(stand.order())
    stand.cloud.machines[instance.id].row.metadata.labels = {"team": "research"}
    with pytest.raises(Refused):
        await provider.destroy(instance.id)
    assert not stand.cloud.calls("Delete")


async def test_a_listing_without_end_or_in_a_circle_is_unclear(stand: NebiusBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nebius_account, "MOST_PAGES", 9)
    provider = stand.nebius()
    await provider.create(stand.order())
    stand.cloud.endless = True
    with pytest.raises(Unclear, match="more than 9 pages"):
        await provider.owned("owner")
    stand.cloud.endless = False
    circle = compute.ListInstancesResponse(next_page_token="again")
    stand.cloud.troubles = [Trouble(LIST, spoil=lambda _: circle, times=9)]
    with pytest.raises(Unclear, match="circle"):
        await provider.owned("owner")


async def test_an_answer_that_is_no_message_is_unclear(stand: NebiusBench) -> None:
    provider, order = stand.nebius(), stand.order()
    stand.cloud.troubles = [Trouble(CREATE, spoil=lambda _: b"\xff\xff\xff")]
    with pytest.raises(Unclear) as caught:
        await provider.create(order)
    assert caught.value.maybe_created
    stand.cloud.troubles = [Trouble(CREATE, spoil=lambda _: bytes(5 * 1024 * 1024))]  # more than gRPC takes
    with pytest.raises(Unclear, match="RESOURCE_EXHAUSTED") as caught:
        await provider.create(stand.order())
    assert caught.value.maybe_created
    strange = compute.ListInstancesResponse(items=[compute.Instance(metadata=common.ResourceMetadata(id="../up"))])
    strange.items[0].metadata.labels = {"sublet-owner": order.owner}
    stand.cloud.troubles = [Trouble(LIST, spoil=lambda _: strange)]
    with pytest.raises(Unclear):
        await provider.owned(order.owner)


async def test_bad_offers_are_refused_without_a_call(stand: NebiusBench) -> None:
    for offer_id in (
        "",
        "me-west1",
        "me-west1/p/q/cheap",
        "me-west1/p/../x",
        "nowhere/p/q",
        "me-west1//q",
        "me-west1/p/q/spot/x",
    ):
        order = stand.order()
        with pytest.raises(Refused):
            await stand.nebius().create(replace(order, offer=replace(order.offer, id=offer_id)))
    assert not stand.cloud.seen


async def test_a_wrong_token_is_told_by_every_verb(stand: NebiusBench) -> None:
    provider = stand.nebius(replace(stand.settings, token=Secret("another-token")))
    for call in (provider.create(stand.order()), provider.owned("owner"), provider.get("computeinstance-e00a")):
        with pytest.raises(Refused) as caught:
            await call
        assert caught.value.why is Why.CREDENTIALS
    health = await provider.check()
    assert not health.ok
    assert "another-token" not in health.summary


def credentials(folder: Path, key: rsa.RSAPrivateKey) -> Path:
    """A service account's file, as Nebius's own tool writes it."""
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    subject = {"alg": "RS256", "private-key": pem.decode(), "kid": "publickey-e00a"}
    subject |= {"iss": "serviceaccount-e00a", "sub": "serviceaccount-e00a"}
    path = folder / "credentials.json"
    path.write_text(json.dumps({"subject-credentials": subject}))
    return path


@pytest.fixture(scope="module")
def keys() -> tuple[rsa.RSAPrivateKey, rsa.RSAPrivateKey]:
    return rsa.generate_private_key(65537, 2048), rsa.generate_private_key(65537, 2048)


async def test_a_service_account_fetches_its_token(
    stand: NebiusBench, tmp_path: Path, keys: tuple[rsa.RSAPrivateKey, rsa.RSAPrivateKey]
) -> None:
    settings = replace(stand.settings, token=None, credentials_file=credentials(tmp_path, keys[0]))
    provider = stand.nebius(settings)
    stand.cloud.public_key = keys[0].public_key()
    instance = await provider.create(stand.order())
    fetched = len(stand.cloud.calls("Exchange"))
    assert fetched > 0
    assert await provider.get(instance.id) is not None
    assert len(stand.cloud.calls("Exchange")) == fetched  # it is kept as long as it lasts


async def test_a_service_account_that_is_turned_away_is_refused_and_nothing_was_sent(
    stand: NebiusBench, tmp_path: Path, keys: tuple[rsa.RSAPrivateKey, rsa.RSAPrivateKey]
) -> None:
    provider = stand.nebius(replace(stand.settings, token=None, credentials_file=credentials(tmp_path, keys[0])))
    stand.cloud.public_key = keys[1].public_key()
    with pytest.raises(Refused) as caught:
        await provider.create(stand.order())
    assert caught.value.why is Why.CREDENTIALS
    assert not stand.cloud.calls("Create")


@pytest.mark.parametrize("content", [None, "{", "{}", '{"subject-credentials": {"private-key": "nonsense"}}'])
async def test_a_credentials_file_that_is_none_is_refused(stand: NebiusBench, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "credentials.json"
    if content is not None:
        path.write_text(content)
    provider = stand.nebius(replace(stand.settings, token=None, credentials_file=path))
    with pytest.raises(Refused) as caught:
        await provider.owned("owner")
    assert caught.value.why is Why.CREDENTIALS


async def test_nothing_is_left_running(stand: NebiusBench) -> None:
    before = asyncio.all_tasks()
    provider = stand.nebius()
    await provider.create(stand.order())
    await provider.aclose()
    await provider.aclose()
    left = [repr(task) for task in asyncio.all_tasks() - before]
    assert not [task for task in left if "AioServer" not in task]  # those are the fake's
    with pytest.raises(Unclear):
        await provider.owned("owner")


async def test_nobody_answers(stand: NebiusBench) -> None:
    await stand.cloud.stop()
    with pytest.raises(Unclear):
        await stand.nebius().owned("owner")
    assert stand.clock.now() > stand.order().ends_at - timedelta(hours=1)  # it was asked again


GOOD: dict[str, Any] = {"projects": {"eu-north1": "project-e00a"}, "token": Secret("t")}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"projects": {}}, "at least one region"),
        ({"projects": {"a": "p", "b": "p"}}, "twice"),
        ({"projects": {"a/b": "p"}}, "letters"),
        ({"token": None}, "either"),
        ({"credentials_file": Path("x")}, "either"),
        ({"subnets": {"eu-west1": "s"}}, "subnets names eu-west1"),
        ({"security_groups": {"eu-west1": "s"}}, "security_groups names eu-west1"),
        ({"disk_gib": 1}, "at least 10"),
        ({"architectures": {"gpu-x": "sparc"}}, "amd64 or arm64"),
        ({"watch": timedelta(hours=1)}, "a minute"),
    ],
)
def test_settings_that_make_no_sense(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        NebiusSettings(**{**GOOD, **change})
