"""One HTTP request to GitLab through python-gitlab, and the answer as plain values.

python-gitlab sleeps and retries by default, forgets the headers of refusals (and so Retry-After),
and lets `requests` follow a redirect with the token to wherever it leads: all of that is turned off
or made good here. One client per thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import cast
from urllib.parse import urlsplit

import gitlab
import requests
from gitlab.exceptions import GitlabError

from app.forges.answers import Answer, OnRate, remaining, silence, unreadable
from app.forges.budget import Budget, Rank
from app.forges.contract import ForgeRefused, Pace
from app.forges.payload import Table, quoted
from providers.contract import Secret


class GitLabWire:
    """Requests to one GitLab. Safe to share between threads."""

    def __init__(
        self, forge: str, url: str, token: Secret, timeout: timedelta, now: Callable[[], datetime], on_rate: OnRate | None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise ValueError("GitLab's url is not a web address.")
        if parts.username or parts.password:
            raise ValueError("GitLab's url must not carry a user or a password.")
        if not token.reveal().strip():
            raise ValueError("GitLab's token is blank.")
        self.forge = forge
        self.url = url.rstrip("/")
        self.now = now
        self._token = token
        self._timeout = timeout.total_seconds()
        self._on_rate = on_rate
        self._budget = Budget(forge)
        self._local = threading.local()

    def pace(self) -> Pace:
        return self._budget.pace(self.now())

    def send(
        self,
        rank: Rank,
        verb: str,
        path: str,
        deed: str,
        *,
        query: Mapping[str, str | int | Sequence[str]] | None = None,
        body: Mapping[str, object] | None = None,
        etag: str = "",
    ) -> Answer:
        """Ask once, at `/api/v4` + path, if the budget has room. With `etag`, an unchanged answer is a 304 without content.

        Whatever GitLab answers comes back, refusals too; no answer is ForgeDown, not asked is HeldBack."""
        return self._budget.spend(
            lambda: self._answer(self._request(verb, path, deed, query, body, etag)), rank, deed, self.now
        )

    def _request(
        self,
        verb: str,
        path: str,
        deed: str,
        query: Mapping[str, str | int | Sequence[str]] | None,
        body: Mapping[str, object] | None,
        etag: str,
    ) -> requests.Response:
        client = self._client()
        heard: list[requests.Response] = []

        def hear(response: requests.Response, **_: object) -> None:
            heard.append(response)

        client.session.hooks["response"] = [hear]
        try:
            client.http_request(
                verb.lower(),
                path,
                query_data=dict(query or {}),
                post_data=None if body is None else dict(body),
                obey_rate_limit=False,
                retry_transient_errors=False,
                max_retries=0,
                extra_headers={"If-None-Match": etag} if etag else None,
            )
        except GitlabError:
            pass  # an answer all the same: it was heard
        except requests.TooManyRedirects:
            raise ForgeRefused(f"{self.forge} sends us elsewhere when asked to {deed}: check its url and the path") from None
        except requests.exceptions.InvalidHeader:
            raise ForgeRefused("The token for GitLab holds characters that no header can carry.") from None
        except (requests.RequestException, OSError, ValueError, ArithmeticError) as error:
            raise silence(self.forge, deed, error) from None
        if not heard:
            raise unreadable(self.forge, deed, "nothing")
        return heard[-1]

    def _answer(self, response: requests.Response) -> Answer:
        headers = {name.lower(): value for name, value in response.headers.items()}
        left = remaining(headers)
        if left is not None and self._on_rate:
            self._on_rate(self.forge, left)
        content, broken = None, False
        try:
            content = response.json() if response.content.strip() else None
        except (ValueError, RecursionError):
            broken = True
        return Answer(response.status_code, headers, content, _message(content), broken)

    def _client(self) -> gitlab.Gitlab:
        found: gitlab.Gitlab | None = getattr(self._local, "client", None)
        if found is None:
            session = requests.Session()
            session.max_redirects = 0  # `requests` would carry PRIVATE-TOKEN along to another host
            found = self._local.client = gitlab.Gitlab(
                self.url,
                private_token=self._token.reveal(),
                timeout=self._timeout,
                user_agent="sublet",
                keep_base_url=True,
                retry_transient_errors=False,
                session=session,
            )
        return found


def _message(content: object) -> str:
    """GitLab's own words for an error: `message` (text or a table of fields), or OAuth's `error_description`."""
    if not isinstance(content, dict):
        return ""
    told = cast("Table", content)
    return quoted(told.get("message") or told.get("error_description") or told.get("error"))
