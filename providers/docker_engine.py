"""The few calls of the Docker Engine API that the `docker` provider makes, over a unix socket or TLS."""

import asyncio
import base64
import ipaddress
import json
import ssl
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from providers.contract import ImageLogin, Refused, Secret, Throttled, Unclear
from providers.http import Api, said_by_vendor, table, tables

OLDEST, NEWEST = (1, 41), (1, 51)
"""The API versions this wrapper speaks: Engine 20.10 has 1.41."""
PULL_PATIENCE = 20.0  # seconds that one create waits for its image; the pull itself goes on
PULL_LIMIT = 1800.0  # seconds


def is_loopback(host: str) -> bool:
    """Whether the name is this very machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def split_image(image: str) -> tuple[str, str]:
    """("repository", "tag or digest"); without either, `latest`: an empty one would pull every tag there is."""
    name, at, digest = image.partition("@")
    folder, slash, last = name.rpartition("/")
    last, colon, tag = last.partition(":")
    return folder + slash + last, digest if at else tag if colon else "latest"


def registry_auth(login: ImageLogin) -> Secret:
    """The header by which the engine logs in to a registry: JSON in URL-safe base64 (Engine API, "Authentication")."""
    said = {"username": login.username, "password": login.password.reveal()}
    told = said if login.username else {"registrytoken": login.password.reveal()}
    raw = json.dumps({**told, "serveraddress": login.registry}).encode()
    return Secret(base64.urlsafe_b64encode(raw).decode())


class Engine:
    """One engine. Raises only `ProviderError`s, and KeyError or TypeError for answers of a strange shape."""

    def __init__(
        self,
        host: str,
        *,
        title: str,
        tls: ssl.SSLContext | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        address = urlsplit(host)
        if address.scheme == "unix":
            self._api = Api("http://docker", title=title, socket=Path(address.path), transport=transport)
        else:
            base = f"{'https' if tls else 'http'}://{address.netloc}"
            self._api = Api(base, title=title, tls=tls, transport=transport)
        self._title = title
        self._prefix = ""
        self._pulls: dict[str, asyncio.Task[None]] = {}

    async def info(self) -> Mapping[str, Any]:
        return table((await self._api.read(await self._at("/info"))).json())

    async def inspect(self, name_or_id: str) -> Mapping[str, Any] | None:
        """The container under this whole name or id, or None: the engine itself would also take a beginning of an id."""
        answer = await self._api.read(await self._at(f"/containers/{quote(name_or_id, safe='')}/json"), accept=(404,))
        if answer.status == 404:
            return None
        found = table(answer.json())
        return found if name_or_id in (found["Id"], str(found["Name"]).removeprefix("/")) else None

    async def listing(self, label: str) -> Sequence[Mapping[str, Any]]:
        """Every container with this label ("name" or "name=value"), also those that do not run. One page holds all."""
        filters = json.dumps({"label": [label]})
        answer = await self._api.read(await self._at("/containers/json"), params={"all": "1", "filters": filters})
        return tables(answer.json())

    async def create(self, name: str, recipe: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The container under this name, made now or there already; None if its image is not on the engine."""
        answer = await self._api.write(
            "POST",
            await self._at("/containers/create"),
            params={"name": name},
            content=recipe,
            accept=(404, 409),
            creates=True,
        )
        if answer.status == 404:
            return None
        found = await self.inspect(name)
        if found is None:
            raise Unclear(f"{self._title}: container {name} is not there after its create")
        return found

    async def start(self, container: str) -> str:
        """Empty if it runs (or ran) now; else why the engine cannot start it."""
        answer = await self._api.write(
            "POST", await self._at(f"/containers/{container}/start"), accept=(304, 400, 404, 409, 500), timeout=60, creates=True
        )
        if answer.status in (204, 304):
            return ""
        return self._api.redact(f"{self._title} cannot start it: {said_by_vendor(answer.body)}")

    async def remove(self, container: str) -> None:
        """Kill and remove, with anonymous volumes. Gone already, or going, is no error."""
        path = await self._at(f"/containers/{container}")
        params = {"force": "1", "v": "1"}
        await self._api.write("DELETE", path, params=params, accept=(404, 409), timeout=60, repeatable=True)

    async def pull(self, image: str, login: ImageLogin | None = None) -> None:
        """Wait for the image, at most PULL_PATIENCE; then `Throttled`, while the pull goes on for the next try.

        Asked for by its digest, the engine itself compares every byte with it."""
        task = self._pulls.get(image)
        if task is None:
            task = self._pulls[image] = asyncio.create_task(self._pull(image, login))
            task.add_done_callback(lambda done: self._forget(image, done))
        done, _ = await asyncio.wait({task}, timeout=PULL_PATIENCE)
        if not done:
            raise Throttled(f"{self._title} is still pulling {image[:200]}", wait=timedelta(seconds=10))
        task.result()

    async def aclose(self) -> None:
        pulls = list(self._pulls.values())
        for task in pulls:
            task.cancel()
        await asyncio.gather(*pulls, return_exceptions=True)
        await self._api.aclose()

    def _forget(self, image: str, pull: asyncio.Task[None]) -> None:
        self._pulls.pop(image, None)
        if not pull.cancelled():
            pull.exception()  # whoever waits is told; if nobody does, the next create asks and hears it again

    async def _pull(self, image: str, login: ImageLogin | None) -> None:
        name, tag = split_image(image)
        answer = await self._api.write(
            "POST",
            await self._at("/images/create"),
            params={"fromImage": name, "tag": tag},
            headers={} if login is None else {"X-Registry-Auth": registry_auth(login)},
            accept=(404, 500),
            timeout=PULL_LIMIT,
        )
        lines = answer.text.splitlines()  # the engine says 200 first, and how it ended in the last line
        problem = next((json.loads(line)["error"] for line in lines if '"error"' in line), "")
        if answer.status != 200:
            problem = said_by_vendor(answer.body)
        if problem:
            if login is not None:
                problem = problem.replace(login.password.reveal(), "***")
            raise Refused(self._api.redact(f"{self._title} cannot pull {image[:200]}: {problem}"))

    async def _at(self, path: str) -> str:
        """The path under the newest API version that both sides speak."""
        if not self._prefix:
            said = table((await self._api.read("/version")).json())
            newest, oldest = _version(said["ApiVersion"]), _version(said.get("MinAPIVersion") or "1.12")
            agreed = min(newest, NEWEST)
            if agreed < OLDEST or agreed < oldest:
                raise Refused(
                    f"{self._title} speaks API {said.get('MinAPIVersion')} to {said['ApiVersion']}, "
                    f"and this wrapper {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
                )
            self._prefix = f"/v{agreed[0]}.{agreed[1]}"
        return self._prefix + path


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)
