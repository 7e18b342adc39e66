"""What AWS may answer the wrapper with: each code, broken pages, foreign ids, images that do not fit, settings that lie."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from providers import aws_api
from providers.aws import AwsProvider, AwsSettings
from providers.aws_errors import BROKEN, CREDENTIALS, NO_MACHINE, QUOTA, SLOW_DOWN, sort_answer
from providers.contract import NoCapacity, ProviderError, Refused, Secret, Throttled, Unclear, Why
from providers.sdk import sdk
from tests.providers.aws_bench import B300, HOME, AwsBench, bench
from tests.providers.aws_cloud import LIST, REGIONS, RUN, cloud, error
from tests.providers.benches import ManualClock

SUBNETS = {HOME: ("subnet-0123456789abcdef0",)}


def answered(code: str, status: int = 400, message: str = "so it is") -> ProviderError:
    """As the SDK gives an error answer; the tests below and the suite put them on the wire, too."""
    answer: dict[str, Any] = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return sort_answer("aws", answer, creates=True, hidden=("hush-hush",))


def test_every_code_has_its_meaning() -> None:
    for code in CREDENTIALS:
        refused = answered(code, 401)
        assert isinstance(refused, Refused) and refused.why is Why.CREDENTIALS, code
    for code in QUOTA:
        refused = answered(code)
        assert isinstance(refused, Refused) and refused.why is Why.QUOTA, code
    for code in NO_MACHINE:
        assert isinstance(answered(code, 500), NoCapacity) and isinstance(answered(code), NoCapacity), code
    for code in SLOW_DOWN:
        throttled = answered(code, 503)
        assert isinstance(throttled, Throttled) and throttled.wait.total_seconds() > 0, code
    for code in BROKEN:
        unclear = answered(code, 400)
        assert isinstance(unclear, Unclear) and unclear.maybe_created, code


def test_a_code_belongs_to_one_meaning() -> None:
    tables = (CREDENTIALS, QUOTA, NO_MACHINE, SLOW_DOWN, BROKEN)
    assert sum(map(len, tables)) == len(frozenset[str]().union(*tables))


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("InvalidParameterValue", 400, Refused),
        ("InvalidSubnetID.NotFound", 400, Refused),
        ("SomethingOfTomorrow", 400, Refused),
        ("SomethingOfTomorrow", 500, Unclear),
        ("SomethingOfTomorrow", 200, Unclear),
        ("", 400, Unclear),
        ("403", 403, Unclear),  # what the SDK makes of an answer that is not AWS's: a proxy's page
        ("IdempotentParameterMismatch", 400, Unclear),
    ],
)
def test_a_code_that_is_not_known(code: str, status: int, kind: type[ProviderError]) -> None:
    told = answered(code, status)
    assert type(told) is kind and (not isinstance(told, Unclear) or told.maybe_created)


@pytest.mark.parametrize("answer", [{}, {"Error": None}, {"Error": {"Code": 7}}, {"ResponseMetadata": "x", "Error": {}}])
def test_an_error_of_no_shape_is_unclear(answer: Mapping[str, Any]) -> None:
    assert isinstance(sort_answer("aws", answer, creates=True, hidden=()), Unclear)


def test_an_error_shows_no_secret_and_one_line() -> None:
    text = str(answered("AuthFailure", 401, "key hush-hush\n\x1b[31m is " + "long " * 200))
    assert "hush-hush" not in text and "\n" not in text and "\x1b" not in text and len(text) <= 300


async def test_codes_on_the_wire() -> None:
    """Through the SDK's own parser, on create."""
    cases: list[tuple[int, str, type[ProviderError], Why | None]] = [
        (400, "MaxSpotInstanceCountExceeded", Refused, Why.QUOTA),
        (403, "UnauthorizedOperation", Refused, Why.CREDENTIALS),
        (400, "PendingVerification", Refused, Why.CREDENTIALS),
        (400, "InvalidParameterCombination", Refused, Why.REQUEST),
        (503, "Unavailable", Unclear, None),
    ]
    async with bench() as stood_up:
        provider = stood_up.aws()
        for status, code, kind, why in cases:
            stood_up.trip(RUN, status, error(code))
            with pytest.raises(kind, match=code) as told:
                await provider.create(stood_up.order())
            assert getattr(told.value, "why", None) is why
        stood_up.trip(RUN, 403, b"<html>blocked by the proxy</html>")
        with pytest.raises(Unclear) as unclear:
            await provider.create(stood_up.order())
        assert unclear.value.maybe_created


