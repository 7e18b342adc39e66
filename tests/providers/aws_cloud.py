"""AWS on loopback: moto in process, with what it lacks (create tokens, shortages, prices), behind a wire that can be tripped.

moto keeps the token of a create and does not honour it, and knows no shortage; both are added where it makes instances.
Its spot prices are of 2006 and it has no price list; both are answered before it is asked. Errors are put on the wire as
EC2 words them, so that the SDK itself reads them.
"""

import atexit
import base64
import contextlib
import functools
import io
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from providers.sdk import sdk

os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # a second of reading that no test needs

ACCOUNT = "123456789012"
REGIONS = ("ap-southeast-3", "me-central-1")
RUN, LIST, END = "RunInstances", "DescribeInstances", "TerminateInstances"
PRICES = "AWSPriceListService.GetProducts"
SPOT = "DescribeSpotPriceHistory"
STATES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
Environ = dict[str, Any]
Start = Callable[..., Any]


@dataclass(frozen=True)
class Call:
    action: str
    region: str
    values: Mapping[str, str]  # the form of an EC2 call
    body: bytes

    @property
    def user_data(self) -> str:
        return base64.b64decode(self.values["UserData"]).decode()


@dataclass
class Trip:
    """What the next calls of an action come to. `reaches`: it has its effect first. `status=None`: the line is cut."""

    action: str
    status: int | None
    body: bytes = b""
    reaches: bool = False
    times: int = 1
    region: str = ""


@dataclass
class Wire:
    """Between the SDK and moto: it keeps what was sent, answers what moto cannot, and breaks when it is told to."""

    inner: Callable[[Environ, Start], Iterable[bytes]]
    after: Callable[[Call], None]
    calls: list[Call] = field(default_factory=list[Call])
    trips: list[Trip] = field(default_factory=list[Trip])
    prices: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])  # (region, type) -> USD
    spot: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])  # (zone, type) -> USD
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        values = dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))
        action = str(environ.get("HTTP_X_AMZ_TARGET") or values.get("Action", ""))
        region = environ["HTTP_AUTHORIZATION"].split("/")[2]
        call = Call(action, region, values, body)
        with self.lock:
            self.calls.append(call)
            trip = next((trip for trip in self.trips if trip.action == action and trip.region in ("", region)), None)
            if trip is not None:
                trip.times -= 1
                if not trip.times:
                    self.trips.remove(trip)
        if trip is None:
            return self._answer(call, environ, start)
        if trip.reaches:
            statuses: list[str] = []

            def unheard(status: str, *_: Any) -> Any:
                statuses.append(status)

            assert b"".join(self._answer(call, environ, unheard)) and statuses[0].startswith("200"), "it had no effect"
        if trip.status is None:
            with contextlib.suppress(OSError):
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        start(f"{trip.status or 500} Tripped", [("Content-Type", "text/xml"), ("Content-Length", str(len(trip.body)))])
        return [trip.body]

    def _answer(self, call: Call, environ: Environ, start: Start) -> Iterable[bytes]:
        body = b""
        if call.action == PRICES:
            body = self._price_list(json.loads(call.body))
        elif call.action == SPOT:
            body = self._spot_prices(call)
        if body:
            start("200 OK", [("Content-Type", "application/x-amz-json-1.1"), ("Content-Length", str(len(body)))])
            return [body]
        answer = list(self.inner(environ, start))
        self.after(call)
        return answer

    def _price_list(self, asked: Mapping[str, Any]) -> bytes:
        """In the shape of the price list's own example (aws_v1): products whose terms nest twice by opaque names."""
        exact = {filter["Field"]: filter["Value"] for filter in asked["Filters"]}
        price = self.prices.get((exact["regionCode"], exact["instanceType"]))
        term = {"priceDimensions": {"A.B.C": {"unit": "Hrs", "pricePerUnit": {"USD": price}}}}
        product = {"product": {"attributes": exact}, "serviceCode": "AmazonEC2", "terms": {"OnDemand": {"A.B": term}}}
        return json.dumps({"FormatVersion": "aws_v1", "PriceList": [json.dumps(product)] if price else []}).encode()

    def _spot_prices(self, call: Call) -> bytes:
        kinds = {value for key, value in call.values.items() if key.startswith("InstanceType.")}
        rows = "".join(
            f"<item><availabilityZone>{zone}</availabilityZone><instanceType>{kind}</instanceType>"
            f"<productDescription>Linux/UNIX</productDescription><spotPrice>{price}</spotPrice>"
            "<timestamp>2027-03-01T11:40:05.000Z</timestamp></item>"
            for (zone, kind), price in self.spot.items()
            if kind in kinds and zone.startswith(call.region)
        )
        return (
            '<DescribeSpotPriceHistoryResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
            f"<spotPriceHistorySet>{rows}</spotPriceHistorySet><nextToken/></DescribeSpotPriceHistoryResponse>"
        ).encode()


class Session:
    """boto3's session, but the same client for the same words: the SDK takes 20 ms to write the methods of each."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self._made: dict[str, Any] = {}

    def client(self, service: str, **words: Any) -> Any:
        name = repr((service, sorted((key, value) for key, value in words.items() if key != "config")))
        if name not in self._made:
            self._made[name] = self._real.client(service, **words)
        return self._made[name]


def error(code: str, message: str = "so it is") -> bytes:
    """An error as EC2's query protocol words it."""
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return f"<Response><Errors>{text}</Errors><RequestID>3ac5cd11-0d05-4e41-9c1f-0123456789ab</RequestID></Response>".encode()


