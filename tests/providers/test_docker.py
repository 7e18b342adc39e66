"""Real containers: what they are given, how a half-made one is completed, whose name is whose, and what the engine refuses."""

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from providers import docker_engine
from providers.clock import SYSTEM
from providers.contract import Need, NoCapacity, Order, Phase, Refused, Throttled, Unclear
from providers.docker import DockerProvider, DockerSettings
from providers.docker_engine import split_image
from tests.parts import docker as docker_part
from tests.providers.benches import DockerBench, Orders, plain_offer
from tests.providers.trips import TrippingTransport
from tests.providers.wire import reply, wire


@pytest.fixture
async def bench(docker_host: str, docker_image: str) -> AsyncIterator[DockerBench]:
    stand = DockerBench(docker_host, docker_image)
    yield stand
    await stand.aclose()


def inspected(bench: DockerBench, container: str) -> dict[str, Any]:
    return docker_part.call(bench.host, "GET", f"/containers/{container}/json").json()


async def said(bench: DockerBench, container: str, word: str) -> str:
    """The container's output, once it holds the word."""
    for _ in range(500):
        text = docker_part.call(bench.host, "GET", f"/containers/{container}/logs", params={"stdout": "1", "stderr": "1"}).text
        if word in text:
            return text
        await asyncio.sleep(0.01)
    raise AssertionError(f"the container never said {word}")


async def stopped(provider: DockerProvider, container: str) -> str:
    for _ in range(500):
        now = await provider.get(container)
        assert now is not None
        if now.phase is Phase.STOPPED:
            return now.detail
        await asyncio.sleep(0.01)
    raise AssertionError("the container never stopped")


def over(bench: DockerBench, **settings: Any) -> DockerProvider:
    """Another provider on the bench's engine, with settings of its own."""
    provider = DockerProvider("docker", replace(bench.settings, **settings))
    bench.keep(provider)
    return provider


async def test_a_container_is_made_narrow(bench: DockerBench) -> None:
    provider = over(
        bench, memory_gib=Decimal("0.25"), cpus=Decimal("0.5"), pids=99, shm_mib=16, hosts=("forge:127.0.0.1",), network="host"
    )
    order = bench.order()
    container = inspected(bench, (await provider.create(order)).id)
    host, config = container["HostConfig"], container["Config"]
    assert container["Name"] == f"/{order.tag}"
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"], host["ShmSize"]) == (2**28, 5 * 10**8, 99, 2**24)
    assert (host["CapDrop"], host["SecurityOpt"], host["Privileged"]) == (["ALL"], ["no-new-privileges"], False)
    assert set(host["CapAdd"]) == {"CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"}
    assert (host["Init"], host["AutoRemove"], host["RestartPolicy"]["Name"]) == (True, False, "no")
    assert (host["NetworkMode"], host["ExtraHosts"], host["Binds"]) == ("host", ["forge:127.0.0.1"], None)
    assert config["Labels"] == {
        "sublet.owner": order.owner,
        "sublet.tag": order.tag,
        "sublet.key": order.key,
        "sublet.slot": "1",
        "sublet.ends-at": order.ends_at.isoformat(),
    }


async def test_the_script_runs_and_is_in_no_argument(bench: DockerBench) -> None:
    provider = await bench.docker()
    script = (
        "#!/bin/sh\n"
        'echo "start=<$SUBLET_START> quote=\'"\n'
        "ps -o args; grep -E 'Cap(Eff|Bnd)|NoNewPrivs' /proc/self/status\n"
        "echo over\n"
        "exit 7\n"
    )
    instance = await provider.create(replace(bench.order(), user_data=script))
    output = await said(bench, instance.id, "over")
    assert "start=<> quote='" in output, "what the script starts does not inherit it"
    assert "echo over" not in output
    assert "NoNewPrivs:\t1" in output
    assert "00000000000000eb" in output, "six capabilities: 0, 1, 3, 5, 6, 7"
    assert await stopped(provider, instance.id) == "exited with 7"
    assert [(one.phase, one.detail) for one in await provider.owned(bench.order.owner)] == [(Phase.STOPPED, "exited")]


