"""Runs, jobs, runners, the App and deliveries as GitHub writes them in JSON; tests hold each against its description."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from app.demo.nouns import Account, Book, Delivery, Group, Job, Progress, Run, Runner, Step
from app.demo.owners import Json, api, minimal_repository, node_id, repository, source, stamp, user

APP_PERMISSIONS = {
    "actions": "write",
    "administration": "write",
    "contents": "read",
    "metadata": "read",
    "organization_self_hosted_runners": "write",
}


def step(found: Step) -> Json:
    return {
        "name": found.name,
        "status": found.status,
        "conclusion": found.conclusion,
        "number": found.number,
        "started_at": stamp(found.started_at),
        "completed_at": stamp(found.completed_at),
    }


def job(book: Book, found: Job) -> Json:
    run_found = book.runs[found.run_id]
    url = f"{api(book)}/repos/{run_found.repository}"
    return {
        "id": found.id,
        "run_id": found.run_id,
        "workflow_name": run_found.workflow,
        "head_branch": run_found.branch,
        "run_url": f"{url}/actions/runs/{found.run_id}",
        "run_attempt": found.attempt,
        "node_id": node_id("CheckRun", found.id),
        "head_sha": run_found.sha,
        "url": f"{url}/actions/jobs/{found.id}",
        "html_url": job_page(book, found),
        "status": str(found.progress),
        "conclusion": found.conclusion,
        "created_at": stamp(found.created_at),
        "started_at": stamp(found.started_at or found.created_at),
        "completed_at": stamp(found.completed_at),
        "name": found.name,
        "steps": [step(one) for one in found.steps] if found.progress is not Progress.QUEUED else [],
        "check_run_url": f"{url}/check-runs/{found.id}",
        "labels": found.labels,
        "runner_id": found.runner_id,
        "runner_name": found.runner_name,
        "runner_group_id": found.runner_group_id,
        "runner_group_name": found.runner_group_name,
    }


def job_page(book: Book, found: Job) -> str:
    return f"{book.origin}/{book.runs[found.run_id].repository}/actions/runs/{found.run_id}/job/{found.id}"


def latest_jobs(book: Book, run_id: int) -> list[Job]:
    return [one for one in book.jobs.values() if one.run_id == run_id and not one.superseded]


def verdict(jobs: Iterable[Job]) -> tuple[str, str | None]:
    """A run's status and conclusion, from its jobs."""
    jobs = list(jobs)
    places = {one.progress for one in jobs}
    if places <= {Progress.COMPLETED}:
        ends = {one.conclusion for one in jobs}
        return "completed", next((end for end in ("failure", "timed_out", "cancelled") if end in ends), "success")
    if Progress.IN_PROGRESS in places or (Progress.COMPLETED in places and Progress.QUEUED in places):
        return "in_progress", None
    return ("queued", None) if Progress.QUEUED in places else ("waiting", None)


def run(book: Book, found: Run) -> Json:
    status, conclusion = verdict(latest_jobs(book, found.id))
    url = f"{api(book)}/repos/{found.repository}/actions/runs/{found.id}"
    head = found.head_repository
    return {
        "id": found.id,
        "name": found.workflow,
        "node_id": node_id("WorkflowRun", found.id),
        "head_branch": found.branch,
        "head_sha": found.sha,
        "path": found.path,
        "display_title": found.message,
        "run_number": found.number,
        "event": found.event,
        "status": status,
        "conclusion": conclusion,
        "workflow_id": 90_000_000 + zlib.crc32(f"{found.repository}:{found.path}".encode()),
        "check_suite_id": found.id + 1,
        "check_suite_node_id": node_id("CheckSuite", found.id + 1),
        "url": url,
        "html_url": f"{book.origin}/{found.repository}/actions/runs/{found.id}",
        "pull_requests": [],  # GitHub's own is empty for forks, so nobody may rely on it
        "created_at": stamp(found.created_at),
        "updated_at": stamp(found.updated_at),
        "actor": user(book, found.actor),
        "run_attempt": found.attempt,
        "referenced_workflows": [],
        "run_started_at": stamp(found.started_at or found.created_at),
        "triggering_actor": user(book, found.actor),
        "jobs_url": f"{url}/jobs",
        "logs_url": f"{url}/logs",
        "check_suite_url": f"{api(book)}/repos/{found.repository}/check-suites/{found.id + 1}",
        "artifacts_url": f"{url}/artifacts",
        "cancel_url": f"{url}/cancel",
        "rerun_url": f"{url}/rerun",
        "previous_attempt_url": f"{url}/attempts/{found.attempt - 1}" if found.attempt > 1 else None,
        "workflow_url": f"{api(book)}/repos/{found.repository}/actions/workflows/{found.path.rpartition('/')[2]}",
        "head_commit": commit(found),
        "repository": minimal_repository(book, found.repository),
        "head_repository": minimal_repository(book, head) if head else None,
        **({"head_repository_id": book.repositories[head].id} if head else {}),
    }


def commit(found: Run) -> Json:
    person = {"name": found.actor, "email": f"{found.actor}@users.noreply.example"}
    return {
        "id": found.sha,
        "tree_id": found.sha,
        "message": found.message,
        "timestamp": stamp(found.created_at),
        "author": person,
        "committer": person,
    }


