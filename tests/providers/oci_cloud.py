"""Oracle's compute API as a fake on loopback: stateful, a server per region, its words judged by the SDK's own models.

It checks the signature of every request with the public half of the API key, takes no launch that the SDK's model would not
take, and gives no answer that it would not give. It honours retry tokens, keeps the records of ended machines, shows pages,
and breaks when it is told to.
"""

import atexit
import base64
import contextlib
import functools
import hashlib
import itertools
import json
import re
import secrets
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.providers.oci_model import misfit

REGIONS = ("ap-singapore-1", "us-phoenix-1")
DOMAINS = {"ap-singapore-1": ("qIZq:AP-SINGAPORE-1-AD-1",), "us-phoenix-1": ("qIZq:PHX-AD-1", "qIZq:PHX-AD-2", "qIZq:PHX-AD-3")}
TENANCY = "ocid1.tenancy.oc1..aaaaaaaatenancy7example"
USER = "ocid1.user.oc1..aaaaaaaauser7example"
COMPARTMENT = "ocid1.compartment.oc1..aaaaaaaacompartment7example"
FINGERPRINT = "20:3b:97:13:55:1c:5b:0d:d3:37:d8:50:4e:c5:3a:34"
LAUNCH, LIST, GET, END, SHAPES, REPORT, PLACES = "launch", "list", "get", "terminate", "shapes", "report", "domains"
ROUTES = (
    ("POST", re.compile(r"/20160918/instances"), LAUNCH),
    ("GET", re.compile(r"/20160918/instances"), LIST),
    ("GET", re.compile(r"/20160918/instances/([^/]+)"), GET),
    ("DELETE", re.compile(r"/20160918/instances/([^/]+)"), END),
    ("GET", re.compile(r"/20160918/shapes"), SHAPES),
    ("POST", re.compile(r"/20160918/computeCapacityReports"), REPORT),
    ("GET", re.compile(r"/20160918/availabilityDomains"), PLACES),
)
ANSWERS = {
    LAUNCH: "Instance",
    LIST: "list[Instance]",
    GET: "Instance",
    SHAPES: "list[Shape]",
    REPORT: "ComputeCapacityReport",
    PLACES: "list[AvailabilityDomain]",
}
OF_TOMORROW = "STATE_OF_TOMORROW"
"""A state that Oracle may add one day: the one word that no model of today knows."""
H100, A10, GB200, FLEX = "BM.GPU.H100.8", "VM.GPU.A10.1", "BM.GPU.GB200.4", "VM.Standard.E5.Flex"
Row = dict[str, Any]


def shape(name: str, gpus: int, gpu: str | None, memory: int, processor: str, *, flexible: bool = False) -> Row:
    row: Row = {"shape": name, "gpus": gpus, "memoryInGBs": float(memory), "ocpus": 16.0, "isFlexible": flexible}
    return row | {"processorDescription": processor, **({"gpuDescription": gpu} if gpu else {})}


CATALOGUE = (
    shape(H100, 8, "NVIDIA® H100", 2048, "2.0 GHz Intel® Xeon® Platinum 8480+ (Sapphire Rapids)"),
    shape(A10, 1, "NVIDIA® A10", 240, "2.6 GHz Intel® Xeon® Platinum 8358 (Ice Lake)"),
    shape(GB200, 4, "NVIDIA® GB200", 960, "NVIDIA® Grace™ CPU"),
    shape("BM.GPU.VR200.4", 4, None, 1024, "NVIDIA® Vera™ CPU"),
    shape(FLEX, 0, None, 12, "2.4 GHz AMD EPYC™ 9J14 (Genoa)", flexible=True),
)


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code)
        self.status, self.body = status, error(code, message)


@dataclass(frozen=True)
class Call:
    operation: str
    name: str  # the instance's, where there is one
    query: Mapping[str, str]
    headers: Mapping[str, str]
    content: Any


