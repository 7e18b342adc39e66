"""The conformance kit fails adapters that break the contract, each in the checks that are for it."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import requests

from app.core.model import Job, JobState, Scope
from app.forges.conformance import CHECKS, Bench, examine, table
from app.forges.conformance.suite import Factory
from app.forges.contract import (
    BadSignature,
    Credential,
    Delivery,
    DeliveryKind,
    Forge,
    ForgeDown,
    ForgeRefused,
    Least,
    Minted,
    Pace,
    RunnerBusy,
    RunnerOrder,
    RunnerView,
)
from app.forges.gitlab import TOKEN
from app.forges.payload import load
from providers.contract import Secret
from tests.fakes.gitlab import TOKEN as ACCOUNT
from tests.forges import gitea_bench, gitlab_bench
from tests.forges.spoiled import ELSEWHERE
from tests.forges.tea_bench import OLD


class Stand:
    """An adapter that does what the true one does, where it does not do worse."""

    def __init__(self, true: Any) -> None:
        self.true = true

    def __getattr__(self, name: str) -> Any:
        return getattr(self.true, name)


class Trusting(Stand):
    """Believes every delivery."""

    def parse(self, headers: Mapping[str, str], body: bytes) -> Delivery:
        try:
            return self.true.parse(headers, body)
        except Exception:
            return Delivery(self.true.name, "guid", DeliveryKind.IGNORED, "Job Hook", "")


class Crashing(Stand):
    """Reads what it is sent as if it were always well formed."""

    def parse(self, headers: Mapping[str, str], body: bytes) -> Delivery:
        found = self.true.parse(headers, body)
        load(body)["build_name"].strip()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        return found


class Verbatim(Stand):
    """Takes a name as it comes."""

    def parse(self, headers: Mapping[str, str], body: bytes) -> Delivery:
        found = self.true.parse(headers, body)
        return found if found.job is None else replace(found, job=replace(found.job, name=str(load(body).get("build_name"))))


class Forgetting(Stand):
    """Gives every delivery a guid of its own."""

    count = 0

    def parse(self, headers: Mapping[str, str], body: bytes) -> Delivery:
        Forgetting.count += 1
        return replace(self.true.parse(headers, body), guid=f"guid-{Forgetting.count}")


class Remembering(Stand):
    """Tells every job as it was told first."""

    def __init__(self, true: Any) -> None:
        super().__init__(true)
        self.states: dict[str, JobState] = {}

    def parse(self, headers: Mapping[str, str], body: bytes) -> Delivery:
        found = self.true.parse(headers, body)
        if found.job is None:
            return found
        return replace(found, job=replace(found.job, state=self.states.setdefault(found.job.key, found.job.state)))


class Leaking(Stand):
    """Gives the account's own token to the machine."""

    def mint_runner(self, order: RunnerOrder) -> Minted:
        made = self.true.mint_runner(order)
        environment = {**made.credential.environment, "GITLAB_TOKEN": Secret(ACCOUNT)}
        return replace(made, credential=replace(made.credential, environment=environment))


class Loud(Stand):
    """Gives the runner's token as an argument."""

    def mint_runner(self, order: RunnerOrder) -> Minted:
        made = self.true.mint_runner(order)
        credential: Credential = made.credential
        command = (*credential.command, "--token", credential.environment[TOKEN].reveal())
        return replace(made, credential=replace(credential, command=command))


class Lax(Stand):
    """Does not keep the runner from a second job."""

    def job_started(self, scope: Scope, runner_id: str, installation: str = "") -> None:
        return None


class Generous(Stand):
    """Adds a label of its own."""

    def mint_runner(self, order: RunnerOrder) -> Minted:
        return self.true.mint_runner(replace(order, labels=(*order.labels, "linux")))


class Stubborn(Stand):
    """Keeps to its own command."""

    def mint_runner(self, order: RunnerOrder) -> Minted:
        return self.true.mint_runner(replace(order, command=()))


class Halving(Stand):
    """Takes half a listing for the whole."""

    def open_jobs(self, place: str, installation: str = "") -> Sequence[Job]:
        try:
            return self.true.open_jobs(place, installation)
        except ForgeDown:
            return []


class Ruthless(Stand):
    """Removes a runner whether it has a job or not."""

    def remove_runner(self, scope: Scope, runner_id: str, installation: str = "") -> None:
        with contextlib.suppress(RunnerBusy):
            self.true.remove_runner(scope, runner_id, installation)