async def test_a_name_that_somebody_else_has_is_refused_and_left_alone(bench: DockerBench) -> None:
    provider, order = await bench.docker(), bench.order()
    theirs = docker_part.call(
        bench.host, "POST", "/containers/create", params={"name": order.tag}, json={"Image": order.image, "Cmd": ["/bin/sh"]}
    ).json()["Id"]
    try:
        with pytest.raises(Refused, match="not ours"):
            await provider.create(order)
        with pytest.raises(Refused, match="not one of Sublet's"):
            await provider.destroy(theirs)
        assert await provider.get(theirs) is not None
    finally:
        docker_part.call(bench.host, "DELETE", f"/containers/{theirs}", params={"force": "1"})


async def test_another_attempt_under_the_same_name_is_unclear(bench: DockerBench) -> None:
    provider, order = await bench.docker(), bench.order()
    await provider.create(order)
    with pytest.raises(Unclear, match="another attempt"):
        await provider.create(replace(order, key="another"))


async def test_a_container_that_cannot_be_started_does_not_stay(bench: DockerBench) -> None:
    provider = over(bench, network="no-such-network")
    with pytest.raises(Refused, match=r"cannot start it: .*no-such-network"):
        await provider.create(bench.order())
    assert await provider.owned(bench.order.owner) == []


async def test_gpus_are_asked_for_by_slot_and_their_lack_is_refused(bench: DockerBench) -> None:
    provider = over(bench, gpu="H100", gpus=2, gpu_memory_gib=80)
    offers = await provider.offers(Need())
    assert [(offer.gpu, offer.gpus, offer.gpu_memory_gib) for offer in offers] == [
        ("H100", 1, 80),
        ("H100", 1, 80),
        (None, 0, 0),
    ]
    wire = TrippingTransport(httpx.AsyncHTTPTransport(uds=bench.host.removeprefix("unix://")))
    wire.trip(lambda request: request.url.path.endswith("/start"))
    blind = DockerProvider("docker", provider.settings, transport=wire)
    bench.keep(blind)
    order = replace(bench.order(), offer=offers[1])
    with pytest.raises(Unclear):
        await blind.create(order)
    [half] = await provider.owned(order.owner)
    asked = inspected(bench, half.id)["HostConfig"]["DeviceRequests"]
    assert [(one["Driver"], one["DeviceIDs"], one["Capabilities"]) for one in asked] == [("nvidia", ["1"], [["gpu"]])]
    with pytest.raises(Refused, match=r"cannot start it: .*nvidia"):
        await provider.create(order)
    assert await provider.owned(order.owner) == []


async def test_an_image_that_is_not_there_is_refused_and_pulled_only_where_that_is_allowed(bench: DockerBench) -> None:
    order = replace(bench.order(), image="127.0.0.1:9/no/such:1")
    with pytest.raises(Refused, match=r"image 127\.0\.0\.1:9/no/such:1 is not on the engine, and pull is off"):
        await (await bench.docker()).create(order)
    with pytest.raises(Refused, match=r"cannot pull 127\.0\.0\.1:9/no/such:1: .*refused"):
        await over(bench, pull=True).create(order)


async def test_a_long_pull_puts_the_create_off_and_goes_on(bench: DockerBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_engine, "PULL_PATIENCE", 0.05)
    wire = SlowPull(httpx.AsyncHTTPTransport(uds=bench.host.removeprefix("unix://")))
    provider = DockerProvider("docker", replace(bench.settings, pull=True), transport=wire)
    bench.keep(provider)
    order = replace(bench.order(), image="sublet-test/pulled:1")
    for _ in range(2):
        with pytest.raises(Throttled, match="still pulling sublet-test/pulled:1"):
            await provider.create(order)
    docker_part.call(
        bench.host, "POST", f"/images/{docker_part.BUSYBOX_IMAGE}/tag", params={"repo": "sublet-test/pulled", "tag": "1"}
    )
    try:
        wire.go.set()
        assert (await provider.create(order)).phase is Phase.RUNNING
        assert wire.asked == [{"fromImage": "sublet-test/pulled", "tag": "1"}], "one pull for all tries"
    finally:
        await bench.aclose()
        docker_part.call(bench.host, "DELETE", "/images/sublet-test/pulled:1")