@dataclass
class Trip:
    """What the next calls of an operation come to. `reaches`: it has its effect first. `status=None`: the line is cut."""

    operation: str
    status: int | None
    body: bytes = b""
    reaches: bool = False
    times: int = 1
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class Region:
    """The state of one region."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.RLock()
        self.numbers = itertools.count(1)
        self.reset()

    def reset(self) -> None:
        self.instances: dict[str, Row] = {}
        self.volumes: dict[str, str] = {}  # instance -> its boot volume
        self.tokens: dict[str, tuple[str, str]] = {}
        self.short: set[tuple[str, str]] = set()  # (shape, domain) that are out of machines
        self.left: dict[str, int] = {}  # shape -> machines left, as the report says
        self.hidden: set[str] = set()  # instances that the key may list and not read
        self.held: set[str] = set()  # instances that stay as they are
        self.shapes: list[Row] = list(CATALOGUE)
        self.calls: list[Call] = []
        self.trips: list[Trip] = []

    def do(self, call: Call) -> tuple[Any, dict[str, str]]:
        """The answer, and its headers."""
        with self.lock:
            match call.operation:
                case "launch":
                    return self._launch(call), {}
                case "list":
                    return self._list(call)
                case "get":
                    row = self._shown(call.name)
                    self._move_on()
                    return row, {}
                case "terminate":
                    return self._terminate(call), {}
                case "shapes":
                    self._in_compartment(call)
                    return self.shapes, {}
                case "report":
                    return self._report(call.content), {}
                case _:
                    return [
                        {"name": name, "id": f"ocid1.availabilitydomain.oc1..{name.lower()}"} for name in DOMAINS[self.name]
                    ], {}

    def _launch(self, call: Call) -> Row:
        details, token = call.content, call.headers["opc-retry-token"]
        wrong = misfit("LaunchInstanceDetails", details)
        if wrong:
            raise Refusal(400, "CannotParseRequest", wrong)
        if details["compartmentId"] != COMPARTMENT or details["availabilityDomain"] not in DOMAINS[self.name]:
            raise Refusal(404, "NotAuthorizedOrNotFound", "Authorization failed or requested resource not found.")
        if sum(len(name) + len(value) for name, value in details["metadata"].items()) > 32000:
            raise Refusal(400, "InvalidParameter", "metadata is larger than 32000 bytes")
        asked = json.dumps(details, sort_keys=True)
        if token in self.tokens:
            before, name = self.tokens[token]
            if self.instances[name]["lifecycleState"] in ("TERMINATING", "TERMINATED"):
                raise Refusal(409, "InvalidatedRetryToken", "The retry token was invalidated by a later operation.")
            if before != asked:
                raise Refusal(409, "Conflict", "The retry token was used for another request.")
            return dict(self.instances[name])
        if (details["shape"], details["availabilityDomain"]) in self.short:
            raise Refusal(500, "InternalError", "Out of host capacity.")
        name = f"ocid1.instance.oc1.{self.name}.anzwsljr{next(self.numbers):06d}{secrets.token_hex(20)}"
        self.tokens[token] = (asked, name)
        row: Row = {
            "id": name,
            "availabilityDomain": details["availabilityDomain"],
            "compartmentId": COMPARTMENT,
            "displayName": details["displayName"],
            "freeformTags": details["freeformTags"],
            "lifecycleState": "PROVISIONING",
            "region": self.name,
            "shape": details["shape"],
            "timeCreated": "2027-03-01T12:00:00.000+00:00",
            "metadata": details["metadata"],
        }
        if details.get("preemptibleInstanceConfig"):
            row["preemptibleInstanceConfig"] = details["preemptibleInstanceConfig"]
        self.instances[name] = row
        self.volumes[name] = "boot volume"
        return dict(row)

    def _list(self, call: Call) -> tuple[list[Row], dict[str, str]]:
        self._in_compartment(call)
        wanted = call.query.get("displayName")
        rows = [dict(row) for row in self.instances.values() if wanted in (None, row["displayName"])]
        size, start = int(call.query.get("limit", "100")), int(call.query.get("page", "0"))
        self._move_on()
        more = {"opc-next-page": str(start + size)} if start + size < len(rows) else {}
        return rows[start : start + size], more

    def _in_compartment(self, call: Call) -> None:
        if call.query.get("compartmentId") != COMPARTMENT:
            raise Refusal(404, "NotAuthorizedOrNotFound", "Authorization failed or requested resource not found.")

    def _shown(self, name: str) -> Row:
        if name not in self.instances or name in self.hidden:
            raise Refusal(404, "NotAuthorizedOrNotFound", "Authorization failed or requested resource not found.")
        return dict(self.instances[name])

    def _terminate(self, call: Call) -> None:
        row = self._shown(call.name)
        self.held.discard(call.name)
        if row["lifecycleState"] in ("TERMINATING", "TERMINATED"):
            raise Refusal(409, "IncorrectState", f"The instance is {row['lifecycleState']}.")
        self.instances[call.name]["lifecycleState"] = "TERMINATING"
        if call.query.get("preserveBootVolume") != "true":
            self.volumes.pop(call.name, None)

    def _report(self, asked: Any) -> Row:
        wrong = misfit("CreateComputeCapacityReportDetails", asked)
        if wrong or asked["compartmentId"] != TENANCY:
            raise Refusal(400, "InvalidParameter", wrong or "the report is of the root compartment")
        rows: list[Row] = []
        for one in asked["shapeAvailabilities"]:
            name, row = one["instanceShape"], {"instanceShape": one["instanceShape"], "availabilityStatus": "AVAILABLE"}
            if (name, asked["availabilityDomain"]) in self.short:
                row["availabilityStatus"] = "OUT_OF_HOST_CAPACITY"
            elif name in self.left:
                row["availableCount"] = self.left[name]
            rows.append(row)
        known = {"compartmentId": TENANCY, "availabilityDomain": asked["availabilityDomain"]}
        return known | {"shapeAvailabilities": rows, "timeCreated": "2027-03-01T12:00:00Z"}

    def _move_on(self) -> None:
        """What is on its way arrives once it was looked at, unless it is held."""
        for name, row in self.instances.items():
            if name not in self.held:
                onward = {"PROVISIONING": "RUNNING", "TERMINATING": "TERMINATED"}
                row["lifecycleState"] = onward.get(row["lifecycleState"], row["lifecycleState"])


def error(code: str, message: str = "so it is") -> bytes:
    return json.dumps({"code": code, "message": message}).encode()


class Cloud:
    """A server for each region, for all tests of a process."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        form = serialization.PrivateFormat.TraditionalOpenSSL
        self.pem = self.key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
        self.regions = {name: Region(name) for name in REGIONS}
        self._servers = {name: _serve(region, self.key.public_key()) for name, region in self.regions.items()}
        self.endpoints = {name: "http://{}:{}".format(*server.server_address[:2]) for name, server in self._servers.items()}

    def stop(self) -> None:
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    def reset(self) -> None:
        for region in self.regions.values():
            region.reset()


