"""May this run spend money here, and may this job run on this lease? Verdict and why."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from app.core.model import Lease, RepositoryRule, Run, ScopeKind

SAFE_EVENTS = frozenset(
    {
        "push", "workflow_dispatch", "repository_dispatch", "schedule", "release", "create", "merge_group", "pull_request",
        "web", "api", "trigger", "pipeline", "parent_pipeline", "merge_request_event", "ondemand_dast_scan",
    }
)  # fmt: skip
"""GitHub's events that run code of people who may write to the repository, then GitLab's CI_PIPELINE_SOURCE words.
`pull_request_target`, `issue_comment` and `workflow_run` run in the base repository's name on a stranger's wish
(docs.github.com, "Secure use"), so only a rule that lists them lets them in."""
FORK_EVENTS = frozenset(
    {
        "pull_request", "pull_request_target", "pull_request_review", "pull_request_review_comment",
        "merge_request_event", "external_pull_request_event",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class JobClaim:
    """What the job-started hook says of the job that came. Untrusted: it is read from the job's environment."""

    repository: str
    run_id: str = ""
    attempt: int = 1
    event: str = ""
    head_repository: str = ""  # of a pull or merge request; empty: the hook could not tell
    job: str = ""
    actor: str = ""
    ref: str = ""
    sha: str = ""
    fork: bool | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """May it run, and the lines for the job's log."""

    allowed: bool
    lines: tuple[str, ...]


def allowed_repository(repository: str, rules: Sequence[RepositoryRule]) -> RepositoryRule | None:
    """The first rule whose glob matches the full path; case does not matter. None: this repository may not spend."""
    path = repository.casefold()
    return next((rule for rule in rules if path and fnmatch.fnmatchcase(path, rule.match.casefold())), None)


def objection(run: Run, repositories: Sequence[RepositoryRule]) -> str:
    """Why this run may not spend money here, and what to set so that it may; empty: it may.

    Asked before a machine is rented, and again when its job starts."""
    rule = allowed_repository(run.repository, repositories)
    if rule is None:
        return f"The repository {run.repository} is not in the allow list; add a [[repository]] that matches it."
    event = run.event.casefold()
    if event not in (rule.events or SAFE_EVENTS):
        return f"The event {run.event or '(unknown)'} may not run here; list it under `events` of [[repository]] {rule.match}."
    if not rule.forks and _is_fork(run, event):
        origin = run.head_repository or "a fork, or from where nobody can say"
        return f"The code comes from {origin}; set `forks = true` for [[repository]] {rule.match} to allow it."
    actor = run.actor.casefold()
    if rule.actors and not any(actor and fnmatch.fnmatchcase(actor, glob.casefold()) for glob in rule.actors):
        return f"{run.actor or 'Somebody unknown'} set it going and is not among the `actors` of [[repository]] {rule.match}."
    return ""


def may_run(claim: JobClaim, lease: Lease, repositories: Sequence[RepositoryRule], known: Run | None = None) -> Admission:
    """Whether the job that came may run on this lease. `known` is its run as the forge tells it, which outranks the claim."""
    no = _refusal(claim, lease, repositories, known)
    if no:
        return Admission(False, (f"Sublet refuses this job on lease {lease.name}.", no))
    return Admission(True, (f"Lease {lease.name} · pool {lease.key.pool} · {lease.provider} {lease.region}".rstrip(),))


def _refusal(claim: JobClaim, lease: Lease, repositories: Sequence[RepositoryRule], known: Run | None) -> str:
    repository, path = claim.repository.casefold(), lease.key.scope.path.casefold()
    if lease.key.scope.kind is ScopeKind.REPOSITORY and repository != path:
        return f"The lease serves {lease.key.scope.path}, not {claim.repository or 'an unnamed repository'}."
    if lease.key.scope.kind is ScopeKind.ORGANIZATION and not repository.startswith(path + "/"):
        return f"The lease serves {lease.key.scope.path}, and {claim.repository or 'an unnamed repository'} is not part of it."
    told = Run(
        forge=lease.key.forge,
        repository=claim.repository,
        id=claim.run_id,
        attempt=claim.attempt,
        event=claim.event,
        head_repository=claim.head_repository,
        fork=claim.fork,
        actor=claim.actor,
    )
    if known is None:
        return objection(told, repositories)
    no = objection(known, repositories)
    rule = allowed_repository(known.repository, repositories)
    if not no and rule is not None and not rule.forks and _is_fork(told, ""):  # a run may carry on the work of a fork's run
        origin = told.head_repository or "a fork"
        return f"The job carries code of {origin}; set `forks = true` for [[repository]] {rule.match} to allow it."
    return no


def _is_fork(run: Run, event: str) -> bool:
    if run.head_repository:
        return run.head_repository.casefold() != run.repository.casefold()
    if run.fork is not None:
        return run.fork
    return event in FORK_EVENTS  # nobody can say where its code comes from
