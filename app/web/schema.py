"""The JSON that the API speaks, typed: fields are only ever added, so that readers of today go on reading tomorrow."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

Moment = Annotated[
    datetime, PlainSerializer(lambda at: at.isoformat().replace("+00:00", "Z"), return_type=str, when_used="json")
]
"""RFC 3339 with Z; every time in the store is UTC."""


class View(BaseModel):
    """Frozen; only ever gets new fields, so that readers of today go on reading tomorrow."""

    model_config = ConfigDict(frozen=True)


class Money(View):
    amount: str = Field(description="A decimal number as text.", examples=["0.0042"])
    currency: str = Field(examples=["USD"])


class Cost(Money):
    estimate: bool = Field(description="True until the books of the lease are closed.")


class RunnerView(View):
    id: str
    name: str


class JobView(View):
    id: str
    key: str
    url: str
    name: str
    repository: str
    workflow: str
    branch: str
    actor: str
    labels: list[str] | None
    state: str
    conclusion: str
    queued_at: Moment | None
    started_at: Moment | None
    completed_at: Moment | None
    heard_by: str = Field("", description="How it was heard of first: `webhook`, or `poll` where none came or none is taken.")
    heard_after_seconds: float | None = Field(
        None, description="From queued, by the forge's clock, to our hearing of it; null where the forge says no time."
    )
    heard: str = Field("", description="The same in words.", examples=["heard of after 9 s, by polling every 15 s"])


class PhaseView(View):
    phase: str = Field(description="`queued`, or a state of the lease.")
    started_at: Moment
    ended_at: Moment | None
    measured_by: str = Field(description="Whose clock: the forge's, or ours.")
    note: str = Field(default="", description="Of `queued`: how late we heard of the job, and by what.")


class NodeView(View):
    facts: dict[str, Any] | None
    heartbeat_at: Moment | None


class Billing(View):
    since: Moment | None = Field(description="When the machine was first asked for: money may be owed from here.")
    granularity_seconds: float
    minimum_seconds: float


class LeaseView(View):
    id: str
    name: str
    state: str
    reason: str | None
    reason_text: str
    note: str
    pool: str
    forge: str
    scope: str
    labels: list[str]
    attempt: int
    provider: str
    region: str
    offer: dict[str, Any] | None
    price_per_hour: Money | None
    cost: Cost
    billing: Billing
    created_at: Moment
    entered_at: Moment
    deadline: Moment | None
    hard_end: Moment | None
    gone: bool = Field(description="The provider proved absence, or was never asked for anything.")
    gone_at: Moment | None
    instance_id: str
    runner: RunnerView
    job: JobView | None
    phases: list[PhaseView]
    node: NodeView
    pool_note: str
    demo: bool
    asked: str = Field("", description="`drain` or `destroy`, once a person or policy asked for it.")
    asked_text: str = ""
    mode: str = Field("", description="`contained`, `guarded` or `bare`; empty: planned before there were modes.")
    signed: bool = Field(False, description="Its image had to be signed. Without that it wears a red mark.")
    image_digest: str = ""
    revoked: str = Field("", description="A sentence, if its image was revoked.")
    for_job: str = Field("", description="Id of the one job that its forge pins its runner to; empty: it is for any that fits.")
    runner_why: str = Field("", description="Why the node could not start its runner, in the node's words.")


class ChargeView(View):
    kind: str
    since: Moment
    until: Moment
    price_per_hour: Money
    amount: Money


class AuditView(View):
    seq: int
    at: Moment
    actor: str
    action: str
    text: str


class CheckView(View):
    what: str
    asked: str
    seen: str
    passed: bool


class PlatformView(View):
    architecture: str
    digest: str


class EvidenceView(View):
    kind: str = Field(examples=["cosign tag", "sigstore bundle", "provenance"])
    good: bool
    signer: str = Field(description="A key by its name and fingerprint, or whom a certificate names.")
    signed_at: Moment | None
    log_index: int | None = Field(description="Its place in the public log, where it is in one.")
    detail: str = Field(description="Why it does not count; of provenance, who built it from what.")
    digest: str = Field(description="What it speaks for.")


class ImageView(View):
    asked: str = Field(description="As it was written.")
    allowed: bool
    code: str = Field(description="The check that failed, in a word; empty if it may run.", examples=["unsigned"])
    reference: str = Field(description="By digest: only this travels on.")
    digest: str
    platforms: list[PlatformView]
    checks: list[CheckView]
    evidence: list[EvidenceView]
    why: str
    at: Moment


class LeaseDetail(LeaseView):
    need: dict[str, Any]
    charges: list[ChargeView]
    audit: list[AuditView]
    decision: dict[str, Any] | None
    proof: list[CheckView]
    image: ImageView | None = Field(None, description="What was found of its image; null: none was looked at.")
    containers: list[ImageView] = Field(default_factory=list[ImageView], description="Images that its job asked for.")
    typical_seconds: dict[str, float]
    log_lines: int
    serves: str = Field("", description="A sentence: which job it was made for, or which jobs it may take.")


class TriedView(View):
    at: Moment
    provider: str
    offer: str
    title: str
    region: str
    price_per_hour: Money
    outcome: str = Field(examples=["no_capacity", "provider_refused", "throttled", "away"])
    detail: str = Field(description="The provider's own words.")


class CooldownView(View):
    provider: str
    region: str = Field(description="Empty: whatever it is. So are `type` and `offer`.")
    type: str
    offer: str
    since: Moment = Field(description="Of its first failure in a row.")
    until: Moment
    failures: int
    why: str


class ClosedView(View):
    provider: str
    rule: str = Field(description="`paused` by a person, or `provider-away`.")
    detail: str


class QueueItem(JobView):
    pool: str | None
    wait: str
    not_ours: str
    waiting_since: Moment | None
    waiting_seconds: float | None
    next_step: str
    lease: RunnerView | None = Field(description="Id and name of the lease that has the job.")
    demo: bool
    provider: str = Field("", description="Where its lease has its machine.")
    tried: list[TriedView] = Field(
        default_factory=list[TriedView], description="Offers that were asked for in its lease and said no, before the last one."
    )


class Attention(View):
    kind: Literal["late", "failed", "silent", "waiting", "destroying", "stray", "sweep", "provider"]
    text: str
    urgent: bool = Field(default=False, description="It costs money that it should not.")
    cost: Money | None = Field(default=None, description="What it has cost so far, where that is known.")
    command: str = Field(default="", description="What to run, or to begin with.")
    lease: str = Field(default="", description="Name of the lease it is about.")
    since: Moment


class StartTimes(View):
    count: int
    p50_seconds: float | None
    p95_seconds: float | None


Status = Literal["ok", "warn", "fail", "skip"]


class Check(View):
    name: str
    status: Status
    text: str
    fix: str


def check(name: str, status: Status, text: str, fix: str = "") -> Check:
    """One check: what was found and, where something is wrong, one thing to do about it."""
    return Check(name=name, status=status, text=text, fix=fix)


class Reply(View):
    schema_version: int = 1


class LeaseReply(LeaseDetail):
    schema_version: int = 1


class LeasesReply(Reply):
    leases: list[LeaseView]
    more: bool
    before: Moment | None = Field(None, description="Give this as `before` for the next page.")


class LogLine(View):
    seq: int
    at: Moment
    source: str
    line: str


class LogReply(Reply):
    lease: str
    lines: list[LogLine]
    last: int = Field(description="Give this as `after` to read on.")


class AskedReply(Reply):
    id: str
    name: str
    asked: str
    state: str


class QueueReply(Reply):
    tab: str
    counts: dict[str, int]
    jobs: list[QueueItem]
    more: bool
    before: Moment | None = None
    closed: list[ClosedView] = Field(
        default_factory=list[ClosedView], description="Providers where nothing is rented now; told with jobs that wait."
    )
    cooldowns: list[CooldownView] = Field(
        default_factory=list[CooldownView], description="What is left alone for a while; told with jobs that wait."
    )


class OverviewReply(Reply):
    now: Moment
    demo: bool
    spending: list[Money] = Field(description="Per hour, of all open leases, by currency.")
    booked_today: list[Money]
    by_state: dict[str, int]
    jobs: dict[str, int] = Field(description="Open jobs: waiting, started, not_ours.")
    oldest_wait_seconds: float | None
    start_times: StartTimes
    attention: list[Attention]
    live: list[LeaseView]
    waiting: list[QueueItem]
    recent: list[LeaseView]
    ever: bool = Field(description="Was there ever a lease.")
    unsigned_pools: list[str] = Field(default_factory=list[str], description="Pools that ask for no signature.")


class ResolveReply(Reply):
    id: str
    name: str


class DoctorReply(Reply):
    ok: bool = Field(description="No check failed.")
    checks: list[Check]


class WhoamiReply(Reply):
    person: str
    role: str


class LoginLinkReply(Reply):
    url: str
    expires_at: Moment


class AskBody(BaseModel):
    reason: str = Field(min_length=1, max_length=200, description="Why, in your words; kept in the audit.")