class SlowPull(httpx.AsyncBaseTransport):
    """An engine whose pull takes until `go`."""

    def __init__(self, real: httpx.AsyncBaseTransport) -> None:
        self.real, self.go = real, asyncio.Event()
        self.asked: list[dict[str, str]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/images/create"):
            return await self.real.handle_async_request(request)
        self.asked.append(dict(request.url.params))
        await self.go.wait()
        return httpx.Response(200, content=b'{"status":"Pulling"}\n{"status":"Done"}\n')

    async def aclose(self) -> None:
        await self.real.aclose()


async def test_a_slot_that_two_services_took_at_once_is_given_back(bench: DockerBench) -> None:
    ours, theirs = await bench.docker(), await bench.docker()
    rival = bench.order()
    ours_wire = bench.wires[0]
    await theirs.create(replace(rival, offer=replace(rival.offer, id="slot-2")))
    empty = httpx.Response(200, json=[])
    ours_wire.trip(lambda request: request.url.path.endswith("/containers/json"), empty)  # it looked a moment before
    with pytest.raises(NoCapacity, match="slot 2 was taken at the same moment"):
        await ours.create(replace(bench.order(), offer=replace(rival.offer, id="slot-2")))
    assert [instance.tag for instance in await ours.owned(bench.order.owner)] == [rival.tag]


async def test_health_tells_of_a_full_engine_and_of_none(bench: DockerBench, tmp_path: Path) -> None:
    provider = await bench.docker()
    assert (await provider.check()).summary == "3 of 3 slots are free on this engine"
    nobody = DockerProvider("rack", DockerSettings(host=f"unix://{tmp_path}/no.sock"))
    health = await nobody.check()
    assert not health.ok
    assert health.summary.startswith("docker engine rack: GET /version: cannot connect")
    await nobody.aclose()


@pytest.mark.parametrize(
    ("oldest", "newest", "spoken"),
    [
        ("1.12", "1.41", "/v1.41"),
        ("1.24", "1.47", "/v1.47"),
        ("1.44", "1.99", "/v1.51"),
        ("1.12", "1.40", ""),
        ("1.60", "1.70", ""),
        ("", "1.41", "/v1.41"),
    ],
)
async def test_the_newest_version_that_both_speak_is_spoken(oldest: str, newest: str, spoken: str) -> None:
    version = f'{{"ApiVersion": "{newest}", "MinAPIVersion": "{oldest}"}}'.encode()
    async with wire(reply(200, version), reply(200, b"[]")) as line:
        provider = DockerProvider("rack", DockerSettings(host=line.url.replace("http", "tcp")))
        if spoken:
            assert await provider.owned("me") == []
            assert line.lines[1].startswith(f"GET {spoken}/containers/json?all=1")
        else:
            with pytest.raises(Refused, match="speaks API"):
                await provider.owned("me")
        await provider.aclose()


@pytest.mark.parametrize("answer", [b"{}", b'{"ApiVersion": 7}', b"[]", b"null", b'"1.41"', b"<html>"])
async def test_an_answer_of_a_strange_shape_is_unclear(answer: bytes) -> None:
    async with wire(reply(200, answer)) as line:
        provider = DockerProvider("rack", DockerSettings(host=line.url.replace("http", "tcp")))
        with pytest.raises(Unclear):
            await provider.owned("me")
        await provider.aclose()


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        ("created", Phase.FAILED),
        ("running", Phase.RUNNING),
        ("restarting", Phase.STARTING),
        ("removing", Phase.DESTROYING),
        ("paused", Phase.STOPPED),
        ("exited", Phase.STOPPED),
        ("dead", Phase.FAILED),
        ("dreaming", Phase.UNKNOWN),
    ],
)
async def test_every_state_of_a_container_has_its_phase(state: str, phase: Phase) -> None:
    version = b'{"ApiVersion": "1.41", "MinAPIVersion": "1.12"}'
    row = f'[{{"Id": "{"ab" * 32}", "State": "{state}", "Created": 1795294726, "Labels": {{"sublet.owner": "me"}}}}]'
    async with wire(reply(200, version), reply(200, row.encode())) as line:
        provider = DockerProvider("rack", DockerSettings(host=line.url.replace("http", "tcp")))
        [instance] = await provider.owned("me")
        assert (instance.phase, instance.created_at) == (phase, datetime(2026, 11, 21, 20, 58, 46, tzinfo=UTC))
        await provider.aclose()