def _serve(region: Region, key: rsa.RSAPublicKey) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the requests are kept as calls."""

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            found = ((name, route.fullmatch(parts.path)) for verb, route, name in ROUTES if verb == self.command)
            operation, place = next(((name, match) for name, match in found if match), ("", None))
            headers = {name.lower(): value for name, value in self.headers.items()}
            content = json.loads(body) if body else None
            name = unquote(place[1]) if place is not None and place.groups() else ""
            call = Call(operation, name, dict(parse_qsl(parts.query)), headers, content)
            with region.lock:
                region.calls.append(call)
                trip = next((trip for trip in region.trips if trip.operation == operation), None)
                if trip is not None:
                    trip.times -= 1
                    if not trip.times:
                        region.trips.remove(trip)
            status, answer, more = (0, b"", dict[str, str]())
            if trip is None or trip.reaches:
                status, answer, more = self._answer(call, body)
            if trip is not None:
                if trip.status is None:
                    self.close_connection = True
                    with contextlib.suppress(OSError):
                        self.connection.shutdown(socket.SHUT_RDWR)
                    return
                status, answer, more = trip.status, trip.body, dict(trip.headers)
            self.send_response(status)
            for key, value in {"Content-Type": "application/json", "Content-Length": str(len(answer)), **more}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_DELETE = _any  # noqa: N815  as the standard library names them

        def _answer(self, call: Call, body: bytes) -> tuple[int, bytes, dict[str, str]]:
            try:
                self._prove(body)
                if not call.operation:
                    raise Refusal(404, "NotFound", "no such operation")
                answer, more = region.do(call)
            except Refusal as refusal:
                return refusal.status, refusal.body, {}
            if call.operation == END:
                return 204, b"", more
            known = json.loads(json.dumps(answer).replace(OF_TOMORROW, "RUNNING"))
            wrong = misfit(ANSWERS[call.operation], known)
            if wrong:
                return 599, error("FakeIsWrong", wrong), {}
            return 200, json.dumps(answer).encode(), more

        def _prove(self, body: bytes) -> None:
            """The signature as Oracle's page "Request Signatures" has it. Raises `Refusal`."""
            told = dict(re.findall(r'(\w+)="([^"]*)"', self.headers.get("Authorization", "")))
            lines: list[str] = []
            for name in told.get("headers", "").split():
                value = f"{self.command.lower()} {self.path}" if name == "(request-target)" else self.headers.get(name, "")
                lines.append(f"{name}: {value}")
            digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
            try:
                key.verify(base64.b64decode(told["signature"]), "\n".join(lines).encode(), padding.PKCS1v15(), hashes.SHA256())
                good = told["keyId"] == f"{TENANCY}/{USER}/{FINGERPRINT}"
                if body and self.headers.get("x-content-sha256") != digest:
                    good = False
            except (KeyError, ValueError, InvalidSignature):  # a header is missing, is no base64, or was signed by another
                good = False
            if not good:
                raise Refusal(401, "NotAuthenticated", "The required information to complete authentication was not provided.")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


@functools.cache
def cloud() -> Cloud:
    """Started once per process: making a key takes a moment."""
    started = Cloud()
    atexit.register(started.stop)
    return started