class Idle(Stand):
    """Says yes to a removal, and does nothing."""

    def remove_runner(self, scope: Scope, runner_id: str, installation: str = "") -> None:
        return None


class Blind(Stand):
    """Takes no answer for "it is not there"."""

    def runner(self, scope: Scope, runner_id: str, installation: str = "") -> RunnerView | None:
        try:
            return self.true.runner(scope, runner_id, installation)
        except ForgeDown:
            return None


class Tireless(Stand):
    """Polls at any pace."""

    def pace(self) -> Pace:
        return Pace.FREE


class Credulous(Stand):
    """Takes every pipeline for the project's own code."""

    def fetch_run(self, job: Job) -> Any:
        found = self.true.fetch_run(job)
        return None if found is None else replace(found, fork=False)


class Boasting(Stand):
    """Says of itself what is not so."""

    single_use = True


class Wandering(Stand):
    """Says that its runners are pinned, and pins none."""

    pinned = True


class Narrow(Stand):
    """Says that it is wide, and shows one repository of the owner."""

    def open_jobs(self, place: str, installation: str = "") -> Sequence[Job]:
        found = self.true.open_jobs(place, installation)
        return found if "/" in place else [job for job in found if job.repository == "acme/train"]


class Denying(Stand):
    """Does not say that a job run again keeps its key."""

    reruns_in_place = False


class Late(Stand):
    """Tells a job as it was heard of, and asks nobody."""

    def fetch_job(self, job: Job) -> Job | None:
        return job


class Muddled(Stand):
    """Takes every refusal for a bad moment."""

    def open_jobs(self, place: str, installation: str = "") -> Sequence[Job]:
        try:
            return self.true.open_jobs(place, installation)
        except ForgeRefused as error:
            raise ForgeDown(str(error)) from None


class Insisting(Stand):
    """Asks again and again."""

    def check(self) -> str:
        for _ in range(9):
            with contextlib.suppress(ForgeRefused):
                return self.true.check()
        return self.true.check()


class Quoting(Stand):
    """Quotes whatever the forge says, in full."""

    def fetch_run(self, job: Job) -> Any:
        try:
            return self.true.fetch_run(job)
        except ForgeRefused as error:
            raise ForgeRefused(f"{error}: " + "no " * 5000) from None


class Following(Stand):
    """Goes wherever it is sent."""

    def fetch_run(self, job: Job) -> Any:
        try:
            return self.true.fetch_run(job)
        except ForgeRefused:
            requests.get(ELSEWHERE.address, timeout=5)
            raise


class Shortsighted(Stand):
    """Reads the first page, and takes it for the whole."""

    def open_jobs(self, place: str, installation: str = "") -> Sequence[Job]:
        return self.true.open_jobs(place, installation)[:5]


class Nosy(Stand):
    """Lists everybody's runners."""

    def runners(self, scope: Scope, prefix: str, installation: str = "") -> Sequence[RunnerView]:
        return self.true.runners(scope, "", installation)


class Hopeful(Stand):
    """Thinks any label fit."""

    def unfit(self, labels: Sequence[str]) -> str:
        return ""


class Spendthrift(Stand):
    """Lights a new beacon each time."""

    def light_beacon(self, scope: Scope, labels: tuple[str, ...], known: Credential | None, runner_id: str) -> Minted | None:
        return self.true.light_beacon(scope, labels, None, "")


class Vague(Stand):
    """Says that a runner may not be old, and not how old."""

    def mint_runner(self, order: RunnerOrder) -> Minted:
        made = self.true.mint_runner(order)
        return replace(made, credential=replace(made.credential, least=Least(("gitlab-runner",), "new", "It is old.")))


class Entangled(Stand):
    """Gives every thread the answer that one of them got."""

    lock = threading.Lock()

    def mint_runner(self, order: RunnerOrder) -> Minted:
        with self.lock:
            self.last: Minted = self.__dict__.get("last") or self.true.mint_runner(order)
        return self.last


class OneSecret(Stand):
    """Forgets the secret before."""

    def parse(self, headers: Mapping[str, str], body: bytes) -> Delivery:
        made = hmac.new(OLD.encode(), body, hashlib.sha256).hexdigest()
        if headers.get("x-hub-signature-256") == f"sha256={made}":
            raise BadSignature
        return self.true.parse(headers, body)


