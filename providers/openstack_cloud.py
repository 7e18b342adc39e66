"""A cloud of `clouds.yaml`: openstacksdk reads the file, logs in and keeps the sessions; calls go to Nova, Glance and Neutron.

The SDK blocks, so each call is one hop into a thread. It repeats nothing: its retries are off, and a read is repeated here.
Answers are read as JSON, not through the SDK's resources, which show neither `Retry-After` nor where a 404 comes from.
"""

import asyncio
import contextlib
import json
import logging
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from providers.clock import Clock
from providers.contract import NoCapacity, ProviderError, Refused, Throttled, Unclear, Why
from providers.http import MEBIBYTE, clean, repeated, said_by_vendor, table, tables, wait_of
from providers.rate import Pace, shared
from providers.sdk import sdk

EXTRA = "openstack"
TIMEOUTS = (5.0, 30.0)  # seconds to connect, and between two pieces of an answer
CAP = 16 * MEBIBYTE
PAGE = 500
MOST_PAGES = 200
EVERY, BURST = timedelta(milliseconds=100), 20  # OpenStack has no rate of its own; a cloud that has one says 429
NO_HOST = ("no valid host", "exhausted all hosts", "not enough hosts", "insufficient compute resources")
QUOTA = ("quota", "limit exceeded", "maximum number of")  # of ports and addresses, too, which Nova reports as a 403
SERVICES = ("compute", "image", "network")
QUIET = ("keystoneauth", "keystoneauth1", "openstack", "urllib3")


@dataclass(frozen=True, slots=True)
class Reply:
    """A status and a whole body. `content` is the JSON object in it."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    what: str
    creates: bool = False

    @property
    def content(self) -> Mapping[str, Any]:
        try:
            return table(json.loads(self.body))
        except (ValueError, TypeError):
            raise Unclear(f"{self.what}: the answer is no JSON object", maybe_created=self.creates) from None


@dataclass
class Region:
    """One region, with a client per service, and the newest microversion of its Nova."""

    name: str
    session: Any
    clients: Mapping[str, Any]
    cloud: "Cloud"
    newest: tuple[int, int] | None = field(default=None)

    async def read(self, path: str, *, service: str = "compute", micro: str = "", params: Any = None) -> Reply | None:
        """The answer, or None where the service itself says that there is no such thing. Asked up to three times."""
        return await repeated(lambda: self._asked("GET", path, service, micro, params, None, creates=False), self.cloud.clock)

    async def write(self, method: str, path: str, *, body: Any = None, micro: str = "", creates: bool = False) -> Reply | None:
        """Sent once. None where Nova says that what is meant is not there."""
        return await self._asked(method, path, "compute", micro, None, body, creates=creates)

    async def pages(self, path: str, what: str, *, micro: str = "", params: Mapping[str, str] | None = None) -> Sequence[Any]:
        """Every row of a listing of Nova's. Raises `Unclear` if a page fails, says nothing new, or there is no end."""
        rows, seen, marker = list[Mapping[str, Any]](), set[str](), ""
        for _ in range(MOST_PAGES):
            asked = {**(params or {}), "limit": str(PAGE), **({"marker": marker} if marker else {})}
            reply = await self.read(path, micro=micro, params=asked)
            if reply is None:
                raise Unclear(f"openstack {self.name}: there is no {path}", maybe_created=False)
            page = tables(reply.content.get(what))
            fresh = [row for row in page if str(row.get("id")) not in seen]
            if page and not fresh:
                raise Unclear(f"openstack {self.name}: the pages of {path} go round in a circle", maybe_created=False)
            seen |= {str(row.get("id")) for row in fresh}
            rows += fresh
            links: object = reply.content.get(f"{what}_links")
            more = bool(links) and any(link.get("rel") == "next" for link in tables(links))
            if not page or (not more and len(page) < PAGE):
                return rows
            # The link itself may name a host that only the cloud knows: its marker is the last id, and that is enough.
            marker = quote(str(page[-1].get("id")), safe="")
        raise Unclear(f"openstack {self.name}: {path} has more than {MOST_PAGES} pages", maybe_created=False)

    async def micro(self, wanted: tuple[int, int]) -> str:
        """The wanted microversion as a header, where Nova knows it; else none, which is 2.1."""
        newest = self.newest
        if newest is None:
            newest = self.newest = await self.cloud.hop(self._newest, f"openstack {self.name}: the version of Nova")
        return f"{wanted[0]}.{wanted[1]}" if newest >= wanted else ""

    def _newest(self) -> tuple[int, int]:
        found = self.clients["compute"].get_endpoint_data()
        newest = getattr(found, "max_microversion", None)
        return (int(newest[0]), int(newest[1])) if newest else (2, 1)

    async def _asked(
        self, method: str, path: str, service: str, micro: str, params: Any, body: Any, *, creates: bool
    ) -> Reply | None:
        what = f"openstack {self.name}: {method} {path.partition('?')[0]}"
        await self.cloud.pace.turn(what)
        # Logged in and found before the call, so that trouble with either leaves nothing open.
        await self.cloud.hop(lambda: self._ready(service), what)

        def send() -> Reply:
            client = self.clients[service]
            more: dict[str, Any] = {"json": body} if body is not None else {}
            answer = client.request(
                path,
                method,
                params=params,
                microversion=micro or None,
                raise_exc=False,
                redirect=False,
                connect_retries=0,
                status_code_retries=0,
                timeout=TIMEOUTS,
                log=False,  # it would write bodies and headers at DEBUG
                stream=True,
                **more,
            )
            with contextlib.closing(answer):
                content = bytearray()
                for piece in answer.iter_content(65536):
                    content += piece
                    if len(content) > CAP:
                        raise Unclear(f"{what}: the answer is larger than {CAP} bytes", maybe_created=creates)
                return Reply(int(answer.status_code), bytes(content), dict(answer.headers), what, creates)

        reply = await self.cloud.hop(send, what, creates=creates)
        if 200 <= reply.status < 300:
            return reply
        if reply.status == 404 and not creates and _is_absence(reply):
            return None
        raise self.cloud.sorted(reply)

    def _ready(self, service: str) -> None:
        self.session.get_token()
        self.clients[service].get_endpoint()


