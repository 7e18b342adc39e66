"""The HTTP API from the outside: where the service is, how we show who we are, and what its refusals mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote, urlsplit

import httpx

from app import __version__
from app.cli.exits import Exit, Failure
from app.settings.fields import is_loopback
from providers.contract import Secret

STATUS_EXITS: Mapping[int, Exit] = {
    400: Exit.USAGE,
    401: Exit.NOT_ALLOWED,
    403: Exit.NOT_ALLOWED,
    404: Exit.NOT_FOUND,
    409: Exit.CONFLICT,
    422: Exit.USAGE,
}
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Access:
    """A service's address, and the token to show there."""

    url: str
    token: Secret


def find(server: str | None, token: str | None, data: Path) -> Access:
    """The address and the token: as told, or those that the service left in its data folder. Raises Failure.

    The token of the data folder goes to the service of that folder and to no other address.
    """
    own = _service(data)
    url = (server or own or "").rstrip("/")
    if not url:
        raise Failure(
            Exit.UNREACHABLE,
            f"No service is known: there is no {data / 'service.json'}.",
            "Start one with `sublet up`, or name it with --server or SUBLET_URL.",
        )
    try:
        parts = urlsplit(url)
        _ = httpx.URL(url), parts.port  # each finds mistakes that the other passes over
    except (ValueError, httpx.InvalidURL):
        raise Failure(Exit.USAGE, "The server's address cannot be read.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Failure(Exit.USAGE, "The server's address does not begin with https:// and a host name.")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise Failure(Exit.USAGE, f"A token does not travel to {parts.hostname} without TLS.", "Use its https:// address.")
    if token is None and url == own:
        token = _read(data / "cli-token")
    if not token:
        raise Failure(Exit.NOT_ALLOWED, "There is no token to show.", "Give one with SUBLET_TOKEN or --token.")
    if not token.isascii() or not token.isprintable():
        raise Failure(Exit.USAGE, "The token holds characters that no token has.")
    return Access(url, Secret(token))


def _service(data: Path) -> str | None:
    try:
        return str(json.loads((data / "service.json").read_text(encoding="utf-8"))["url"]).rstrip("/")
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None


class Client:
    """One conversation with the API. Every method raises Failure, and nothing else."""

    def __init__(self, access: Access, timeout: float = 15.0) -> None:
        """`timeout` is in seconds, for each read."""
        local = is_loopback(urlsplit(access.url).hostname or "")
        self._url = access.url
        self._http = httpx.Client(
            base_url=access.url,
            headers={"authorization": f"Bearer {access.token.reveal()}", "user-agent": f"sublet/{__version__}"},
            timeout=httpx.Timeout(timeout, connect=5.0),
            verify=httpx.create_ssl_context() if access.url.startswith("https:") else False,  # SSL_CERT_FILE counts
            trust_env=not local,  # no proxy stands between this machine and itself
            follow_redirects=False,  # a token is not carried elsewhere
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def get(self, path: str, **query: str | int | None) -> Json:
        """A reply of `/api/v1/PATH`; queries that are None are left out."""
        return self._ask("GET", path, params={name: value for name, value in query.items() if value is not None})

    def post(self, path: str, body: Json) -> Json:
        return self._ask("POST", path, json=body)

    def delete(self, path: str) -> Json:
        return self._ask("DELETE", path)

    def resolve(self, reference: str) -> Json:
        """Id and name of the lease that a name, an id prefix or a job's address means."""
        return self.get("resolve", ref=reference)

    def lease(self, reference: str) -> Json:
        """A lease whole."""
        return self.get(f"leases/{quote(str(self.resolve(reference)['id']), safe='')}")

    def _ask(self, method: str, path: str, **words: Any) -> Json:
        try:
            answer = self._http.request(method, f"/api/v1/{path}", **words)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = "no answer in time" if isinstance(error, httpx.TimeoutException) else type(error).__name__
            raise Failure(
                Exit.UNREACHABLE, f"{self._url} does not answer ({why}).", "Is it running? `sublet up` starts it here."
            ) from None
        body = _object(answer)
        if answer.is_success and body is not None:
            return body
        raise _refusal(answer, body)


def _object(answer: httpx.Response) -> Json | None:
    try:
        body = answer.json()
    except ValueError:
        return None
    return cast(Json, body) if isinstance(body, dict) else None


def _refusal(answer: httpx.Response, body: Json | None) -> Failure:
    """The API's own words, or ours where something else answered."""
    error: Any = (body or {}).get("error")
    if not isinstance(error, dict):
        if answer.is_success:
            return Failure(Exit.FAILED, "What answers there is not Sublet.", "Look at the address.")
        code = STATUS_EXITS.get(answer.status_code, Exit.FAILED)
        return Failure(code, f"The service answered {answer.status_code} and no more.")
    told = cast(Json, error)
    code = told.get("exit")
    if not isinstance(code, int) or code not in set(Exit) or code == Exit.OK:
        code = STATUS_EXITS.get(answer.status_code, Exit.FAILED)
    return Failure(code, str(told.get("message") or "It failed."), str(told.get("hint") or ""))
