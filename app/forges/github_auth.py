"""Who we are to GitHub: an App, by tokens narrowed to one repository and one purpose, or a personal token.

An App signs a JWT (PyGithub's `Auth.AppAuth`) and trades it for an installation token that lives an
hour. PyGithub cannot narrow that token to repositories, so the trade itself is made here. Tokens
have no fixed length: since 2026 they are `ghs_<app>_<JWT>`. Enterprise runners are beyond any App:
they take a personal token with `manage_runners:enterprise` (server-to-server-permissions.json).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from github import Auth

from app.core.model import Scope, ScopeKind
from app.forges.answers import Answer, failure, unreadable
from app.forges.contract import ForgeRefused
from app.forges.github_wire import GitHubWire
from app.forges.payload import Unreadable, identity, is_identity, moment, table
from providers.contract import Secret

MARGIN = timedelta(minutes=5)  # a token is not used in its last minutes: a slow request must not outlive it
_KEPT = 2000  # tokens in memory
_TOKEN = re.compile(r"[\x21-\x7e]{10,16384}")


class Purpose(Enum):
    """What a token is for; each needs other rights."""

    RUNNERS = "runners"
    JOBS = "jobs"


def permissions(scope: Scope, purpose: Purpose) -> Mapping[str, str]:
    """The least rights that will do. `metadata: read` comes with any."""
    if purpose is Purpose.JOBS:
        return {"actions": "read"}
    if scope.kind is ScopeKind.ORGANIZATION:
        return {"organization_self_hosted_runners": "write"}
    return {"administration": "write"}


@dataclass(frozen=True, slots=True)
class _Key:
    scope: Scope
    purpose: Purpose
    installation: str  # as the caller gave it


@dataclass(frozen=True, slots=True)
class _Token:
    secret: Secret
    until: datetime


class GitHubAuth:
    """Gives each request the narrowest credential that will do. Safe to share between threads."""

    def __init__(self, wire: GitHubWire, *, app_id: str, private_key: Secret | None, token: Secret | None) -> None:
        if bool(app_id) != bool(private_key):
            raise ValueError("A GitHub App needs both its id and its private key.")
        if not app_id and not token:
            raise ValueError("GitHub needs an App (app_id and private_key) or a personal token.")
        self._wire = wire
        self._personal = token or None
        self._app = Auth.AppAuth(app_id, _reader(private_key)) if private_key else None
        self._lock = threading.Lock()
        self._tokens: dict[_Key, _Token] = {}
        self._installations: dict[Scope, str] = {}

    def app(self) -> Auth.AppAuth | None:
        """The App itself, for the few questions that only its JWT may ask."""
        return self._app

    def personal(self) -> Auth.Token | None:
        return Auth.Token(self._personal.reveal()) if self._personal else None

    def narrow(self, scope: Scope, purpose: Purpose, installation: str = "") -> Auth.Auth:
        """A credential for this scope and purpose. Raises ForgeRefused, ForgeDown."""
        if self._app is None or scope.kind is ScopeKind.ENTERPRISE:
            personal = self.personal()
            if personal is None:
                raise ForgeRefused(
                    "Enterprise runners are beyond a GitHub App: configure a personal token with manage_runners:enterprise."
                )
            return personal
        key = _Key(scope, purpose, installation)
        with self._lock:
            known = self._tokens.get(key)
        if known is None or known.until <= self._wire.now():
            known = self._trade(self._app, key)
            with self._lock:
                if len(self._tokens) >= _KEPT:
                    self._tokens.clear()
                self._tokens[key] = known
        return Auth.Token(known.secret.reveal())

    def forget(self, scope: Scope, purpose: Purpose, installation: str = "") -> bool:
        """Drop a token that GitHub no longer takes. False if there was none, so that asking again is no use."""
        with self._lock:
            return self._tokens.pop(_Key(scope, purpose, installation), None) is not None

    def _trade(self, app: Auth.AppAuth, key: _Key) -> _Token:
        """A new installation token. An installation that is gone, or no longer has the repository, is looked up anew."""
        deed = f"give a token for {key.scope.path}"
        with self._lock:
            known = key.installation or self._installations.get(key.scope, "")
        tried = known or self._find(app, key.scope)
        answer = self._ask_token(app, key, tried, deed)
        if answer.status in (404, 422) and known:
            with self._lock:
                self._installations.pop(key.scope, None)
            found = self._find(app, key.scope)
            if found != tried:
                answer = self._ask_token(app, key, found, deed)
        if answer.status != 201:
            raise failure(self._wire.forge, deed, answer, self._wire.now())
        try:
            body = table(answer.body, "the answer")
            token, until = body.get("token"), moment(body, "expires_at")
            if not isinstance(token, str) or not _TOKEN.fullmatch(token):
                raise Unreadable("it holds no token")
        except Unreadable as error:
            raise unreadable(self._wire.forge, deed, error) from None
        return _Token(Secret(token), (until or self._wire.now()) - MARGIN)

    def _ask_token(self, app: Auth.AppAuth, key: _Key, installation: str, deed: str) -> Answer:
        body: dict[str, object] = {"permissions": dict(permissions(key.scope, key.purpose))}
        if key.scope.kind is ScopeKind.REPOSITORY:
            body["repositories"] = [key.scope.path.partition("/")[2]]
        if not is_identity(installation):
            raise ForgeRefused("The GitHub App's installation id is not a number.")
        return self._wire.send(app, "POST", f"/app/installations/{installation}/access_tokens", deed, body=body)

    def _find(self, app: Auth.AppAuth, scope: Scope) -> str:
        """The id of the App's installation that covers the scope. Raises ForgeRefused, ForgeDown."""
        deed = f"find the App's installation for {scope.path}"
        kind = "orgs" if scope.kind is ScopeKind.ORGANIZATION else "repos"
        answer = self._wire.send(app, "GET", f"/{kind}/{scope.path}/installation", deed)
        if answer.status == 404:
            raise ForgeRefused(f"The GitHub App is not installed on {scope.path}.")
        if answer.status != 200:
            raise failure(self._wire.forge, deed, answer, self._wire.now())
        try:
            found = identity(table(answer.body, "the answer"), "id")
            if not found:
                raise Unreadable("it holds no id")
        except Unreadable as error:
            raise unreadable(self._wire.forge, deed, error) from None
        with self._lock:
            self._installations[scope] = found
        return found


def _reader(private_key: Secret) -> Callable[[], str]:
    """PyGithub asks for the key at each signing, so that it keeps no copy of it."""
    return private_key.reveal