class Cloud:
    """The cloud, opened on first use. Raises only `ProviderError`; belongs to one event loop."""

    def __init__(self, *, cloud: str, regions: Collection[str], clouds_file: Path | None, clock: Clock) -> None:
        """Raises ValueError without the SDK."""
        self._config = sdk("openstack.config", EXTRA)
        self._adapter = sdk("keystoneauth1.adapter", EXTRA)
        self._trouble = sdk("keystoneauth1.exceptions", EXTRA)
        for name in QUIET:
            # At DEBUG they write requests into the log, with user data, tokens and passwords.
            logging.getLogger(name).setLevel(logging.WARNING)
        notices = sdk("openstack.warnings", EXTRA)
        for notice in (notices.RemovedInSDK50Warning, notices.RemovedInSDK60Warning):
            warnings.filterwarnings("ignore", category=notice)  # what the SDK tells itself, of every clouds.yaml there is
        self.name, self._names, self._file, self.clock = cloud, tuple(regions), clouds_file, clock
        self.pace: Pace = shared(f"openstack|{clouds_file}|{cloud}", EVERY, BURST, clock=clock)
        self._opening = asyncio.Lock()
        self._regions: dict[str, Region] = {}
        self._closed = False

    async def regions(self) -> Mapping[str, Region]:
        """By name. Nothing is asked over the network yet. Raises `Refused` where the file does not say how to log in."""
        async with self._opening:
            if self._closed:
                raise Unclear(f"openstack {self.name}: this provider is closed", maybe_created=False)
            if not self._regions:
                found = await asyncio.to_thread(self._read)
                if isinstance(found, str):
                    problem = f"openstack {self.name}: clouds.yaml does not say how to log in there: {found}"
                    raise Refused(problem, why=Why.CREDENTIALS)
                self._regions = found
        return self._regions

    async def aclose(self) -> None:
        self._closed = True
        regions, self._regions = self._regions, {}
        for region in regions.values():
            region.session.session.close()

    async def hop(self, work: Any, what: str, *, creates: bool = False) -> Any:
        """Run it in a thread, and sort what it raises."""
        failure: Any = None
        try:
            return await asyncio.to_thread(work)
        except ProviderError:
            raise
        except Exception as error:  # noqa: BLE001  whatever the SDK raises is sorted
            failure = error
        # Raised out here, so that the SDK's own error, with the vendor's whole text in it, is no context of ours.
        raise self._sorted_failure(failure, what, creates)

    def sorted(self, reply: Reply) -> ProviderError:
        """What an answer of a service means that is not the one hoped for."""
        status = reply.status
        said = clean(said_by_vendor(_inner(reply.body)))
        text = f"{reply.what}: {status}" + (f": {said}" if said else "")
        words = said.lower()
        if status in (413, 429) and "quota" not in words:  # Nova's older rate limit was a 413
            told = next((value for name, value in reply.headers.items() if name.lower() == "retry-after"), "")
            wait = wait_of(told.strip(), self.clock.now())
            self.pace.hold(wait)
            return Throttled(text, wait=wait)
        if 400 <= status < 500 and any(one in words for one in NO_HOST):
            return NoCapacity(text)
        if status in (403, 409, 413, 429) and any(one in words for one in QUOTA):
            return Refused(text, why=Why.QUOTA)
        if status in (401, 403):
            return Refused(text, why=Why.CREDENTIALS)
        if status == 402:
            return Refused(text, why=Why.FUNDS)
        if status in (408, 409) or not 400 <= status < 500:
            # A conflict on a create says what is wrong with it; elsewhere something else is going on with the server.
            if status == 409 and reply.creates:
                return Refused(text, why=Why.REQUEST)
            return Unclear(text, maybe_created=reply.creates)
        return Refused(text, why=Why.REQUEST)

    def _read(self) -> dict[str, Region] | str:
        """The regions, or what was wrong, in a word: the SDK's own words may quote the file, with the password in it."""
        try:
            return self._opened()
        except Exception as error:  # noqa: BLE001  whatever the SDK raises of a file
            said = clean(str(error))
            harmless = type(error).__name__ == "ConfigException" and said.startswith(("Cloud ", "Region "))
            return said if harmless else type(error).__name__

    def _opened(self) -> dict[str, Region]:
        files = None if self._file is None else [str(self._file)]
        secure = None if self._file is None else [str(self._file.parent / "secure.yaml")]
        loader = self._config.OpenStackConfig(
            config_files=files, secure_files=secure, load_envvars=False, app_name="sublet", app_version="1"
        )
        regions = dict[str, Region]()
        for wanted in self._names or ("",):
            found = loader.get_one(cloud=self.name, **({"region_name": wanted} if wanted else {}))
            session = found.get_session()
            session.timeout = TIMEOUTS[1]
            name = wanted or str(found.region_name or "") or self.name
            clients = {service: self._client(found, session, service) for service in SERVICES}
            regions[name] = Region(name, session, clients, self)
        return regions

    def _client(self, found: Any, session: Any, service: str) -> Any:
        versions = {"compute": {"min_version": "2.1", "max_version": "2.latest"}, "image": {"version": "2"}, "network": {}}
        return self._adapter.Adapter(
            session,
            service_type=found.get_service_type(service),
            service_name=found.get_service_name(service),
            interface=found.get_interface(service),
            region_name=found.region_name or None,
            endpoint_override=found.get_endpoint(service),
            **versions[service],
        )

    def _sorted_failure(self, failure: Any, what: str, creates: bool) -> ProviderError:
        trouble = self._trouble
        status = getattr(failure, "http_status", None)
        kind = type(failure).__name__
        if isinstance(failure, trouble.HttpError):
            # Only the login raises these: a service's own answers are judged by themselves.
            text = f"{what}: the login answers {status}"
            if status in (413, 429):
                wait = wait_of(str(getattr(failure, "retry_after", "") or ""), self.clock.now())
                self.pace.hold(wait)
                return Throttled(text, wait=wait)
            if isinstance(status, int) and 400 <= status < 500 and status != 408:
                return Refused(text, why=Why.CREDENTIALS)
            return Unclear(text, maybe_created=False)
        if isinstance(failure, trouble.CatalogException | trouble.VersionNotAvailable):
            return Refused(f"{what}: the cloud's catalogue has no such service or region", why=Why.REQUEST)
        if isinstance(failure, trouble.AuthPluginException | trouble.AuthorizationFailure | trouble.MissingAuthMethods):
            return Refused(f"{what}: the cloud's entry does not say how to log in: {kind}", why=Why.CREDENTIALS)
        return Unclear(f"{what}: {kind}", maybe_created=creates)


def _inner(body: bytes) -> bytes:
    """Nova wraps what it says by its kind: {"forbidden": {"code": 403, "message": "..."}}."""
    with contextlib.suppress(ValueError, TypeError):
        content = table(json.loads(body))
        if len(content) == 1:
            (value,) = content.values()
            if isinstance(value, dict):
                return json.dumps(value).encode()
    return body


def _is_absence(reply: Reply) -> bool:
    """Nova's and Neutron's own 404, not that of something in between, nor of a path that is not there."""
    with contextlib.suppress(Unclear):
        return "itemNotFound" in reply.content
    return False
