"""A client of the demo forge that can be the App, an installation or a person, and checks every answer's shape."""

from __future__ import annotations

import re
from typing import Any

import httpx
import jwt

from app.demo.keys import Keys
from app.demo.office import Office
from app.kit.clock import Clock
from tests import parts
from tests.fakes import openapi

KNOWN_MISTAKES = re.compile(
    r"GET /app/installations -> 200: \d+/account: '\w+' is a required property"  # user AND enterprise; elsewhere: or
    r"|: (workflow_runs/\d+/)?head_repository: None is not of type 'object'"  # it is null once the fork was deleted
)
"""Where GitHub's description differs from what GitHub sends."""


class Caller:
    def __init__(self, client: httpx.AsyncClient, keys: Keys, clock: Clock, office: Office) -> None:
        self.client, self.keys, self.office, self._clock = client, keys, office, clock
        self._app_id = str(office.book.app_id)

    def app_token(self, *, issuer: str | None = None, issued: float = -60, ends: float = 540, pem: str | None = None) -> str:
        now = self._clock.now().timestamp()
        claims = {"iat": int(now + issued), "exp": int(now + ends), "iss": issuer or self._app_id}
        return jwt.encode(claims, pem or self.keys.app_pem, algorithm="RS256")

    async def call(self, verb: str, path: str, body: Any = None, *, token: str | None = None) -> httpx.Response:
        """One call of the REST API, by default with the personal token. The answer has GitHub's shape, or the test fails."""
        answer = await self.client.request(
            verb, f"/api/v3{path}", json=body, headers={"Authorization": f"Bearer {token or self.keys.token}"}
        )
        if not openapi.DATA.is_dir():
            parts.lacks("shared data", "put GitHub's API description into ../shared/data")
        plain = path.partition("?")[0]
        judge = openapi.github_enterprise() if plain.startswith("/enterprises/") else openapi.github()
        if judge.operation(verb, plain) is not None:
            told = answer.json() if answer.content else None
            wrong = [one for one in judge.response(verb, plain, answer.status_code, told) if not KNOWN_MISTAKES.search(one)]
            assert not wrong, wrong
        if answer.status_code >= 400:
            assert {"message", "documentation_url", "status"} <= set(answer.json())
        return answer

    async def installation(self, account: str = "acme") -> int:
        answer = await self.call("GET", f"/orgs/{account}/installation", token=self.app_token())
        found: int = answer.json()["id"]
        return found

    async def installed(self, **narrowing: Any) -> str:
        """An installation token of acme."""
        path = f"/app/installations/{await self.installation()}/access_tokens"
        answer = await self.call("POST", path, narrowing, token=self.app_token())
        assert answer.status_code == 201, answer.text
        token: str = answer.json()["token"]
        return token

    async def control(self, verb: str, **said: Any) -> Any:
        answer = await self.client.post(f"/_demo/{verb}", json=said, headers={"Authorization": f"Bearer {self.keys.token}"})
        assert answer.status_code < 300, answer.text
        return answer.json()

    async def jit(self, name: str = "calm-fox-01", labels: tuple[str, ...] = ("gpu", "rubin"), **more: Any) -> httpx.Response:
        where = more.pop("where", "repos/acme/train")
        body = {"name": name, "runner_group_id": more.pop("group", 1), "labels": list(labels)}
        return await self.call("POST", f"/{where}/actions/runners/generate-jitconfig", body, **more)