class Cloud:
    """One server for all tests of a process. Every bench has an owner of its own."""

    def __init__(self) -> None:
        from moto.ec2.models import ec2_backends
        from moto.ec2.models.instances import Instance, InstanceBackend
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.session = Session(sdk("boto3", "aws").session.Session())
        self.short: set[tuple[str, str]] = set()  # (type, zone) that are out of machines
        self.held: set[str] = set()  # instances that stay in the state that they were put in
        self._given: dict[tuple[str, str, str], tuple[str, Any]] = {}
        self._lock = threading.RLock()
        self._backends: Any = ec2_backends
        self._real: Any = InstanceBackend.run_instances
        self._patched: Any = InstanceBackend
        cloud = self

        def run_instances(backend: Any, image_id: str, count: int, *rest: Any, **wanted: Any) -> Any:
            return cloud._run(backend, image_id, count, *rest, **wanted)

        def terminate(instance: Any) -> Any:
            """TerminateInstances is idempotent (EC2 developer guide); moto's fails on an interface that is gone already."""
            return instance._state if instance.state == "terminated" else cloud._end(instance)

        self._patched.run_instances = run_instances
        self._instance: Any = Instance
        self._end: Any = Instance.terminate
        self._instance.terminate = terminate
        self._server: Any = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self.wire = Wire(self._server._server.app, self._after)
        self._server._server.app = self.wire
        self.endpoint = "http://{}:{}".format(*self._server.get_host_and_port())
        self.subnets = {region: tuple(self._subnets(region)) for region in REGIONS}
        self.images = {region: self._image(region) for region in REGIONS}

    def stop(self) -> None:
        self._patched.run_instances = self._real
        self._instance.terminate = self._end
        self._server.stop()
        self._server._server.server_close()

    def backend(self, region: str) -> Any:
        return self._backends[ACCOUNT][region]

    def instances(self, owner: str) -> list[Any]:
        """moto's own objects, of all regions."""
        return [
            instance for region in REGIONS for instance in self.backend(region).all_instances() if owned_by(instance, owner)
        ]

    def instance(self, instance_id: str) -> Any:
        region, _, name = instance_id.partition("/")
        return self.backend(region).get_instance(name)

    def put(self, instance_id: str, state: str) -> None:
        self.held.add(instance_id.partition("/")[2])
        set_state(self.instance(instance_id), state)

    def take_back(self, instance: Any) -> None:
        """A spot interruption, as its record shows it."""
        from moto.ec2.models.instances import StateReason

        instance.terminate()
        instance.state_reason = StateReason(
            "Server.SpotInstanceTermination: Spot instance termination", "Server.SpotInstanceTermination"
        )
        instance._reason = "Server.SpotInstanceTermination"

    def reset(self) -> None:
        """What one bench broke shall not break the next."""
        self.short.clear()
        self.held.clear()
        self.wire.trips.clear()
        self.wire.calls.clear()
        self.wire.prices.clear()
        self.wire.spot.clear()

    def _subnets(self, region: str) -> Iterator[str]:
        zones = self.backend(region).subnets
        for zone in sorted(zones):
            yield next(iter(zones[zone]))

    def _image(self, region: str, architecture: str = "x86_64") -> str:
        """A machine image of our own; moto's register_image forgets the architecture."""
        from moto.ec2.models.amis import Ami
        from moto.ec2.utils import random_ami_id

        backend, name = self.backend(region), random_ami_id()
        backend.amis[name] = Ami(backend, name, name="gpu", architecture=architecture, root_device_type="ebs")
        return str(name)

    def _run(self, backend: Any, image_id: str, count: int, *rest: Any, **wanted: Any) -> Any:
        """A token belongs to one zone, as EC2's guide has it: the same again gives the same, another request none."""
        from moto.ec2.exceptions import EC2ClientError

        subnet, token = str(wanted["nics"][0]["SubnetId"]), str(wanted["client_token"])
        zone = backend.get_subnet(subnet).availability_zone
        asked = repr((image_id, count, rest, sorted(wanted.items(), key=str)))
        with self._lock:
            before = self._given.get((backend.region_name, zone, token))
            if before is not None:
                if before[0] != asked:
                    raise EC2ClientError("IdempotentParameterMismatch", "Arguments on this idempotent request are inconsistent")
                instance = before[1].instances[0]
                if instance.state in ("shutting-down", "terminated"):
                    raise EC2ClientError(
                        "IdempotentInstanceTerminated", "The client token is associated with a terminated instance"
                    )
                return before[1]
            if (wanted["instance_type"], zone) in self.short:
                text = f"We currently do not have sufficient {wanted['instance_type']} capacity in {zone}"
                raise EC2ClientError("InsufficientInstanceCapacity", text)
            made = self._real(backend, image_id, count, *rest, **wanted)
            self._given[backend.region_name, zone, token] = (asked, made)
            set_state(made.instances[0], "pending")
            return made

    def _after(self, call: Call) -> None:
        """What is pending runs once it was looked at, unless it is held."""
        if call.action == LIST:
            for instance in self.backend(call.region).all_instances():
                if instance.state == "pending" and instance.id not in self.held:
                    set_state(instance, "running")


def set_state(instance: Any, state: str) -> None:
    instance._state.name, instance._state.code = state, STATES[state]


def owned_by(instance: Any, owner: str) -> bool:
    return any(tag["key"] == "sublet.owner" and tag["value"] == owner for tag in instance.get_tags())


def ended_at(instance: Any) -> datetime:
    text = instance.state_transition_reason.partition("(")[2].removesuffix(")")
    return datetime.fromisoformat(text.removesuffix(" UTC")).replace(tzinfo=UTC)


@functools.cache
def cloud() -> Cloud:
    """Started once per process: moto takes a second to read what it knows of EC2."""
    started = Cloud()
    atexit.register(started.stop)
    return started
