"""Which jobs may spend money here, and which may run on a lease."""

from typing import Any

import pytest

from app.core.model import RepositoryRule, Run, Scope, ScopeKind
from app.core.rules import JobClaim, allowed_repository, may_run, objection
from tests.core.values import KEY, lease

RULES = (RepositoryRule("acme/train"), RepositoryRule("acme/open-*", forks=True, events=frozenset({"pull_request"})))
_USUAL: dict[str, Any] = {"repository": "acme/train", "event": "push"}


def claim(**values: Any) -> JobClaim:
    return JobClaim(**{**_USUAL, **values})


@pytest.mark.parametrize(
    ("repository", "allowed"),
    [("acme/train", True), ("ACME/Train", True), ("acme/train2", False), ("", False), ("evil/acme/train", False)],
)
def test_what_no_rule_names_may_not_spend(repository: str, allowed: bool) -> None:
    assert (allowed_repository(repository, RULES) is not None) is allowed


def test_a_push_of_the_leases_own_repository_may_run() -> None:
    assert may_run(claim(), lease(1), RULES).allowed


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"repository": "acme/open-x"}, "serves acme/train, not acme/open-x"),
        ({"repository": ""}, "an unnamed repository"),
        ({"event": "pull_request_target"}, "event pull_request_target may not run"),
        ({"event": ""}, "(unknown)"),
        ({"event": "pull_request", "head_repository": "stranger/train"}, "comes from stranger/train"),
        ({"event": "pull_request"}, "comes from a fork"),
        ({"event": "push", "fork": True}, "comes from a fork"),
    ],
)
def test_everything_else_is_refused_with_a_sentence(values: dict[str, Any], why: str) -> None:
    answer = may_run(claim(**values), lease(1), RULES)
    assert not answer.allowed
    assert why in answer.lines[1]


def test_a_pull_request_from_the_repository_itself_may_run() -> None:
    assert may_run(claim(event="pull_request", head_repository="Acme/train"), lease(1), RULES).allowed


def test_a_rule_may_let_forks_in() -> None:
    scope = Scope(ScopeKind.ORGANIZATION, "acme")
    wide = lease(1, key=KEY.__class__(KEY.pool, KEY.forge, scope, KEY.labels))
    given = claim(repository="acme/open-x", event="pull_request", head_repository="stranger/open-x")
    assert may_run(given, wide, RULES).allowed
    assert not may_run(claim(repository="acmeplus/train"), wide, (RepositoryRule("*/*"),)).allowed


def a_run(**values: Any) -> Run:
    given: dict[str, Any] = {"event": "push", "head_repository": "acme/train", "fork": False, "actor": "mona"}
    return Run("github", "acme/train", "1", **{**given, **values})


@pytest.mark.parametrize(
    ("globs", "actor", "allowed"),
    [
        ((), "anybody", True),
        (("mona",), "MONA", True),
        (("team-*",), "team-7", True),
        (("mona", "team-*"), "eve", False),
        (("*",), "", False),
    ],
)
def test_a_rule_may_name_who_sets_runs_going(globs: tuple[str, ...], actor: str, allowed: bool) -> None:
    rules = (RepositoryRule("acme/*", actors=frozenset(globs)),)
    assert (objection(a_run(actor=actor), rules) == "") is allowed


@pytest.mark.parametrize(
    ("values", "fork"),
    [
        ({"event": "pull_request", "head_repository": "", "fork": None}, True),
        ({"event": "merge_request_event", "head_repository": "", "fork": None}, True),
        ({"event": "push", "head_repository": "", "fork": None}, False),
        ({"event": "pull_request", "head_repository": "", "fork": False}, False),
        ({"event": "push", "head_repository": "", "fork": True}, True),
    ],
)
def test_a_head_that_nobody_knows_counts_as_a_fork_where_strangers_can_be(values: dict[str, Any], fork: bool) -> None:
    assert ("forks = true" in objection(a_run(**values), (RepositoryRule("acme/*"),))) is fork


def test_the_forges_word_outranks_what_the_job_says_of_itself() -> None:
    honest = claim(event="pull_request", head_repository="acme/train")
    assert not may_run(honest, lease(1), RULES, a_run(event="pull_request", head_repository="eve/train", fork=True)).allowed
    assert may_run(claim(event="pull_request_target"), lease(1), RULES, a_run()).allowed


def test_a_job_that_owns_up_to_a_forks_code_is_refused_though_its_run_is_ours() -> None:
    """A run that another one set going may carry on the work of a fork's."""
    rules = (RepositoryRule("acme/*", events=frozenset({"workflow_run"})),)
    told = claim(event="workflow_run", head_repository="eve/train")
    assert not may_run(told, lease(1), rules, a_run(event="workflow_run")).allowed