async def test_nobody_there_is_unclear_and_nothing_was_sent() -> None:
    stood_up = AwsBench(cloud())
    provider = AwsProvider(
        "aws", stood_up.settings, clock=stood_up.clock, session=cloud().session, endpoint="http://127.0.0.1:9"
    )
    try:
        with pytest.raises(Unclear, match="cannot connect") as unclear:
            await provider.create(stood_up.order())
        assert not unclear.value.maybe_created and not stood_up.cloud.wire.calls
    finally:
        await provider.aclose()
        await stood_up.aclose()


async def test_without_credentials_a_person_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    provider = AwsProvider(
        "aws",
        AwsSettings(SUBNETS),
        clock=ManualClock(),
        session=sdk("boto3", "aws").session.Session(),
        endpoint="http://127.0.0.1:9",
    )
    try:
        with pytest.raises(Refused, match="credentials") as refused:
            await provider.owned("nobody")
        assert refused.value.why is Why.CREDENTIALS
        assert not (await provider.check()).ok
    finally:
        await provider.aclose()
    monkeypatch.setenv("AWS_PROFILE", "gone")
    with pytest.raises(ValueError, match="AWS_PROFILE"):
        AwsProvider("aws", AwsSettings(SUBNETS))
    with pytest.raises(ValueError, match="no profile 'nowhere'"):
        AwsProvider("aws", AwsSettings(SUBNETS, profile="nowhere"))


async def test_one_failed_region_makes_the_list_unclear() -> None:
    async with bench() as stood_up:
        provider = stood_up.aws()
        await provider.create(stood_up.order())
        stood_up.trip(LIST, 500, error("InternalError"), times=3, region=REGIONS[1])
        with pytest.raises(Unclear, match=REGIONS[1]):
            await provider.owned(stood_up.order.owner)


@pytest.mark.parametrize("following", ["same", "always another"])
async def test_pages_without_end_are_unclear(following: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_api, "MOST_PAGES", 12)
    async with bench() as stood_up:
        for number in range(13):
            after = "x" if following == "same" else str(number)
            page = f"<DescribeInstancesResponse><reservationSet/><nextToken>{after}</nextToken></DescribeInstancesResponse>"
            stood_up.trip(LIST, 200, page.encode(), region=HOME)
        with pytest.raises(Unclear, match="do not end"):
            await stood_up.aws().owned(stood_up.order.owner)


@pytest.mark.parametrize(
    "body",
    [
        b"<html><body>Log in to this network</body></html>",
        b"<DescribeInstancesResponse/>",
        b"<DescribeInstancesResponse><reservationSet><item/></reservationSet></DescribeInstancesResponse>",
        b"nonsense",
        b"",
    ],
)
async def test_a_list_of_no_shape_is_unclear(body: bytes) -> None:
    """The SDK reads another page as an answer without rows: nothing there would be the worst of mistakes."""
    async with bench() as stood_up:
        provider = stood_up.aws()
        stood_up.trip(LIST, 200, body, times=3, region=HOME)
        with pytest.raises(Unclear):
            await provider.owned(stood_up.order.owner)
        stood_up.cloud.wire.trips.clear()
        stood_up.trip(LIST, 200, body, times=3)
        with pytest.raises(Unclear):
            await provider.get(f"{HOME}/i-0123456789abcdef0")


async def test_a_foreign_id_is_never_sent() -> None:
    async with bench() as stood_up:
        provider = stood_up.aws()
        for stranger in (
            "i-0123456789abcdef0",
            f"{HOME}/i-xyz",
            f"{HOME}/vol-0123456789abcdef0",
            f"{HOME}/i-0123456789abcdef0/x",
            "../i-0",
        ):
            assert await provider.get(stranger) is None
            await provider.destroy(stranger)
        assert not stood_up.cloud.wire.calls
        with pytest.raises(Unclear, match="not in the settings"):  # its machine may well live: that proves nothing
            await provider.get("eu-west-1/i-0123456789abcdef0")


