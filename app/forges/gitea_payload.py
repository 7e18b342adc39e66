"""Gitea's JSON, read into our nouns: `workflow_job` deliveries, jobs, runs, pull requests and runners of the REST API.

Traps: `waiting` means "blocked by needs" (1.27 says `pending` for that, and `waiting` for an approval); times that
have not come are 1970 or year 1; a job of an organisation's listing tells its repository only in its `url`; a run again
keeps the job's id; a run's `pull_requests` shows the base repository in place of a fork that was deleted
(services/convert/action.go: toPullRequestMinimal), so the pull request itself is asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.core.model import Job, JobState, Run, Scope, ScopeKind
from app.forges.contract import ForgeRefused, RunnerView
from app.forges.payload import (
    LABELS,
    Table,
    Unreadable,
    identity,
    labels,
    link,
    moment,
    number,
    part,
    same_address,
    table,
    truth,
    whole,
    word,
    words,
)
from providers.contract import Secret

STATES: Mapping[str, JobState] = {
    "waiting": JobState.WAITING,  # for other jobs; since 1.27 for an approval
    "pending": JobState.WAITING,
    "requested": JobState.WAITING,
    "blocked": JobState.WAITING,
    "queued": JobState.QUEUED,
    "in_progress": JobState.IN_PROGRESS,
    "completed": JobState.COMPLETED,
}
"""A job's `status`, and a delivery's `action` (services/convert/action.go: ToActionsStatus, in 1.24 and in 1.27)."""

OPEN = ("queued", "in_progress", "waiting")
"""What is listed: `waiting` stands for all that is blocked. An unknown word is HTTP 400 (routers/api/v1/shared/action.go)."""

REPOSITORY = re.compile(r"(?!\.{1,2}/)[A-Za-z0-9._-]{1,100}/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}")
OWNER = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}")
REVIEWS = re.compile(r"pull_request_review_[a-z]+")
ALIASES: Mapping[str, str] = {
    "pull_request_sync": "pull_request",
    "pull_request_assign": "pull_request",
    "pull_request_label": "pull_request",
    "pull_request_milestone": "pull_request",
    "pull_request_review_request": "pull_request",
    "pull_request_comment": "issue_comment",
}
"""Gitea's own names for events (modules/webhook/type.go), which a run tells before 1.27, in the words of workflow files."""

OWN_CODE = frozenset({"push", "workflow_dispatch", "schedule", "create", "release"})
"""Events whose runs are of a branch or tag of their own repository, where the run does not say which."""

_REF = re.compile(r"@(refs/.+)")
_REF_OF_PULL = re.compile(r"@refs/pull/([0-9]{1,19})/[^/@]+")
_ENDS_IN_PULL = re.compile(rf".*{_REF_OF_PULL.pattern}", re.DOTALL)
_PLACE = re.compile(r"(.*?)/api/v1/repos/([^/]+/[^/]+)/actions/(?:jobs|runs)/([0-9]{1,19})")
_COMMIT = re.compile(r"[0-9a-fA-F]{7,64}")
_UUID = re.compile(r"[0-9a-fA-F-]{32,40}")
_TOKEN = re.compile(r"[\x21-\x7e]{8,4096}")
_TRIES = 100_000


def home(scope: Scope) -> str:
    """The scope's part of a URL; an enterprise is the whole instance. Raises ForgeRefused for a path that Gitea cannot have."""
    if scope.kind is ScopeKind.ENTERPRISE:
        return "/admin"
    if not (REPOSITORY if scope.kind is ScopeKind.REPOSITORY else OWNER).fullmatch(scope.path):
        raise ForgeRefused(f"Gitea has no {scope.kind} of the name {scope.path[:100]!r}.")
    return f"/{'repos' if scope.kind is ScopeKind.REPOSITORY else 'orgs'}/{scope.path}"


def unfit(wanted: Sequence[str]) -> str:
    """Why no runner can have these labels; empty: one can. In a runner's file a label is `name:host` or `name:docker:image`."""
    if not 1 <= len(wanted) <= LABELS or any("," in label or not label for label in wanted):
        return f"A Gitea runner takes 1 to {LABELS} labels, and none with a comma."
    kinds = [label for label in wanted if label.split(":")[1:2] in (["host"], ["docker"])]
    if kinds:
        return f"A Gitea runner cannot have the label {kinds[0]!r}: it takes `:host` and `:docker` for a way to run jobs."
    return ""