BROKEN: list[tuple[type[Stand], set[str]]] = [
    (Trusting, {"forged_deliveries_are_refused", "without_a_secret_no_delivery_is_believed"}),
    (Crashing, {"hostile_values_are_read_cleanly_or_refused", "missing_values_are_no_crash"}),
    (Verbatim, {"hostile_values_are_read_cleanly_or_refused"}),
    (Forgetting, {"what_is_sent_again_has_the_same_guid"}),
    (Remembering, {"each_delivery_speaks_for_itself", "a_cancelled_job_is_told_as_ended"}),
    (Leaking, {"no_secret_of_ours_leaves"}),
    (Loud, {"no_secret_of_ours_leaves"}),
    (Lax, {"a_runner_takes_one_job_and_never_a_second"}),
    (Generous, {"a_runner_has_exactly_the_labels_of_its_order", "labels_that_cannot_be_are_said_to_be_unfit"}),
    (Stubborn, {"a_pools_own_command_is_used"}),
    (Halving, {"half_a_listing_is_an_error", "a_forge_that_is_down_is_no_answer"}),
    (Ruthless, {"a_busy_runner_is_not_removed"}),
    (Idle, {"a_runner_that_never_takes_a_job_is_removed", "a_lost_answer_to_a_registration_is_found_and_removed"}),
    (Blind, {"a_forge_that_is_down_is_no_answer", "a_forge_in_trouble_is_no_answer"}),
    (Tireless, {"the_rest_of_the_quota_is_kept_for_credentials", "a_forge_that_asks_us_to_slow_down_is_left_alone"}),
    (Credulous, {"a_forks_code_is_told"}),
    (Boasting, {"after_its_job_the_record_goes_as_the_adapter_says"}),
    (Denying, {"what_is_run_again_is_a_new_job_or_says_so", "what_is_run_again_is_told_anew"}),
    (Wandering, {"a_pinned_runner_takes_its_own_job"}),
    (Late, {"one_job_is_told", "a_job_cancelled_before_it_began_has_ended", "a_stolen_job_leaves_our_runner_idle"}),
    (Muddled, {"an_expired_token_is_told_to_a_person", "an_empty_queue_is_empty"}),
    (Insisting, {"an_expired_token_is_told_to_a_person"}),
    (Quoting, {"what_a_forge_says_is_quoted_with_care"}),
    (Following, {"a_redirect_elsewhere_is_not_followed"}),
    (Shortsighted, {"a_crowd_is_listed_whole"}),
    (Nosy, {"runners_are_found_by_their_prefix"}),
    (Hopeful, {"labels_that_cannot_be_are_said_to_be_unfit"}),
    (Spendthrift, {"a_beacon_takes_no_job"}),
    (Vague, {"how_old_a_runner_may_be_is_well_formed"}),
    (Entangled, {"several_threads_may_ask_at_once"}),
    (OneSecret, {"the_secret_before_still_counts"}),
    (Narrow, {"an_owner_is_listed_where_the_forge_is_wide"}),
]


ON_GITEA = (Denying, Narrow, OneSecret)
"""What GitLab would not show."""


def stand(kind: type[Stand]) -> Factory:
    class BrokenGitLab(gitlab_bench.GitLabBench):
        def forge(self, *, polled: bool = False) -> Forge:
            made: Any = kind(super().forge(polled=polled))
            return made

    class BrokenGitea(gitea_bench.GiteaBench):
        def forge(self, *, polled: bool = False) -> Forge:
            made: Any = kind(super().forge(polled=polled))
            return made

    @contextlib.contextmanager
    def factory() -> Generator[Bench]:
        bench: Any = BrokenGitea() if kind in ON_GITEA else BrokenGitLab()
        try:
            yield bench
        finally:
            (bench.server if kind in ON_GITEA else bench.lab).stop()

    return factory


@pytest.mark.parametrize(("kind", "names"), BROKEN, ids=[kind.__name__ for kind, _ in BROKEN])
def test_a_broken_adapter_is_caught(kind: type[Stand], names: set[str]) -> None:
    result = examine(stand(kind), [one for one in CHECKS if one.name in names])
    assert {one.check for one in result.outcomes if one.word == "FAIL"} == names, result.outcomes


def test_the_table_names_each_check_and_what_failed() -> None:
    some = [one for one in CHECKS if one.name in ("a_busy_runner_is_not_removed", "an_unchanged_listing_costs_no_quota")]
    result = examine(stand(Ruthless), some)
    text = table([result])
    assert all(one.title in text for one in CHECKS)
    assert "gitlab: a_busy_runner_is_not_removed: FAIL: Failed: Removing a runner with a job gave" in text
    assert {one.word for one in result.outcomes} == {"FAIL", "n/a"}
