"""What the forge's own runner program speaks under /_runner/: connect, wait for a job, renew, log, finish."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.demo import shapes
from app.demo.nouns import Job, Runner, Step
from app.demo.office import Office, body, words
from app.demo.owners import api
from app.demo.work import Refusal

POLL_SECONDS = 20.0
CONCLUSIONS = ("success", "failure", "cancelled")
STEPS = 200


def routes(office: Office) -> APIRouter:
    router = APIRouter(prefix="/_runner")
    state, book = office.state, office.book

    async def speaker(request: Request) -> tuple[Runner, dict[str, Any], str, str]:
        """The runner that speaks, what it says, its token and its session."""
        token, said = bearer(request), await body(request)
        session = str(said.get("session", ""))
        return state.session(token, session, office.clock.now()), said, token, session

    @router.post("/session")
    async def connect(request: Request) -> Response:
        token, said = bearer(request), await body(request)
        session = str(said.get("session", ""))
        if len(session) < 32:
            raise Refusal(422, "Invalid request.", "session: at least 32 characters, chosen by the runner")
        runner = state.connect(token, session, str(said.get("version", "")), office.clock.now())
        return JSONResponse({"runner": {"id": runner.id, "name": runner.name}})

    @router.post("/job")
    async def next_job(request: Request) -> Response:
        """Waits up to 20 s for a job; 202 when there is none, 410 once the runner was removed."""
        runner, said, token, session = await speaker(request)
        patience = min(POLL_SECONDS, max(0.0, float(said.get("wait", POLL_SECONDS))))
        loop = asyncio.get_running_loop()  # not the forge's clock: a test may have stopped that one
        ends = loop.time() + patience
        while True:
            state.tick(office.clock.now())
            runner = state.session(token, session, office.clock.now())
            job = state.take(runner, office.clock.now())
            if job is not None:
                return JSONResponse(message(office, runner, job))
            left = ends - loop.time()
            if left <= 0 or office.stopping.is_set():
                return JSONResponse({}, 202)
            await office.bell.wait(min(left, 1.0))

    @router.post("/renew")
    async def renew(request: Request) -> Response:
        runner, said, _, _ = await speaker(request)
        return JSONResponse({"cancel": state.renew(runner, whole(said, "job"), office.clock.now())})

    @router.post("/log")
    async def log(request: Request) -> Response:
        runner, said, _, _ = await speaker(request)
        job_id = whole(said, "job")
        cancel = state.renew(runner, job_id, office.clock.now())
        kept = office.logs.append(job_id, whole(said, "first"), words(said.get("lines", []), "lines"))
        state.note_steps(runner, job_id, steps(said.get("steps")), kept)
        return JSONResponse({"kept": kept, "cancel": cancel})

    @router.post("/complete")
    async def complete(request: Request) -> Response:
        token, said = bearer(request), await body(request)
        conclusion = str(said.get("conclusion", ""))
        if conclusion not in CONCLUSIONS:
            raise Refusal(422, "Invalid request.", f"conclusion is none of {', '.join(CONCLUSIONS)}")
        job_id, session = whole(said, "job"), str(said.get("session", ""))
        if job_id in book.jobs and said.get("steps") is not None and book.jobs[job_id].conclusion is None:
            runner = state.session(token, session, office.clock.now())
            state.note_steps(runner, job_id, steps(said["steps"]), len(office.logs.lines(job_id)))
        state.finish(token, session, job_id, conclusion, office.clock.now(), str(said.get("summary", "")))
        return JSONResponse({})

    return router


def message(office: Office, runner: Runner, job: Job) -> dict[str, Any]:
    """All that a runner must know to run one job: GitHub's variables, the event, the commit and a token to fetch it."""
    book, run = office.book, office.book.runs[job.run_id]
    owner = book.accounts[book.repositories[run.repository].owner]
    rights = {"contents": "read", "actions": "read"}
    fork = run.event == "pull_request"
    ref = f"refs/pull/{run.number}/merge" if fork else f"refs/heads/{run.branch}"
    own = book.repositories[run.repository]
    token = office.door.issue(owner, {"repositories": [own.name], "permissions": rights})["token"]
    environment = {
        "CI": "true",
        "GITHUB_ACTIONS": "true",
        "GITHUB_ACTOR": run.actor,
        "GITHUB_API_URL": api(book),
        "GITHUB_BASE_REF": run.base_branch if fork else "",
        "GITHUB_EVENT_NAME": run.event,
        "GITHUB_GRAPHQL_URL": f"{book.origin}/api/graphql",
        "GITHUB_HEAD_REF": run.branch if fork else "",
        "GITHUB_JOB": job.key,
        "GITHUB_REF": ref,
        "GITHUB_REF_NAME": f"{run.number}/merge" if fork else run.branch,
        "GITHUB_REF_PROTECTED": "false",
        "GITHUB_REF_TYPE": "branch",
        "GITHUB_REPOSITORY": run.repository,
        "GITHUB_REPOSITORY_ID": str(own.id),
        "GITHUB_REPOSITORY_OWNER": owner.login,
        "GITHUB_REPOSITORY_OWNER_ID": str(owner.id),
        "GITHUB_RETENTION_DAYS": "90",
        "GITHUB_RUN_ATTEMPT": str(job.attempt),
        "GITHUB_RUN_ID": str(run.id),
        "GITHUB_RUN_NUMBER": str(run.number),
        "GITHUB_SERVER_URL": book.origin,
        "GITHUB_SHA": run.sha,
        "GITHUB_TRIGGERING_ACTOR": run.actor,
        "GITHUB_WORKFLOW": run.workflow,
        "GITHUB_WORKFLOW_REF": f"{run.repository}/{run.path}@{ref}",
        "GITHUB_WORKFLOW_SHA": run.sha,
        "RUNNER_ENVIRONMENT": "self-hosted",
        "RUNNER_NAME": runner.name,
    }
    return {
        "id": job.id,
        "key": job.key,
        "name": job.name,
        "path": run.path,
        "labels": job.labels,
        "sha": run.sha,
        "branch": run.branch,
        "token": token,
        "archive": f"{api(book)}/repos/{run.repository}/tarball/{run.sha}",
        "environment": environment,
        "event": shapes.job_event(book, run),
    }


def bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Refusal(401, "Requires authentication")
    return token.strip()


def whole(said: dict[str, Any], name: str) -> int:
    try:
        return int(said[name])
    except (KeyError, TypeError, ValueError):
        raise Refusal(422, "Invalid request.", f"{name} is no number") from None


def steps(value: Any) -> list[Step]:
    """Steps out of a runner's untrusted words."""
    found: list[Step] = []
    for place, one in enumerate(cast(Sequence[Any], value)[:STEPS] if isinstance(value, list) else []):
        if not isinstance(one, dict):
            raise Refusal(422, "Invalid request.", "steps is no array of objects")
        said = cast(dict[str, Any], one)
        ended = said.get("conclusion")
        found.append(
            Step(
                number=place + 1,
                name=str(said.get("name", "step"))[:200],
                status="completed" if ended else str(said.get("status", "queued"))[:20],
                conclusion=ended if ended in (*CONCLUSIONS, "skipped") else None,
                started_at=moment(said.get("started_at")),
                completed_at=moment(said.get("completed_at")),
            )
        )
    return found


def moment(value: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(float(value), UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def as_text(office: Office, job: Job) -> str:
    """A job for people: what its page shows."""
    told = shapes.job(office.book, job)
    lines = [f"{told['workflow_name']} / {job.name}: {job.conclusion or job.progress}", f"labels: {', '.join(job.labels)}"]
    lines += [f"runner: {job.runner_name or '-'}", *([f"note: {job.note}"] if job.note else []), "", "steps:"]
    lines += [f"  {one.number:2d}  {one.conclusion or one.status:12s} {one.name}" for one in job.steps]
    lines += ["", "log:", *(f"  {line}" for line in office.logs.lines(job.id))]
    lines += ["", "summary:", job.summary] if job.summary else []
    return "\n".join(lines) + "\n" + json.dumps({"id": job.id, "sha": told["head_sha"]}) + "\n"
