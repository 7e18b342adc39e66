"""One HTTP request to GitHub through PyGithub, and the answer as plain values.

PyGithub's requester is used for what it knows (the API's address under a prefix, moved
repositories, headers) and kept from what hurts here: it retries POST, sleeps between requests, and
logs bodies that hold tokens. One requester per thread; it carries no credential, each request does.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import cast
from urllib.parse import urljoin, urlsplit

import github
import jwt
import requests
from github.Requester import Requester

from app.forges.answers import Answer, OnRate, remaining, silence
from app.forges.budget import Budget, MinuteLimits, Rank
from app.forges.contract import ForgeRefused
from app.forges.payload import Table, quoted

API_VERSION = "2022-11-28"
MINUTE_LIMITS = MinuteLimits(points=900, creations=80)
READ, WRITE = 1, 5  # points
_MOVED = frozenset({302, 307, 308})  # PyGithub follows 301 itself, with the same verb

# Not in logging's tree, so that no configuration can wake it: PyGithub logs whole answers, tokens included.
Requester.injectLogger(logging.Logger("silent", logging.CRITICAL + 1))


def api_address(url: str) -> str:
    """The REST API of a GitHub web address: github.com, a GHE.com tenant, or a GitHub Enterprise Server."""
    parts = urlsplit(url.rstrip("/"))
    if parts.hostname in ("github.com", "www.github.com"):
        return "https://api.github.com"
    if (parts.hostname or "").endswith(".ghe.com"):
        return f"https://api.{parts.hostname}"
    return f"{parts.scheme}://{parts.netloc}{parts.path}/api/v3"


def web_address(api_url: str) -> str:
    """The web address of the GitHub whose REST API this is."""
    parts = urlsplit(api_url.rstrip("/"))
    if runs_itself(parts.hostname or ""):
        return f"https://{(parts.hostname or '').removeprefix('api.')}"
    return f"{parts.scheme}://{parts.netloc}{parts.path.removesuffix('/api/v3')}"


def runs_itself(host: str) -> bool:
    """Whether GitHub runs this host: github.com or a tenant of GHE.com, and no GitHub Enterprise Server."""
    return host == "api.github.com" or host.endswith(".ghe.com")


def minute_limits(host: str) -> MinuteLimits:
    """GitHub's own hosts have limits that no header tells; a GitHub Enterprise Server has none unless its headers say so."""
    return MINUTE_LIMITS if runs_itself(host) else MinuteLimits()


@dataclass(frozen=True, slots=True)
class Signed:
    """Who asks, and out of whose budget."""

    auth: github.Auth.Auth = field(repr=False)
    budget: Budget


class GitHubWire:
    """Requests to one API address. Safe to share between threads."""

    def __init__(
        self, forge: str, api_url: str, timeout: timedelta, now: Callable[[], datetime], on_rate: OnRate | None
    ) -> None:
        parts = urlsplit(api_url)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise ValueError("GitHub's api_url is not a web address.")
        if parts.username or parts.password:
            raise ValueError("GitHub's api_url must not carry a user or a password.")
        self.forge = forge
        self.now = now
        self.minute_limits = minute_limits(parts.hostname)
        self.url = api_url.rstrip("/")
        self._timeout = max(1, math.ceil(timeout.total_seconds()))  # PyGithub takes whole seconds
        self._on_rate = on_rate
        self._local = threading.local()

    def budget(self) -> Budget:
        """A new credential's budget."""
        return Budget(self.forge, self.minute_limits)

    def send(
        self,
        by: Signed,
        rank: Rank,
        verb: str,
        path: str,
        deed: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Mapping[str, object] | None = None,
        etag: str = "",
        creates: bool = False,
    ) -> Answer:
        """Ask once, if the budget has room. Whatever GitHub answers comes back, refusals too; no answer is ForgeDown.

        With `etag`, an unchanged answer is a 304, which costs nothing of the hourly quota."""
        extra = {"If-None-Match": etag} if etag else {}
        answer = self._ask(by, rank, verb, path, deed, query, body, extra, creates)
        where = answer.headers.get("location", "")
        if answer.status in _MOVED and where:
            target = urlsplit(urljoin(self.url + path, where))
            ours = urlsplit(self.url)
            if (target.scheme, target.netloc) == (ours.scheme, ours.netloc):
                answer = self._ask(by, rank, verb, target.geturl(), deed, None, body, extra, creates)
        return answer

    def _ask(
        self,
        by: Signed,
        rank: Rank,
        verb: str,
        path: str,
        deed: str,
        query: Mapping[str, str | int] | None,
        body: Mapping[str, object] | None,
        extra: Mapping[str, str],
        creates: bool,
    ) -> Answer:
        """One request out of the budget. Raises HeldBack where there is no room for it."""
        points = READ if verb == "GET" else WRITE
        return by.budget.spend(
            lambda: self._request(by.auth, verb, path, deed, query, body, extra),
            rank,
            deed,
            self.now,
            points=points,
            creates=creates,
        )

    def _request(
        self,
        auth: github.Auth.Auth,
        verb: str,
        path: str,
        deed: str,
        query: Mapping[str, str | int] | None,
        body: Mapping[str, object] | None,
        extra: Mapping[str, str],
    ) -> Answer:
        headers = {"Accept": "application/vnd.github+json", **extra}
        try:
            headers["Authorization"] = f"{auth.token_type} {auth.token}"
        except (ValueError, TypeError, jwt.PyJWTError):
            raise ForgeRefused("The App's private key cannot sign: it must be the PEM file that GitHub gave.") from None
        try:
            status, told, text = self._requester().requestJson(
                verb, path, dict(query or {}), headers, None if body is None else dict(body)
            )
        except requests.exceptions.InvalidHeader:
            raise ForgeRefused("The token for GitHub holds characters that no header can carry.") from None
        except (requests.RequestException, OSError, ValueError, ArithmeticError, AssertionError, RecursionError) as error:
            raise silence(self.forge, deed, error) from None
        except RuntimeError:  # PyGithub's word for a redirect to another host or scheme
            raise ForgeRefused(f"{self.forge} sends us to another address when asked to {deed}: check api_url") from None
        left = remaining(told)
        if left is not None and self._on_rate:
            self._on_rate(self.forge, left)
        content, broken = None, False
        try:
            content = json.loads(text) if text.strip() else None
        except (ValueError, RecursionError):
            broken = True
        return Answer(status, told, content, _message(content), broken)

    def _requester(self) -> Requester:
        found: Requester | None = getattr(self._local, "requester", None)
        if found is None:
            client = github.Github(
                base_url=self.url,
                timeout=self._timeout,
                user_agent="sublet",
                retry=None,
                seconds_between_requests=0,
                seconds_between_writes=0,
                lazy=True,
                api_version=API_VERSION,
            )
            found = self._local.requester = client.requester
        return found


def _message(content: object) -> str:
    """GitHub's own words for an error: its message, and the messages of its list of errors."""
    if not isinstance(content, dict):
        return ""
    told = cast("Table", content)
    said, errors = quoted(told.get("message")), told.get("errors")
    return f"{said} ({quoted(errors, 150)})"[:400] if errors else said
