"""The control API under /_demo/, and the few pages for people: push, jobs, faults, hook, cancel, rerun, approve, state."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from typing import Any, cast

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import TypeAdapter, ValidationError

from app.demo import archive as git
from app.demo import shapes, workflows
from app.demo.nouns import Faults, Job, JobSpec, Limits, Run
from app.demo.office import Office, body, words
from app.demo.protocol import as_text, whole
from app.demo.work import Order, Refusal, not_found

FAULTS = TypeAdapter(Faults)
LIMITS = TypeAdapter(Limits)


def routes(office: Office) -> APIRouter:
    router = APIRouter(prefix="/_demo")
    state, book = office.state, office.book

    def person(request: Request) -> None:
        """Only the holder of the personal token may turn these wheels; it costs no rate limit."""
        office.door.caller(request.headers.get("authorization")).need_person()

    @router.get("/alive")
    async def alive(request: Request) -> Response:
        person(request)
        return JSONResponse({"pid": os.getpid(), "url": book.origin})

    @router.post("/stop")
    async def stop(request: Request) -> Response:
        person(request)
        office.stopping.set()
        office.bell.ring()
        return JSONResponse({}, 202)

    @router.post("/hook")
    async def hook(request: Request) -> Response:
        person(request)
        state.hook(str((await body(request)).get("url", "")), office.clock.now())
        return JSONResponse({"url": book.hook_url})

    @router.post("/push")
    async def push(request: Request) -> Response:
        """{"repository", "workflow"?, "branch"?, "message"?, "actor"?}: a commit, and every job of its workflows."""
        person(request)
        said, now = await body(request), office.clock.now()
        if office.archive is None:
            raise Refusal(422, "This forge has no folder for git repositories")
        found = state.repository(str(said.get("repository", "acme/train")), now)
        branch, actor = str(said.get("branch", found.default_branch)), str(said.get("actor", "mona"))
        message = str(said.get("message", "Evaluate the model"))
        fresh = not office.archive.has(found.full_name)
        sha = office.archive.commit(found.full_name, branch, message, actor, now, git.sample() if fresh else None)
        wanted = said.get("workflow")
        runs: list[Run] = []
        for path in office.archive.workflows(found.full_name, sha):
            if wanted is not None and wanted not in (path, path.rpartition("/")[2]):
                continue
            flow = workflows.read(office.archive.file(found.full_name, sha, path), path)
            if "push" in flow.events:
                order = Order(found.full_name, sha, flow.jobs, flow.name, path, "push", branch, actor, message)
                runs.append(state.start(order, now))
        if not runs:
            raise Refusal(422, "No workflow of this commit runs on a push")
        return JSONResponse(started(runs), 201)

    @router.post("/jobs")
    async def jobs(request: Request) -> Response:
        """{"repository", "labels", "count"?, "event"?, "fork"?, "fork_deleted"?, "script"?, "group"?, "needs_approval"?,
        "workflow"?, "branch"?, "actor"?, "private"?}: a run of so many jobs; with a script they can really be run."""
        person(request)
        said, now = await body(request), office.clock.now()
        found = state.repository(str(said.get("repository", "acme/train")), now, private=bool(said.get("private", True)))
        labels, count = words(said.get("labels", ["gpu", "rubin"]), "labels"), int(said.get("count", 1))
        if not 1 <= count <= 1000:
            raise Refusal(422, "Invalid request.", "count: 1 to 1000")
        text = {name: str(said[name]) for name in ("event", "branch", "actor", "fork", "workflow") if name in said}
        sha = hashlib.sha1(f"{found.full_name}:{book.counter}".encode()).hexdigest()  # noqa: S324  as git names commits
        keys = [f"job-{place + 1}" for place in range(count)] if count > 1 else ["job"]
        if "script" in said:
            if office.archive is None:
                raise Refusal(422, "This forge has no folder for git repositories")
            files = git.scripted(labels, str(said["script"]))
            sha = office.archive.commit(found.full_name, text.get("branch", "main"), "Script", "mona", now, files)
            keys = ["script"] * count
        specs = [JobSpec(key, key, labels, str(said.get("group", "")), bool(said.get("needs_approval"))) for key in keys]
        order = Order(found.full_name, sha, specs, fork_deleted=bool(said.get("fork_deleted")), **text)
        return JSONResponse(started([state.start(order, now)]), 201)

    def started(runs: list[Run]) -> dict[str, Any]:
        made = [job for run in runs for job in shapes.latest_jobs(book, run.id)]
        told = [{"id": job.id, "url": shapes.job_page(book, job), "status": str(job.progress)} for job in made]
        return {"runs": [run.id for run in runs], "sha": runs[0].sha, "jobs": told}

    @router.post("/groups")
    async def groups(request: Request) -> Response:
        """{"scope": "orgs/acme", "name", "repositories"?}: one more runner group."""
        person(request)
        said = await body(request)
        chosen = words(said["repositories"], "repositories") if said.get("repositories") is not None else None
        made = state.add_group(str(said.get("scope", "")), str(said.get("name", "")), chosen)
        return JSONResponse(shapes.group(book, made), 201)

    @router.post("/faults")
    async def faults(request: Request) -> Response:
        """The fields of `nouns.Faults`; what is not named is as it should be. An empty object ends all faults."""
        person(request)
        try:
            book.faults = FAULTS.validate_python(await body(request))
        except ValidationError as error:
            raise Refusal(422, "Invalid request.", str(error)[:500]) from None
        state.changed()
        return JSONResponse(FAULTS.dump_python(book.faults, mode="json"))

    @router.post("/limits")
    async def limits(request: Request) -> Response:
        """Fields of `nouns.Limits` to change; durations in seconds."""
        person(request)
        try:
            book.limits = LIMITS.validate_python(dataclasses.asdict(book.limits) | await body(request))
        except ValidationError as error:
            raise Refusal(422, "Invalid request.", str(error)[:500]) from None
        state.changed()
        return JSONResponse(LIMITS.dump_python(book.limits, mode="json"))

    @router.post("/cancel")
    async def cancel(request: Request) -> Response:
        """{"job"} or {"run"}."""
        person(request)
        said, now = await body(request), office.clock.now()
        if "run" in said:
            state.cancel_run(whole(said, "run"), now)
        else:
            state.cancel(whole(said, "job"), now)
        return JSONResponse({}, 202)

    @router.post("/rerun")
    async def rerun(request: Request) -> Response:
        person(request)
        said = await body(request)
        ids = [whole(said, "job")] if "job" in said else [one.id for one in shapes.latest_jobs(book, whole(said, "run"))]
        made = state.rerun(ids, office.clock.now())
        return JSONResponse(started([book.runs[made[0].run_id]]), 201)

    @router.post("/approve")
    async def approve(request: Request) -> Response:
        person(request)
        state.approve(whole(await body(request), "job"), office.clock.now())
        return JSONResponse({}, 202)

    @router.get("/state")
    async def show(request: Request) -> Response:
        person(request)
        now, jobs = office.clock.now(), list(book.jobs.values())
        told = [shapes.job(book, job) | {"log_lines": job.log_lines, "summary": job.summary, "note": job.note} for job in jobs]
        runners = [shapes.runner(one, online=state.online(one, now)) | {"scope": one.scope} for one in book.runners.values()]
        tried = [shapes.delivery_item(one) for one in state.outbox.log()]
        waiting = sum(1 for one in book.deliveries if one.delivered_at is None)
        content = {"url": book.origin, "hook": book.hook_url, "jobs": told, "runners": runners, "deliveries": tried}
        return JSONResponse(cast(dict[str, Any], content) | {"deliveries_waiting": waiting})

    return router


def pages(office: Office) -> APIRouter:
    """What the `html_url`s of jobs and runs lead to. Plain text, for whoever sits at this machine."""
    router = APIRouter()

    def job_of(owner: str, repo: str, job_id: int) -> Job:
        return office.state.job(office.repository(owner, repo).full_name, job_id)

    @router.get("/{owner}/{repo}/actions/runs/{run_id}/job/{job_id}")
    async def job_page(owner: str, repo: str, run_id: int, job_id: int) -> Response:
        return PlainTextResponse(as_text(office, job_of(owner, repo, job_id)))

    @router.get("/{owner}/{repo}/actions/runs/{run_id}/job/{job_id}/logs")
    async def log_page(owner: str, repo: str, run_id: int, job_id: int) -> Response:
        found = job_of(owner, repo, job_id)
        return PlainTextResponse("".join(f"{line}\n" for line in office.logs.lines(found.id)))

    @router.get("/{owner}/{repo}/actions/runs/{run_id}")
    async def run_page(owner: str, repo: str, run_id: int) -> Response:
        found = office.state.run(office.repository(owner, repo).full_name, run_id)
        told = [as_text(office, job) for job in shapes.latest_jobs(office.book, found.id)]
        return PlainTextResponse("\n".join(told))

    @router.get("/{owner}/{repo}")
    async def repository_page(owner: str, repo: str) -> Response:
        full_name = office.repository(owner, repo).full_name
        if office.archive is None or not office.archive.has(full_name):
            raise not_found()
        runs = [one for one in reversed(office.book.runs.values()) if one.repository == full_name]
        lines = [f"#{one.number} {one.workflow}: {one.message} ({shapes.run(office.book, one)['html_url']})" for one in runs]
        return PlainTextResponse("\n".join([full_name, "", *lines]) + "\n")

    return router
