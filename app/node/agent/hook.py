"""The job-started hook: tells the agent which job has come, prints its answer into the job's log, ends with 0 or 1.

It is started by the runner, as the runner's user, before the first step of the job. It holds no secret: the agent does the
asking. What cannot be asked may not run.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any, Mapping

from . import shape
from .journal import clean

PATIENCE = 75.0
"""Seconds for the agent's answer; the agent itself gives up asking the service before that."""
LARGEST_EVENT = 25 << 20
LARGEST_ANSWER = 1 << 16
OWN_EVENTS = ("push", "create", "release", "schedule", "workflow_dispatch")
"""Only who may write to a repository sets these going, and they run the repository's own code."""


def main(gate: str) -> int:
    try:
        answer = ask(gate, claim(os.environ))
    except (OSError, ValueError) as error:
        print(f"Sublet: this machine's agent gives no answer ({error}), so this job may not start here. Run it again later.")
        return 1
    for line in shape.items(answer.get("lines")):
        print(harmless(str(line)))
    return 0 if answer.get("allowed") is True else 1


def harmless(line: str) -> str:
    """A runner takes `::word::` and `##[word]` in a job's log for orders; our lines hold words of strangers."""
    return clean(line).replace("::", ": :").replace("##[", "## [")


def claim(environ: Mapping[str, str]) -> dict[str, Any]:
    """Which job this is, from GitHub's variables (which Gitea's runner sets, too) or GitLab's.

    `fork` is None where nobody can tell."""
    if environ.get("GITHUB_REPOSITORY"):
        return _github(environ)
    source = environ.get("CI_MERGE_REQUEST_SOURCE_PROJECT_PATH", "")
    return _cut(
        repository=environ.get("CI_PROJECT_PATH", ""),
        run_id=environ.get("CI_PIPELINE_ID", ""),
        attempt=1,
        event=environ.get("CI_PIPELINE_SOURCE", ""),
        head_repository=source,
        job=environ.get("CI_JOB_NAME", ""),
        actor=environ.get("GITLAB_USER_LOGIN", ""),
        ref=environ.get("CI_COMMIT_REF_NAME", ""),
        sha=environ.get("CI_COMMIT_SHA", ""),
        fork=None,
    )


def _github(environ: Mapping[str, str]) -> dict[str, Any]:
    event = _event(environ.get("GITHUB_EVENT_PATH", ""))
    head, fork = "", None
    pull, run = shape.table(event.get("pull_request")), shape.table(event.get("workflow_run"))
    if pull or run:  # a run that was started by another one may carry on a fork's work
        origin = shape.table(pull.get("head")).get("repo") if pull else run.get("head_repository")
        head = str(shape.table(origin).get("full_name") or "")
        fork = None if head else True  # GitHub and Gitea give no head repository once a fork is deleted
        if not pull and "head_repository" not in run:
            fork = _may_carry_a_forks_work(run)
    elif event:
        fork = False  # this event's code comes from the repository itself
    attempt = environ.get("GITHUB_RUN_ATTEMPT", "1")
    return _cut(
        repository=environ["GITHUB_REPOSITORY"],
        run_id=environ.get("GITHUB_RUN_ID", ""),
        attempt=int(attempt) if attempt.isdecimal() and len(attempt) < 6 else 1,
        event=environ.get("GITHUB_EVENT_NAME", ""),
        head_repository=head,
        job=environ.get("GITHUB_JOB", ""),
        actor=environ.get("GITHUB_ACTOR", ""),
        ref=environ.get("GITHUB_REF", ""),
        sha=environ.get("GITHUB_SHA", ""),
        fork=fork,
    )


def _may_carry_a_forks_work(run: dict[str, Any]) -> bool:
    """Gitea names no head repository of a run, but what set it going, and its ref as "build.yml@refs/pull/3/head".

    A run that was itself set going by another, or by nothing that we know, may have come from anywhere."""
    own = str(run.get("event") or "") in OWN_EVENTS
    return not own or "@refs/pull/" in str(run.get("path") or "")


def _event(path: str) -> dict[str, Any]:
    """The event that started the run; empty if it cannot be read."""
    if not path:
        return {}
    try:
        with Path(path).open("rb") as file:
            return shape.table(json.loads(file.read(LARGEST_EVENT)))
    except (OSError, ValueError, RecursionError):
        return {}


def _cut(**claim: Any) -> dict[str, Any]:
    return {name: value[:300] if isinstance(value, str) else value for name, value in claim.items()}


def ask(gate: str, question: dict[str, Any]) -> dict[str, Any]:
    """The agent's answer. Raises OSError or ValueError if there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(PATIENCE)
        line.connect(gate)
        line.sendall(json.dumps(question).encode() + b"\n")
        raw = b""
        while not raw.endswith(b"\n") and len(raw) < LARGEST_ANSWER:
            piece = line.recv(65536)
            if not piece:
                break
            raw += piece
    answer = shape.table(json.loads(raw))
    if not isinstance(answer.get("lines"), list):
        raise ValueError("an answer that cannot be read")
    return answer
