"""Where a job's runner is registered, and which jobs a scope cannot serve."""

from app.core.demand import place
from app.core.model import RepositoryRule, Scope, ScopeKind
from tests.core.values import job, pool

ANY = (RepositoryRule("*"),)


def test_a_job_of_another_organisation_than_the_pool_s_is_not_ours() -> None:
    """A runner of acme can never take it: it would be rented for nothing, again and again."""
    ours = pool(scope=ScopeKind.ORGANIZATION, scope_path="Acme")
    assert place(job(1), [ours], ANY) == (ours, Scope(ScopeKind.ORGANIZATION, "Acme"))
    other = pool(scope=ScopeKind.ORGANIZATION, scope_path="other")
    assert place(job(1), [other], ANY) == "The pool gpu registers its runners in other, and acme/train is not part of it."
    assert place(job(1), [other, ours], ANY) == (ours, Scope(ScopeKind.ORGANIZATION, "Acme"))


def test_a_pool_s_own_scope_wins_and_the_owner_is_the_path() -> None:
    assert place(job(1), [pool(scope=ScopeKind.ORGANIZATION)], ANY) == (
        pool(scope=ScopeKind.ORGANIZATION),
        Scope(ScopeKind.ORGANIZATION, "acme"),
    )