def as_written(label: str) -> str:
    """A label as a runner's file has it. One with a colon of its own stands alone: the runner takes it whole, as a host's."""
    return label if ":" in label else f"{label}:host"


def job_of_event(forge: str, state: JobState, event: Table) -> Job:
    """The job that a `workflow_job` delivery tells of. Raises Unreadable."""
    raw, home = table(event.get("workflow_job"), "workflow_job"), table(event.get("repository"), "repository")
    key, repository = identity(raw, "id"), whole(home, "full_name", REPOSITORY)
    if not key or not repository:
        raise Unreadable("the delivery names no " + ("repository" if key else "job"))
    job = Job(
        id=f"{forge}-{key}",
        forge=forge,
        key=key,
        repository=repository,
        repository_id=identity(home, "id"),
        state=state,
        actor=words(part(event, "sender"), "login", 100),
    )
    return replace(job, **_facts(raw, state))


def job_of_answer(job: Job, raw: Table) -> Job:
    """The job as the REST API tells it now; what the answer leaves out stays as it was. Raises Unreadable."""
    if identity(raw, "id") != job.key:
        raise Unreadable("the answer is about another job")
    state = STATES.get(word(raw, "status"), job.state)
    return replace(job, state=state, **{name: value for name, value in _facts(raw, state).items() if value not in ("", None)})


def job_of_listing(forge: str, base: str, repository: str, raw: Table) -> Job:
    """A job out of a listing; `repository` is empty for an owner's, where the job itself must tell it. Raises Unreadable.

    A status that we do not know is none of those that we asked for, so that the listing is unreadable."""
    key = identity(raw, "id")
    if not key or STATES.get(word(raw, "status")) is None:
        raise Unreadable("a job without " + ("a status that we know" if key else "id"))
    if labels(raw, "labels") is None:
        raise Unreadable("a job without labels")
    place = repository or repository_of(base, raw)
    return job_of_answer(Job(f"{forge}-{key}", forge, key, place, JobState.WAITING), raw)


def repository_of(base: str, raw: Table) -> str:
    """The repository that a job's or a run's own addresses name; `base` is Gitea's address. Raises Unreadable."""
    found: set[str] = set()
    for name, key in (("url", "id"), ("run_url", "run_id")):
        address = link(raw, name)
        if not address:
            continue
        seen = _PLACE.fullmatch(address)
        if seen is None or seen[3] != identity(raw, key) or not REPOSITORY.fullmatch(seen[2]):
            raise Unreadable(f"the {name} of a job is not what Gitea documents")
        if not same_address(seen[1], base):
            raise Unreadable(f"the {name} of a job leads elsewhere: our `url` and Gitea's ROOT_URL must be the same")
        found.add(seen[2])
    if len(found) != 1:
        raise Unreadable("a job tells " + ("two repositories" if found else "no repository"))
    return found.pop()


def full_name(raw: Table) -> str:
    """A repository's path. Raises Unreadable."""
    found = whole(raw, "full_name", REPOSITORY)
    if not found:
        raise Unreadable("a repository without full_name")
    return found


def pull_of(raw: Table) -> tuple[bool, str]:
    """Of a run: whether a pull request is behind it, and its number if the run says which. Raises Unreadable.

    Its path is the workflow's, `@`, and the ref (services/convert/action.go). Whoever made the pull request named the
    workflow, folders and all, so only what stands at the very end is Gitea's own word, and the path is read uncut."""
    event, path = event_of(raw), raw.get("path")
    if not isinstance(path, str):
        return event.startswith("pull_request"), ""
    if event in OWN_CODE:  # who may push a branch may give it any name, and named the workflow, too
        path = path[path.find("@refs/") :]
        pull = _REF_OF_PULL.fullmatch(path)
    else:
        pull = _ENDS_IN_PULL.fullmatch(path)
    return pull is not None or event.startswith("pull_request"), pull[1] if pull else ""


def event_of(raw: Table) -> str:
    """What set a run going, in the words of workflow files. Raises Unreadable."""
    event = word(raw, "event")
    if event in ALIASES:
        return ALIASES[event]
    return "pull_request_review" if REVIEWS.fullmatch(event) else event


@dataclass(frozen=True, slots=True)
class Head:
    """Where a pull request's code comes from."""

    repository: str  # empty: deleted, or pushed without a repository of its own
    fork: bool


