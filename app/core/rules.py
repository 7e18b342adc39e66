"""May this repository's job spend money here, and may this job run on this lease? Verdict and why."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from app.core.model import Lease, RepositoryRule, ScopeKind

SAFE_EVENTS = frozenset(
    {
        "push", "workflow_dispatch", "repository_dispatch", "schedule", "release", "create", "merge_group", "pull_request",
        "web", "api", "trigger", "pipeline", "parent_pipeline", "merge_request_event", "ondemand_dast_scan",
    }
)  # fmt: skip
"""GitHub's events that run code of people who may write to the repository, then GitLab's CI_PIPELINE_SOURCE words.
`pull_request_target`, `issue_comment` and `workflow_run` run in the base repository's name on a stranger's wish
(docs.github.com, "Secure use"), so only a rule that lists them lets them in."""
FORK_EVENTS = frozenset({"pull_request", "pull_request_target", "pull_request_review", "pull_request_review_comment"})


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


def may_run(claim: JobClaim, lease: Lease, repositories: Sequence[RepositoryRule]) -> Admission:
    """Whether the job that came may run on this lease: repository, fork and event are checked again at its start."""
    no = _refusal(claim, lease, repositories)
    if no is not None:
        return Admission(False, (f"Sublet refuses this job on lease {lease.name}.", no))
    return Admission(True, (f"Lease {lease.name} · pool {lease.key.pool} · {lease.provider} {lease.region}".rstrip(),))


def _refusal(claim: JobClaim, lease: Lease, repositories: Sequence[RepositoryRule]) -> str | None:
    repository, path = claim.repository.casefold(), lease.key.scope.path.casefold()
    if lease.key.scope.kind is ScopeKind.REPOSITORY and repository != path:
        return f"The lease serves {lease.key.scope.path}, not {claim.repository or 'an unnamed repository'}."
    if lease.key.scope.kind is ScopeKind.ORGANIZATION and not repository.startswith(path + "/"):
        return f"The lease serves {lease.key.scope.path}, and {claim.repository or 'an unnamed repository'} is not part of it."
    rule = allowed_repository(claim.repository, repositories)
    if rule is None:
        return f"The repository {claim.repository} is not in the allow list; add a [[repository]] that matches it."
    event = claim.event.casefold()
    if event not in (rule.events or SAFE_EVENTS):
        return (
            f"The event {claim.event or '(unknown)'} may not run here; list it under `events` of [[repository]] {rule.match}."
        )
    if _is_fork(claim, event) and not rule.forks:
        origin = claim.head_repository or "a fork"
        return f"The code comes from {origin}, not from {claim.repository}; set `forks = true` for {rule.match} to allow it."
    return None


def _is_fork(claim: JobClaim, event: str) -> bool:
    if claim.head_repository:
        return claim.head_repository.casefold() != claim.repository.casefold()
    if claim.fork is not None:
        return claim.fork
    return event in FORK_EVENTS or event == "merge_request_event"  # nobody can say where its code comes from: treat as a fork