async def test_a_list_that_ignores_the_filter_is_not_believed() -> None:
    version = b'{"ApiVersion": "1.41"}'
    row = f'[{{"Id": "{"ab" * 32}", "State": "running", "Created": 1, "Labels": {{"sublet.owner": "other"}}}}]'
    async with wire(reply(200, version), reply(200, row.encode())) as line:
        provider = DockerProvider("rack", DockerSettings(host=line.url.replace("http", "tcp")))
        assert await provider.owned("me") == []
        await provider.aclose()


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("busybox", ("busybox", "latest")),
        ("busybox:1.36", ("busybox", "1.36")),
        ("ghcr.io/acme/train:2", ("ghcr.io/acme/train", "2")),
        ("127.0.0.1:5000/train", ("127.0.0.1:5000/train", "latest")),
        ("acme/train@sha256:" + "a" * 64, ("acme/train", "sha256:" + "a" * 64)),
        ("acme/train:2@sha256:" + "a" * 64, ("acme/train", "sha256:" + "a" * 64)),
    ],
)
def test_an_image_is_pulled_by_exactly_one_tag_or_digest(image: str, parts: tuple[str, str]) -> None:
    assert split_image(image) == parts


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"host": "http://127.0.0.1:2375"}, "unix:///PATH or tcp://"),
        ({"host": "tcp://10.0.0.5:2375"}, "without TLS anyone could be root"),
        ({"host": "tcp://10.0.0.5:2376", "tls_ca": Path("ca.pem")}, "come together"),
        ({"slots": 0}, "slots is at least 1"),
        ({"gpus": -1}, "not negative"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DockerSettings(**settings)


async def test_an_engine_over_tls_is_known_by_its_ca_and_knows_us_by_our_certificate(tmp_path: Path) -> None:
    ca, certificate, key = certificates(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    server.load_cert_chain(certificate, key)
    server.verify_mode = ssl.CERT_REQUIRED
    info = b'{"ServerVersion": "20.10", "Images": 1}'
    async with wire(reply(200, b'{"ApiVersion": "1.41"}'), reply(200, info), reply(200, b"[]"), tls=server) as line:
        host = line.url.replace("https", "tcp")
        provider = DockerProvider("rack", DockerSettings(host=host, tls_ca=ca, tls_certificate=certificate, tls_key=key))
        health = await provider.check()
        assert health.ok, health.summary
        await provider.aclose()
        stranger = DockerProvider("rack", DockerSettings(host=host))
        assert not (await stranger.check()).ok
        await stranger.aclose()


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """A CA that is its own server and client, for 127.0.0.1: ca.pem, cert.pem, key.pem."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = SYSTEM.now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    paths = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
    for path, content in zip(paths, (pem, pem, private), strict=True):
        path.write_bytes(content)
    return paths


async def test_without_an_image_there_is_no_container() -> None:
    provider = DockerProvider("rack", DockerSettings())
    order: Order = Orders(plain_offer("rack", SYSTEM.now()), now=SYSTEM.now())()
    with pytest.raises(Refused, match="the pool names none"):
        await provider.create(order)
    await provider.aclose()