def head_of(home_id: str, pull: str, raw: Table) -> Head:
    """The head of the pull request into the repository of this id (empty: not known). Raises Unreadable.

    Whoever may read a repository may push a pull request without a fork (AGit: `refs/for/main`); Gitea tells the base
    repository for its head, with an empty label, and itself takes it for a fork's (services/actions/notifier_helper.go)."""
    base, head = part(raw, "base"), part(raw, "head")
    ours, theirs = identity(part(base, "repo"), "id"), identity(part(head, "repo"), "id")
    if identity(raw, "number") != pull or not ours or home_id not in ("", ours):
        raise Unreadable("the answer is about another pull request")
    without_fork = not words(head, "label", 300)
    if not theirs or without_fork:
        return Head("", True)
    return Head(whole(part(head, "repo"), "full_name", REPOSITORY), theirs != ours)


def run_of_answer(job: Job, raw: Table, head: Head | None) -> Run:
    """The run of a job; `head` is that of its pull request, None where nobody can say. Raises Unreadable."""
    if identity(raw, "id") != job.run_id:
        raise Unreadable("the answer is about another run")
    repository = whole(part(raw, "repository"), "full_name", REPOSITORY) or job.repository
    by_pull, _ = pull_of(raw)
    event = event_of(raw)
    fork: bool | None = None
    if by_pull:
        fork = head.fork if head else None
    elif event in OWN_CODE or _REF.search(words(raw, "path", 600)):
        fork, head = False, Head(repository, False)
    return Run(
        forge=job.forge,
        repository=repository,
        id=job.run_id,
        attempt=job.attempt,
        event=event,
        head_repository=head.repository if head else "",
        fork=fork,
        actor=words(part(raw, "trigger_actor") or part(raw, "actor"), "login", 100),
    )


def runner_of_answer(raw: Table) -> RunnerView:
    """A runner's record. Gitea calls a runner busy that has told of its job within ten seconds. Raises Unreadable."""
    key, name = identity(raw, "id"), words(raw, "name", 255)
    if not key or not name:
        raise Unreadable("a runner without id or name")
    status = word(raw, "status")
    return RunnerView(runner_id=key, name=name, online=status == "online" if status else None, busy=truth(raw, "busy"))


@dataclass(frozen=True, slots=True)
class Registered:
    """A runner that has just been registered: an identity for one machine."""

    id: int
    uuid: str
    token: Secret
    ephemeral: bool


def registered(raw: Table) -> Registered:
    """The answer of Register (protobuf as JSON, so that the id is a string). Raises Unreadable."""
    runner = table(raw.get("runner"), "runner")
    key, uuid, token = identity(runner, "id"), whole(runner, "uuid", _UUID), whole(runner, "token", _TOKEN)
    if not key or not uuid or not token:
        raise Unreadable("it holds no id, uuid or token")
    return Registered(int(key), uuid, Secret(token), truth(runner, "ephemeral") is True)


def registration_token(raw: Table) -> Secret:
    """What registers any number of runners in its scope. Raises Unreadable."""
    token = whole(raw, "token", _TOKEN)
    if not token:
        raise Unreadable("it holds no token")
    return Secret(token)


def _facts(raw: Table, state: JobState) -> dict[str, Any]:
    """What a job object says, whichever way it came. A runner is believed once the job has started."""
    attempt = number(raw, "run_attempt") or 1
    if attempt > _TRIES:
        raise Unreadable("run_attempt is not a number of tries")
    started = state in (JobState.IN_PROGRESS, JobState.COMPLETED)
    ended = state is JobState.COMPLETED
    return {
        "run_id": identity(raw, "run_id"),
        "attempt": attempt,
        "labels": labels(raw, "labels"),
        "name": words(raw, "name", 200),
        "url": link(raw, "html_url"),
        "branch": words(raw, "head_branch", 255),
        "sha": whole(raw, "head_sha", _COMMIT),
        "queued_at": moment(raw, "created_at"),
        "started_at": moment(raw, "started_at") if started else None,
        "completed_at": moment(raw, "completed_at") if ended else None,
        "conclusion": word(raw, "conclusion") if ended else "",
        "runner_id": identity(raw, "runner_id") if started else "",
        "runner_name": words(raw, "runner_name", 100) if started else "",
    }
