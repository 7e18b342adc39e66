"""The API of the fake Gitea: `/api/v1` for what an autoscaler calls, and the Register call of the runners' own service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from tests.fakes.gitea_state import ENDED, FakeJob, FakeRepository, FakeRun, FakeRunner, GiteaState, Scope
from tests.fakes.loopback import Reply, Request

NOT_FOUND = Reply(404, {"message": "The target couldn't be found.", "url": "https://gitea.test/api/swagger"})
CONNECT = "/api/actions/runner.v1.RunnerService/"
ALL = ("write:repository", "write:organization", "read:user")
READS: dict[str, tuple[str, ...]] = {
    "pending": ("blocked",),
    "waiting": ("blocked",),
    "requested": ("blocked",),
    "action_required": ("blocked",),
    "queued": ("waiting",),
    "in_progress": ("running",),
    "completed": tuple(sorted(ENDED)),
    "success": ("success",),
    "failure": ("failure",),
    "skipped": ("skipped",),
    "cancelled": ("cancelled",),
}
"""routers/api/v1/shared/action.go: convertToInternal; any other word is HTTP 400."""


class GiteaApi:
    """Answers requests out of a state. `base` gives the server's own address for links."""

    def __init__(self, state: GiteaState, token: str, base: Callable[[], str]) -> None:
        self.state, self.token, self._base = state, token, base
        self.scopes: Sequence[str] = ALL
        self.login = "sublet-bot"
        self.page_cap = 50  # MAX_RESPONSE_ITEMS
        self.broken_owner_lists = False  # as the first servers of 1.24: HTTP 500 as soon as there is a job

    def answer(self, request: Request) -> Reply:
        if request.path.startswith(CONNECT):
            return self._connect(request)
        parts = request.parts[2:]  # after api, v1
        if parts == ["version"]:
            return Reply(200, {"version": self.state.version})
        refusal = self._refusal(request, parts)
        if refusal is not None:
            return refusal
        match parts:
            case ["user"]:
                return Reply(200, {"id": 9, "login": self.login, "username": self.login})
            case ["orgs", owner, "repos"]:
                return self._repositories(request, owner) if owner in self.state.organizations else NOT_FOUND
            case ["users", owner, "repos"]:
                known = any(one.owner == owner for one in self.state.repositories.values())
                return self._repositories(request, owner) if known else NOT_FOUND
            case ["orgs", owner, "actions", *rest]:
                return self._actions(request, Scope(owner=owner), rest) if owner in self.state.organizations else NOT_FOUND
            case ["admin", "actions", *rest]:
                return self._actions(request, Scope(), rest)
            case ["repos", owner, name, *rest]:
                home = next((one for one in self.state.repositories.values() if one.path == f"{owner}/{name}"), None)
                return NOT_FOUND if home is None else self._in_repository(request, home, rest)
            case _:
                return NOT_FOUND

    def _refusal(self, request: Request, parts: list[str]) -> Reply | None:
        """401 for a token that is none, 403 where it lacks a scope (routers/api/v1/api.go: tokenRequiresScopes)."""
        given = request.headers.get("authorization", "")
        if not given:
            return Reply(401, {"message": "token is required"})
        if given != f"token {self.token}":
            return Reply(401, {"message": "invalid username, password or token"})
        kinds = {"user": ["user"], "users": ["user", "repository"], "repos": ["repository"], "admin": ["admin"]}
        level = "read" if request.verb == "GET" else "write"
        for kind in kinds.get(parts[0] if parts else "", ["organization"]):
            if not {f"{level}:{kind}", f"write:{kind}", "all"} & set(self.scopes):
                said = f"required=[{level}:{kind}], token scope={','.join(self.scopes)}"
                return Reply(403, {"message": f"token does not have at least one of required scope(s), {said}"})
        return None

    def _in_repository(self, request: Request, home: FakeRepository, rest: list[str]) -> Reply:
        if rest[:1] == ["actions"]:
            if not home.has_actions:
                return Reply(403, {"message": "user should have a permission to read a repo's actions"})
            return self._actions(request, Scope(repository_id=home.id), rest[1:])
        if len(rest) == 2 and rest[0] == "pulls" and rest[1].isdigit():
            return self._pull(home, int(rest[1]))
        return Reply(200, self.repository(home)) if not rest else NOT_FOUND

    def _actions(self, request: Request, scope: Scope, rest: list[str]) -> Reply:
        match rest:
            case ["jobs"]:
                return self._jobs(request, scope)
            case ["jobs", key] if key.isdigit():
                job = self.state.jobs.get(int(key))
                return Reply(200, self.job(job)) if job and job.repository_id == scope.repository_id else NOT_FOUND
            case ["runs", key] if key.isdigit():
                run = self.state.runs.get(int(key))
                return Reply(200, self.run(run)) if run and run.repository_id == scope.repository_id else NOT_FOUND
            case ["runners"]:
                found = [one for one in self.state.runners.values() if self._within(one, scope)]
                return self._page(request, "runners", [self.runner(one) for one in found])
            case ["runners", "registration-token"] if request.verb == "POST":
                return Reply(200, {"token": self.state.tokens.of(scope)})
            case ["runners", key] if key.isdigit():
                return self._record(request, scope, int(key))
            case _:
                return NOT_FOUND

    @staticmethod
    def _within(runner: FakeRunner, scope: Scope) -> bool:
        return scope == Scope() or (runner.repository_id, runner.owner) == (scope.repository_id, scope.owner)

    def _record(self, request: Request, scope: Scope, key: int) -> Reply:
        runner = self.state.runners.get(key)
        if request.verb == "PATCH" and self.state.release < (1, 26):
            return Reply(405, None)
        if runner is None or not self._within(runner, scope):
            return NOT_FOUND
        if request.verb == "PATCH":
            runner.disabled = bool(request.body["disabled"])
        if request.verb == "DELETE":
            self.state.remove_runner(runner)
            return Reply(204)
        return Reply(200, self.runner(runner))

    def _jobs(self, request: Request, scope: Scope) -> Reply:
        wanted: set[str] = set()
        for asked in request.query.get("status", "").split(","):
            if asked and asked not in READS:
                return Reply(400, {"message": f"Invalid status {asked}"})
            wanted |= set(READS.get(asked, ()))
        found = [one for one in self.state.jobs.values() if not wanted or one.status in wanted]
        if scope.repository_id is not None:
            found = [one for one in found if one.repository_id == scope.repository_id]
        elif scope.owner:
            found = [one for one in found if self.state.repositories[one.repository_id].owner == scope.owner]
        if self.broken_owner_lists and scope.repository_id is None and found:
            return Reply(500, {"message": ""})
        rows = [self.job(one) for one in sorted(found, key=lambda one: one.id)]
        return self._page(request, "jobs", rows, header=self.state.release >= (1, 26))

    def _repositories(self, request: Request, owner: str) -> Reply:
        found = [self.repository(one) for one in self.state.repositories.values() if one.owner == owner]
        reply = self._page(request, "", found)
        return Reply(200, reply.body, {"X-Total-Count": str(len(found))})

    def _page(self, request: Request, name: str, rows: list[dict[str, Any]], *, header: bool = False) -> Reply:
        size = min(int(request.query.get("limit", "30")), self.page_cap)
        start = (int(request.query.get("page", "1")) - 1) * size
        page = rows[start : start + size]
        headers = {"X-Total-Count": str(len(rows))} if header else {}
        return Reply(200, {name: page, "total_count": len(rows)} if name else page, headers)

    def _pull(self, home: FakeRepository, number: int) -> Reply:
        """services/convert/pull.go: no repository for the head of a deleted fork; AGit shows the base, without a label."""
        pull = self.state.pulls.get((home.id, number))
        if pull is None:
            return NOT_FOUND
        head = home if pull.agit else self.state.repositories.get(pull.head or 0)
        branch = "" if pull.agit else "work"
        return Reply(
            200,
            {
                "id": 10 + number,
                "number": number,
                "state": "open",
                "base": {"label": "main", "ref": "main", "repo_id": home.id, "repo": self.repository(home)},
                "head": {
                    "label": branch,
                    "ref": branch or f"refs/pull/{number}/head",
                    "repo_id": 0 if head is None else head.id,
                    "repo": None if head is None else self.repository(head),
                },
            },
        )

    def _connect(self, request: Request) -> Reply:
        """Register, as routers/api/actions/runner/runner.go does it; an error without a code of its own is HTTP 500."""
        if request.path != f"{CONNECT}Register" or request.verb != "POST":
            return Reply(404, {"code": "unimplemented", "message": "404 page not found"})
        body = request.body
        if not body.get("token") or not body.get("name"):
            return Reply(400, {"code": "invalid_argument", "message": "missing runner token, name"})
        runner = self.state.register(
            body["token"], body["name"], body.get("labels", []), ephemeral=body.get("ephemeral", False)
        )
        if runner is None:
            return Reply(500, {"code": "unknown", "message": "runner registration token not found"})
        told: dict[str, Any] = {"id": str(runner.id), "uuid": runner.uuid, "token": runner.token, "name": runner.name}
        told |= {"version": body.get("version", ""), "labels": list(runner.labels)}
        return Reply(200, {"runner": told | ({"ephemeral": True} if runner.ephemeral else {})})

    def status(self, job: FakeJob) -> tuple[str, str]:
        """The API's words for a job: status and conclusion."""
        if job.status in ENDED:
            return "completed", job.status
        if job.status == "blocked":
            return ("waiting" if job.gated or not self.state.modern else "pending"), ""
        return {"waiting": "queued", "running": "in_progress"}[job.status], ""

    def job(self, job: FakeJob) -> dict[str, Any]:
        """services/convert/action.go: ToActionWorkflowJob."""
        home, run = self.state.repositories[job.repository_id], self.state.runs[job.run_id]
        status, conclusion = self.status(job)
        api = f"{self._base()}/api/v1/repos/{home.path}/actions"
        never = "0001-01-01T00:00:00Z" if self.state.modern else "1970-01-01T00:00:00Z"
        return {
            "id": job.id,
            "url": f"{api}/jobs/{job.id}",
            "html_url": f"{self._base()}/{home.path}/actions/runs/{run.id}/jobs/{job.id}",
            "run_id": run.id,
            "run_url": f"{api}/runs/{run.id}",
            "name": job.name,
            "labels": list(job.labels),
            "run_attempt": job.attempt,
            "head_sha": "c" * 40,
            "head_branch": run.ref.removeprefix("refs/heads/"),
            "status": status,
            "conclusion": conclusion,
            "runner_id": job.runner_id or 0,
            "runner_name": job.runner_name,
            "steps": [] if self.state.modern else None,
            "created_at": stamp(job.created_at) or never,
            "started_at": stamp(job.started_at) or never,
            "completed_at": stamp(job.stopped_at) or never,
        }

    def run(self, run: FakeRun) -> dict[str, Any]:
        """services/convert/action.go: ToActionWorkflowRun; from 1.27 with the pull request's head, or base."""
        home, event = self.state.repositories[run.repository_id], run.event
        told: dict[str, Any] = {}
        if self.state.modern:
            event = "pull_request" if event == "pull_request_sync" else event
            pull = next(
                (one for one in self.state.pulls.values() if f"/{one.number}/" in run.ref and one.base == home.id), None
            )
            told = {"pull_requests": [{"number": pull.number, "head": {"repo": {"id": pull.head or home.id}}}] if pull else []}
        return {
            "id": run.id,
            "url": f"{self._base()}/api/v1/repos/{home.path}/actions/runs/{run.id}",
            "event": event,
            "path": f"build.yml@{run.ref}",
            "run_number": 1,
            "repository": self.repository(home),
            "actor": {"id": 3, "login": run.actor},
            "trigger_actor": {"id": 4, "login": run.again_by or run.actor},
            **told,
        }

    def runner(self, runner: FakeRunner) -> dict[str, Any]:
        return {
            "id": runner.id,
            "name": runner.name,
            "status": "online" if self.state.online(runner) else "offline",
            "busy": self.state.busy(runner),
            "ephemeral": runner.ephemeral,
            "labels": [{"id": place, "name": name, "type": "custom"} for place, name in enumerate(runner.labels)],
            **({"disabled": runner.disabled} if self.state.release >= (1, 26) else {}),
        }

    def repository(self, home: FakeRepository) -> dict[str, Any]:
        owner, _, name = home.path.partition("/")
        return {
            "id": home.id,
            "name": name,
            "full_name": home.path,
            "html_url": f"{self._base()}/{home.path}",
            "owner": {"id": 2, "login": owner},
            "private": True,
            "has_actions": home.has_actions,
        }


def stamp(when: datetime | None) -> str | None:
    return None if when is None else when.strftime("%Y-%m-%dT%H:%M:%SZ")