def runner(found: Runner, *, online: bool) -> Json:
    return {
        "id": found.id,
        "name": found.name,
        "os": "linux" if found.version else "unknown",
        "status": "online" if online else "offline",
        "busy": found.job_id is not None,
        "labels": [{"id": place + 1, "name": label, "type": "custom"} for place, label in enumerate(found.labels)],
        "runner_group_id": found.group_id,
        "ephemeral": True,
        "version": found.version,
    }


def group(book: Book, found: Group) -> Json:
    url = f"{api(book)}/{found.scope}/actions/runner-groups/{found.id}"
    chosen = found.repositories is not None
    return {
        "id": found.id,
        "name": found.name,
        "visibility": "selected" if chosen else "all",
        "default": found.default,
        **({"selected_repositories_url": f"{url}/repositories"} if chosen else {}),
        "runners_url": f"{url}/runners",
        "inherited": False,
        "allows_public_repositories": True,
        "restricted_to_workflows": False,
        "selected_workflows": [],
        "workflow_restrictions_read_only": False,
    }


def integration(book: Book) -> Json:
    owner = next(iter(book.accounts), "octocat")
    since = stamp(next((one.created_at for one in book.accounts.values()), None)) or "2026-01-01T00:00:00Z"
    return {
        "id": book.app_id,
        "slug": book.app_slug,
        "client_id": f"Iv23li{book.app_id}",
        "node_id": node_id("App", book.app_id),
        "owner": user(book, owner),
        "name": "Sublet demo",
        "description": "The App of the demo forge.",
        "external_url": book.origin,
        "html_url": f"{book.origin}/apps/{book.app_slug}",
        "created_at": since,
        "updated_at": since,
        "permissions": APP_PERMISSIONS,
        "events": ["workflow_job"],
        "installations_count": len(book.accounts),
    }


def installation(book: Book, account: Account) -> Json:
    url = f"{api(book)}/app/installations/{account.installation_id}"
    since = stamp(account.created_at) or "2026-01-01T00:00:00Z"
    return {
        "id": account.installation_id,
        "client_id": f"Iv23li{book.app_id}",
        "account": user(book, account.login),
        "repository_selection": "all",
        "access_tokens_url": f"{url}/access_tokens",
        "repositories_url": f"{api(book)}/installation/repositories",
        "html_url": f"{book.origin}/organizations/{account.login}/settings/installations/{account.installation_id}",
        "app_id": book.app_id,
        "app_slug": book.app_slug,
        "target_id": account.id,
        "target_type": account.kind,
        "permissions": APP_PERMISSIONS,
        "events": ["workflow_job"],
        "created_at": since,
        "updated_at": since,
        "single_file_name": None,
        "has_multiple_single_files": False,
        "single_file_paths": [],
        "suspended_by": None,
        "suspended_at": None,
    }


def delivery_item(found: Delivery) -> Json:
    return {
        "id": found.id,
        "guid": found.guid,
        "delivered_at": stamp(found.delivered_at or found.due),
        "redelivery": found.redelivery,
        "duration": round(found.duration, 3),
        "status": found.status,
        "status_code": found.status_code,
        "event": found.event,
        "action": found.action,
        "installation_id": found.installation_id,
        "repository_id": found.repository_id,
        "throttled_at": None,
    }


def delivery(found: Delivery) -> Json:
    return delivery_item(found) | {
        "url": found.url,
        "request": {"headers": found.request_headers, "payload": found.payload},
        "response": {"headers": found.response_headers, "payload": found.response_body},
    }


def workflow_job(book: Book, found: Job, action: str) -> Json:
    """The payload of a `workflow_job` delivery."""
    run_found = book.runs[found.run_id]
    return {"action": action, "workflow_job": job(book, found)} | source(
        book, book.repositories[run_found.repository], run_found.actor
    )


def ping(book: Book, now: datetime) -> Json:
    url = f"{api(book)}/app/hook"
    return {
        "zen": "Keep it logically awesome.",
        "hook_id": book.hook_id,
        "hook": {
            "type": "App",
            "id": book.hook_id,
            "name": "web",
            "active": True,
            "app_id": book.app_id,
            "events": ["workflow_job"],
            "config": {"content_type": "json", "insecure_ssl": "0", "secret": "********", "url": book.hook_url},
            "updated_at": stamp(now),
            "created_at": stamp(now),
            "deliveries_url": f"{url}/deliveries",
        },
    }


def job_event(book: Book, run_found: Run) -> Mapping[str, Any]:
    """What a job finds at GITHUB_EVENT_PATH."""
    base = source(book, book.repositories[run_found.repository], run_found.actor)
    if run_found.event in ("pull_request", "pull_request_target"):
        head = run_found.head_repository
        return base | {
            "action": "opened",
            "number": run_found.number,
            "pull_request": {
                "number": run_found.number,
                "title": run_found.message,
                "user": user(book, run_found.actor),
                "head": {
                    "ref": run_found.branch,
                    "sha": run_found.sha,
                    "repo": repository(book, head) if head else None,
                },
                "base": {"ref": run_found.base_branch, "repo": repository(book, run_found.repository)},
            },
        }
    if run_found.event == "push":
        return base | {
            "ref": f"refs/heads/{run_found.branch}",
            "before": "0" * 40,
            "after": run_found.sha,
            "head_commit": commit(run_found),
            "commits": [commit(run_found)],
            "pusher": {"name": run_found.actor},
        }
    return base | {"ref": f"refs/heads/{run_found.branch}", "inputs": {}}