async def test_an_answer_about_another_machine_proves_nothing() -> None:
    async with bench() as stood_up:
        provider = stood_up.aws()
        stood_up.trip(LIST, 200, b"<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>")
        with pytest.raises(Unclear):
            await provider.get(f"{HOME}/i-0123456789abcdef0")
        other = b"<instanceId>i-0123456789abcdef0</instanceId><instanceState><name>running</name></instanceState>"
        body = b"<RunInstancesResponse><instancesSet><item>" + other + b"</item></instancesSet></RunInstancesResponse>"
        stood_up.trip(RUN, 200, body)
        with pytest.raises(Unclear, match="another machine") as unclear:
            await provider.create(stood_up.order())
        assert unclear.value.maybe_created


async def test_an_image_that_does_not_fit_is_refused_before_the_call() -> None:
    arm, large = cloud()._image(HOME, "arm64"), cloud()._image(HOME)  # pyright: ignore[reportPrivateUsage]
    stood_up = AwsBench(cloud(), disk_gib=14)
    try:
        provider = stood_up.aws()
        for image, word in ((arm, "is for arm64"), (large, "needs a root disk of 15"), ("ubuntu:24.04", "no machine image")):
            with pytest.raises(Refused, match=word):
                await provider.create(stood_up.another(image=image))
        with pytest.raises(Refused, match="InvalidAMIID"):
            await provider.create(stood_up.another(image="ami-00000000000000000"))
        with pytest.raises(Refused, match="no offer of this provider"):
            await provider.create(stood_up.another(region="eu-west-1"))
        assert not any(call.action == RUN for call in stood_up.cloud.wire.calls)
    finally:
        await stood_up.aclose()


async def test_check_tells_what_a_launch_would_come_to() -> None:
    async with bench() as stood_up:
        provider = stood_up.aws()
        health = await provider.check()
        assert health.ok and "a launch would be allowed" in health.facts[HOME]
        assert not stood_up.cloud.instances(stood_up.order.owner)
        stood_up.trip(RUN, 403, error("UnauthorizedOperation", "You are not authorized to perform this operation."))
        denied = await provider.check()
        assert not denied.ok and "not authorized" in denied.summary
        stood_up.trip(RUN, 400, error("VcpuLimitExceeded"))
        short = await provider.check()
        assert short.ok and "would exceed a quota" in " ".join(short.facts.values())


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"subnets": {}}, "at least one region"),
        ({"subnets": {"moon": ("subnet-0123456789abcdef0",)}}, "not a region"),
        ({"subnets": {HOME: ()}}, "at least one"),
        ({"subnets": {HOME: ("subnet-1", "subnet-1")}}, "different ids"),
        ({"access_key_id": "AKIA"}, "come together"),
        ({"session_token": Secret("x")}, "belongs to"),
        ({"access_key_id": "AKIA", "secret_access_key": Secret("x"), "profile": "ci"}, "not both"),
        ({"security_groups": {"eu-west-1": ("sg-0123456789abcdef0",)}}, "security_groups"),
        ({"security_groups": {HOME: ("default",)}}, "security_groups"),
        ({"images": {HOME: "ubuntu"}}, "images"),
        ({"images": {f"{HOME}/riscv": "ami-0123456789abcdef0"}}, "images"),
        ({"types": ()}, "types"),
        ({"types": ("P5 large",)}, "types"),
        ({"on_demand": False, "spot": False}, "nothing is offered"),
        ({"disk_gib": 1}, "disk_gib"),
        ({"prices": {"h100": Decimal(1)}}, "prices"),
        ({"prices": {f"eu-west-1/{B300}": Decimal(1)}}, "prices"),
        ({"prices": {B300: Decimal(-1)}}, "prices"),
    ],
)
def test_settings_that_contradict_themselves(settings: Mapping[str, Any], word: str) -> None:
    given: dict[str, Any] = {"subnets": SUBNETS, **settings}
    with pytest.raises(ValueError, match=word):
        AwsSettings(**given)
