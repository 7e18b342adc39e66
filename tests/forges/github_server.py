"""A small GitHub on loopback for the tests of the GitHub forge: an App, its tokens, runners, groups, jobs.

Every request and every answer is held against GitHub's own API description where that is at hand.
Rights are checked as GitHub does: a token sees what it was narrowed to, and nothing else.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import jwt

from tests.fakes import openapi
from tests.fakes.loopback import Fault, Loopback, Reply, Request
from tests.forges.github_hooks import Hooks

NOT_FOUND = Reply(404, {"message": "Not Found"})
APP_ID = "4711"
WHEN = "2026-11-21T12:00:00Z"


@dataclass(frozen=True, slots=True)
class Grant:
    """An installation token, as it was narrowed."""

    installation: int
    account: str
    repositories: tuple[str, ...] | None
    permissions: dict[str, str]
    until: datetime


@dataclass(slots=True)
class Place:
    """The runners and groups of one repository, organisation or enterprise."""

    runners: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    groups: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


class GitHubServer:
    """`installations` maps an id to its account; `repositories` are those it was installed on."""

    def __init__(self, now: Callable[[], datetime], public_key: bytes, prefix: str = "") -> None:
        self.now, self._public_key, self._prefix = now, public_key, prefix
        self.loopback = Loopback(self._answer)
        self.installations: dict[int, str] = {77: "acme"}
        self.repositories: set[str] = {"acme/train", "acme/eval"}
        self.permissions = {"administration": "write", "organization_self_hosted_runners": "write", "actions": "read"}
        self.more_apps: dict[str, dict[int, str]] = {}  # id of a further App -> its installations
        self.left: dict[str, int] = {}  # calls left of an installation's id or "personal"; what is not named has plenty
        self.events = ["workflow_job"]
        self.grants: dict[str, Grant] = {}
        self.personal = "ghp_" + "p" * 36
        self.places: dict[str, Place] = {}
        self.jobs: dict[tuple[str, int], dict[str, Any]] = {}
        self.page_cap = 100
        self.minted_configs: list[str] = []
        self.hooks = Hooks()
        self.violations: list[str] = []
        self._next = 100

    @property
    def url(self) -> str:
        return self.loopback.url + self._prefix

    @property
    def requests(self) -> list[Request]:
        return self.loopback.requests

    def start(self) -> None:
        self.loopback.start()

    def stop(self) -> None:
        self.loopback.stop()
        assert not self.violations, "\n".join(self.violations)

    def fault(self, fault: Fault) -> None:
        self.loopback.faults.append(fault)

    def place(self, path: str) -> Place:
        """`repos/acme/train`, `orgs/acme`, `enterprises/acme-inc`."""
        if path not in self.places:
            default = [] if path.startswith("repos/") else [_group(1, "Default", True), _group(7, "GPU machines", False)]
            self.places[path] = Place(groups=default)
        return self.places[path]

    def add_runner(self, place: str, name: str, **values: Any) -> int:
        self._next += 1
        runner: dict[str, Any] = {
            "id": self._next,
            "name": name,
            "os": "unknown",
            "status": "offline",
            "busy": False,
            "labels": [],
        }
        self.place(place).runners[self._next] = {**runner, **values}
        return self._next

    def add_job(self, repository: str, key: int, **values: Any) -> None:
        base = {
            "id": key,
            "node_id": "CR_1",
            "run_id": 9,
            "run_url": "https://api.github.test/run",
            "run_attempt": 1,
            "head_sha": "a" * 40,
            "head_branch": "main",
            "workflow_name": "CI",
            "name": "train",
            "url": "https://api.github.test/job",
            "html_url": f"https://github.test/{repository}/actions/runs/9/job/{key}",
            "status": "queued",
            "conclusion": None,
            "created_at": WHEN,
            "started_at": WHEN,
            "completed_at": None,
            "check_run_url": "https://api.github.test/check",
            "labels": ["gpu", "Rubin"],
            "runner_id": None,
            "runner_name": None,
            "runner_group_id": None,
            "runner_group_name": None,
        }
        self.jobs[(repository, key)] = {**base, **values}

    def _answer(self, request: Request) -> Reply:
        path = request.path.removeprefix(self._prefix)
        if self._prefix and not request.path.startswith(self._prefix):
            return NOT_FOUND
        reply = self._over(request) or self._route(request, path)
        if openapi.DATA.is_dir() and not path.endswith("/hooks"):  # not in the cut file
            judge = openapi.github_enterprise() if path.startswith("/enterprises/") else openapi.github()
            self.violations += judge.request(request.verb, path, request.query, request.body)
            self.violations += judge.response(request.verb, path, reply.status, reply.body)
        still = self.left.get(self._whose(request), 4999)
        hour = int(self.now().timestamp()) // 3600
        left = {
            "X-RateLimit-Limit": "5000",
            "X-RateLimit-Remaining": str(still),
            "X-RateLimit-Reset": str(3600 * (hour + 1)),
        }
        return Reply(reply.status, reply.body, {**left, **reply.headers}, reply.raw)

    def _whose(self, request: Request) -> str:
        token = request.headers.get("authorization", "").partition(" ")[2]
        return "personal" if token == self.personal else str(self.grants[token].installation) if token in self.grants else ""

    def _over(self, request: Request) -> Reply | None:
        """One call less for this credential; a refusal where it has none left."""
        whose = self._whose(request)
        if whose not in self.left:
            return None
        if self.left[whose] <= 0:
            return Reply(403, {"message": "API rate limit exceeded for installation."})
        self.left[whose] -= 1
        return None

    def _route(self, request: Request, path: str) -> Reply:
        kind, _, value = request.headers.get("authorization", "").partition(" ")
        if kind == "Bearer":
            return self._for_app(request, path, value)
        if value == self.personal and (reply := self.hooks.answer(request, path)):
            return reply
        if path == "/rate_limit" and value == self.personal:
            rate = {"limit": 5000, "remaining": 4999, "reset": 1795262400, "used": 1}
            return Reply(200, {"resources": {"core": rate, "search": rate}, "rate": rate})
        if (found := re.fullmatch(r"/repos/([^/]+/[^/]+)/actions/jobs/(\d+)", path)) and request.verb == "GET":
            if refusal := self._lacks(value, "repos/" + found[1], "actions", "read"):
                return refusal
            job = self.jobs.get((found[1], int(found[2])))
            return Reply(200, job) if job else NOT_FOUND
        if found := re.fullmatch(r"/((?:repos/[^/]+|orgs|enterprises)/[^/]+)/actions/runner(s|-groups)(?:/(.+))?", path):
            right = "administration" if found[1].startswith("repos/") else "organization_self_hosted_runners"
            if refusal := self._lacks(value, found[1], right, "write"):
                return refusal
            place = self.place(found[1])
            if found[2] == "-groups":
                return self._page(request, "runner_groups", place.groups)
            return self._runners(request, place, found[3] or "")
        return NOT_FOUND

    def _for_app(self, request: Request, path: str, token: str) -> Reply:
        try:
            claims = jwt.decode(
                token, self._public_key, algorithms=["RS256"], options={"verify_exp": False, "verify_iat": False}
            )
        except jwt.PyJWTError:
            return Reply(401, {"message": "A JSON web token could not be decoded"})
        if claims["iss"] not in (APP_ID, *self.more_apps) or claims["exp"] - claims["iat"] > 660:
            return Reply(401, {"message": "'Issuer' claim ('iss') or expiration is not right"})
        if path == "/app":
            return Reply(200, self._app())
        if found := re.fullmatch(r"/(?:orgs|repos)/(.+)/installation", path):
            owner = found[1].partition("/")[0]
            for number, account in self.more_apps.get(claims["iss"], self.installations).items():
                if account == owner and ("/" not in found[1] or found[1] in self.repositories):
                    return Reply(200, self._installation(number, account))
            return NOT_FOUND
        if found := re.fullmatch(r"/app/installations/(\d+)/access_tokens", path):
            return self._token(request, int(found[1]), self.more_apps.get(claims["iss"], self.installations))
        return NOT_FOUND

    def _token(self, request: Request, number: int, installations: dict[int, str]) -> Reply:
        account = installations.get(number)
        if account is None:
            return NOT_FOUND
        body: dict[str, Any] = request.body or {}
        wanted: dict[str, str] = body.get("permissions", self.permissions)
        ranks = {"read": 1, "write": 2}
        if any(ranks[level] > ranks.get(self.permissions.get(name, ""), 0) for name, level in wanted.items()):
            return Reply(422, {"message": "The permissions requested are not granted to this installation."})
        names: list[str] | None = body.get("repositories")
        if names and any(f"{account}/{name}" not in self.repositories for name in names):
            return Reply(422, {"message": "There is at least one repository that does not exist or is not accessible"})
        until = self.now() + timedelta(hours=1)
        token = f"ghs_{APP_ID}_eyJ{secrets.token_hex(900)}.{secrets.token_urlsafe(300)}"
        self.grants[token] = Grant(number, account, tuple(names) if names else None, wanted, until)
        stamp = until.strftime("%Y-%m-%dT%H:%M:%SZ")
        selection = "selected" if names else "all"
        return Reply(201, {"token": token, "expires_at": stamp, "permissions": wanted, "repository_selection": selection})

    def _lacks(self, token: str, place: str, right: str, level: str) -> Reply | None:
        """The refusal for a token that may not do this here; None if it may."""
        if token == self.personal:
            return None
        grant = self.grants.get(token)
        if grant is None or grant.until <= self.now():
            return Reply(401, {"message": "Bad credentials"})
        kind, owner, *rest = place.split("/")
        if kind == "enterprises" or owner != grant.account:
            return NOT_FOUND
        if rest and grant.repositories is not None and rest[0] not in grant.repositories:
            return NOT_FOUND
        if grant.permissions.get(right) != level:
            return Reply(403, {"message": "Resource not accessible by integration"})
        return None

    def _runners(self, request: Request, place: Place, rest: str) -> Reply:
        if rest == "generate-jitconfig" and request.verb == "POST":
            return self._mint(request, place)
        if not rest:
            wanted = request.query.get("name")
            return self._page(request, "runners", [one for one in place.runners.values() if wanted in (None, one["name"])])
        number = int(rest) if rest.isdigit() else -1
        runner = place.runners.get(number)
        if runner is None:
            return NOT_FOUND
        if request.verb == "DELETE":
            if runner["busy"]:
                return Reply(422, {"message": f'Bad request - Runner "{runner["name"]}" is still running a job"'})
            del place.runners[number]
            return Reply(204)
        return Reply(200, runner)

    def _mint(self, request: Request, place: Place) -> Reply:
        body = request.body
        if any(one["name"] == body["name"] for one in place.runners.values()):
            message = f"Already exists - A runner with the name {body['name']} already exists."
            return Reply(409, {"message": message})
        self._next += 1
        labels = [{"id": 1, "name": name, "type": "custom"} for name in body["labels"]]
        runner = {
            "id": self._next,
            "name": body["name"],
            "os": "unknown",
            "status": "offline",
            "busy": False,
            "labels": labels,
            "runner_group_id": body["runner_group_id"],
            "ephemeral": True,
        }
        place.runners[self._next] = runner
        blob = {".runner": base64.b64encode(body["name"].encode()).decode(), ".credentials": secrets.token_hex(600)}
        config = base64.b64encode(json.dumps(blob).encode()).decode()
        self.minted_configs.append(config)
        return Reply(201, {"runner": runner, "encoded_jit_config": config})

    def _page(self, request: Request, key: str, found: list[dict[str, Any]]) -> Reply:
        size = min(int(request.query.get("per_page", "30")), self.page_cap)
        start = (int(request.query.get("page", "1")) - 1) * size
        return Reply(200, {"total_count": len(found), key: found[start : start + size]})

    def _app(self) -> dict[str, Any]:
        page = "https://github.test/apps/sublet-ci"
        return {
            "id": int(APP_ID),
            "slug": "sublet-ci",
            "node_id": "A_1",
            "owner": _user("acme"),
            "name": "Sublet CI",
            "description": None,
            "external_url": page,
            "html_url": page,
            "created_at": WHEN,
            "updated_at": WHEN,
            "permissions": self.permissions,
            "events": self.events,
        }

    def _installation(self, number: int, account: str) -> dict[str, Any]:
        return {
            "id": number,
            "app_id": int(APP_ID),
            "app_slug": "sublet-ci",
            "target_id": 1,
            "target_type": "Organization",
            "single_file_name": None,
            "repository_selection": "all",
            "access_tokens_url": "https://api.github.test/x",
            "html_url": "https://github.test/x",
            "repositories_url": "https://api.github.test/y",
            "events": self.events,
            "account": _user(account),
            "permissions": self.permissions,
            "created_at": WHEN,
            "updated_at": WHEN,
            "suspended_by": None,
            "suspended_at": None,
        }


def _group(number: int, name: str, default: bool) -> dict[str, Any]:
    return {
        "id": number,
        "name": name,
        "visibility": "all",
        "default": default,
        "runners_url": "https://api.github.test/groups",
        "inherited": False,
        "allows_public_repositories": False,
    }


def _user(login: str) -> dict[str, Any]:
    links = ("avatar", "html", "organizations", "received_events", "repos", "subscriptions", "followers")
    links += ("following", "gists", "starred", "events")
    return {
        "login": login,
        "id": 1,
        "node_id": "U_1",
        "gravatar_id": "",
        "site_admin": False,
        "type": "Organization",
        "url": "https://api.github.test/u",
        **{f"{name}_url": f"https://api.github.test/{name}" for name in links},
    }
