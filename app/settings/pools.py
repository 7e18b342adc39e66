"""The `[[pool]]` table: which jobs a pool serves, what they need, and what they may cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal, Self, cast

from pydantic import Field, model_validator

from app.kit.template import names
from app.settings.fields import Addition, Label, Name, Price, Section, Words, table
from app.settings.trust import Digest, IdentitySettings, ImageReference, Pattern, ProvenanceSettings, PublicKeyField

PLACES = frozenset({"url", "name", "labels", "idle_seconds", "uuid", "handle", "token_url"})
"""What the forges fill in; each says for itself which of them it has."""
UNPROVEN = (
    'name a signed `image`, or write these two lines, and every lease wears a red mark:\n    mode = "bare"\n    signed = false'
)


class PoolSettings(Section):
    """Which jobs a pool serves, what they need, and what they may cost."""

    name: Name
    """What pages call it. Default: its labels joined by hyphens."""
    labels: tuple[Label, ...] = Field(min_length=1, max_length=20)
    """The labels it serves: a job with all of these, and nothing else but what `may_add` allows, is its own. No default."""
    forges: tuple[Name, ...] = ()
    """Forges whose jobs it serves: `github`, `gitlab`, `gitea`, `forgejo`, or the `name` of a [[forge]]. Default: every one
    that is set up."""
    providers: tuple[Name, ...] = ()
    """Providers by name, in order of preference. Default: all, the cheapest first."""
    gpu: Words | None = None
    """GPU model, for example `h100`; `[gpu_names]` has what vendors call it. Default none: a machine without a GPU will do."""
    gpus: int = Field(default=0, ge=0, le=16)
    """Number of GPUs. Default 1 where `gpu` is set, else 0."""
    gpu_memory_gib: int = Field(default=0, ge=0, le=2_000)
    """Least memory of each GPU, in GiB. Default 0: any."""
    memory_gib: int = Field(default=0, ge=0, le=20_000)
    """Least memory of the machine, in GiB. Default 0: any."""
    disk_gib: int = Field(default=0, ge=0, le=100_000)
    """Least disk, in GiB. Default 0: any."""
    architecture: Literal["amd64", "arm64"] | None = None
    """Processor architecture. Default: either."""
    regions: tuple[Words, ...] = ()
    """Regions that machines may be in, as the providers name them, or countries by their two letters (`SG`). Default: any."""
    spot: bool | Literal["first"] | None = None
    """true: only machines that may be reclaimed; false: never those; `first`: those where one passes, else on-demand ones.
    Default: either, the cheapest first."""
    max_price_per_hour: Price = Decimal(0)
    """Most that one machine may cost per hour, as text so that it stays exact. Default "0": only machines that cost nothing,
    so that a forgotten line spends no money. No label can raise it."""
    ceiling: int = Field(default=1, ge=1, le=1_000)
    """Most machines alive at once, whatever their state. Default 1. No label can raise it."""
    min_driver: Words | None = None
    """Least NVIDIA driver, for example `570.86`; proven on the node before it gets a job. Default: any."""
    min_cuda: Words | None = None
    """Least CUDA version that the driver offers, for example `12.8`; proven on the node. Default: any."""
    gpu_architecture: Words | None = None
    """GPU architecture as NVIDIA's driver names it, for example `Hopper`; proven on the node, because an offer's name proves
    nothing. Default: that of `gpu` where it is known, for example `Rubin` for `rubin`, else any."""
    may_add: tuple[Addition, ...] = ()
    """What a job's own labels may add: `spot`, `burst`, `region:NAME`, `gpu:NAME`, `gpus:NUMBER` (at most). Default none."""
    rent: Literal["always", "burst"] = "always"
    """`burst`: own hosts first, and machines are rented only for jobs that say `burst`. Default `always`."""
    image: ImageReference | None = None
    """Container image that its jobs run in, its registry first: `registry.acme.example/ci/gpu:v3`. It must be signed, unless
    `signed` says otherwise; the digest that its tag means is looked up once for each lease. Default none: see `mode`."""
    mode: Literal["contained", "guarded", "bare"] = "contained"
    """`contained`: the runner is inside `image` and starts no containers. `guarded`: it may start some, each from an image
    that passes the same checks. `bare`: it is a process on the machine, where nothing can be enforced. Default `contained`;
    without `image` it has to be `bare`."""
    signed: bool = True
    """Whether `image` must be signed. Default true. false is written down in the audit, and every lease wears a red mark."""
    keys: tuple[PublicKeyField, ...] = Field(default=(), max_length=20)
    """Public keys (PEM) of those who may sign, as `file:PATH`. Default: those of [trust], if `identity` is not set either."""
    identity: tuple[IdentitySettings, ...] = Field(default=(), max_length=20)
    """Those who may sign without a key. Default: those of [trust], if `keys` is not set either."""
    sign_by: Literal["any", "all"] = "any"
    """Whether one of the keys and identities must have signed, or every one. Default `any`."""
    provenance: ProvenanceSettings | None = None
    """The SLSA attestation that `image` must have, too; `{}` for any. Default none."""
    oldest_signature_days: float | None = Field(default=None, gt=0, le=36_500)
    """Days after which a signature no longer counts. Default none: a signature counts for ever."""
    image_repositories: tuple[Pattern, ...] = Field(default=(), max_length=100)
    """Patterns over registry and repository that its images may lie in: `registry.acme.example/ci/*`. Default: anywhere in
    the registries of the settings."""
    revoked: tuple[Digest, ...] = Field(default=(), max_length=10_000)
    """Digests that never run in this pool, besides those of [trust]. Default none."""
    allow_build: bool = False
    """`guarded`: whether jobs may build images. Default false: what a build makes, nobody has signed."""
    machine_image: Words | None = None
    """What a provider of machines boots below all that, and in a `bare` pool what one of containers boots. Default: the
    provider's own."""
    scope: Literal["repository", "organization", "enterprise"] | None = None
    """Where runners are registered. Default: the forge's `scope`. For GitLab an organisation is a group."""
    scope_path: Words = ""
    """The organisation, group or enterprise. Default: the owner of the job's repository."""
    runner_group: Words = ""
    """Runner group by name. Default: the forge's `runner_group`."""
    runner_command: tuple[Words, ...] = Field(default=(), max_length=50)
    """Command that starts the runner on the node, as a list of words, so that you can pin your own version of it. `{url}`,
    `{name}`, `{labels}` and `{idle_seconds}` are filled in, for Forgejo also `{uuid}`, `{handle}` and `{token_url}`. Default:
    the usual one of the forge."""
    usual_minutes: float | None = Field(default=None, gt=0, le=14_400)
    """Minutes that a job of the pool usually takes: offers are ranked by what that would cost. Default: as long as the last
    ones took, and 20 before there were any."""
    max_minutes: float = Field(default=60.0, gt=0, le=14_400)
    """Minutes from the launch to the hard end of a lease, whatever the job does. Default 60."""
    idle_minutes: float = Field(default=5.0, gt=0, le=1_440)
    """Minutes that a ready runner waits for its job. Default 5."""
    boot_minutes: float = Field(default=20.0, gt=0, le=240)
    """Minutes that a machine may take to boot. Default 20."""
    beacon: bool = True
    """GitLab: keep one runner record online for these labels, as jobs fail after an hour without one. Default true."""
    note: Words = ""
    """A sentence that every lease of the pool shows. Default none."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, value: Any) -> Any:
        filled = table(value)
        if filled is None:
            return value
        if filled.get("gpu") and "gpus" not in filled:
            filled["gpus"] = 1
        labels: Any = filled.get("labels")
        if "name" not in filled and isinstance(labels, list | tuple):
            joined = "-".join(str(label) for label in cast(Sequence[Any], labels))
            filled["name"] = re.sub(r"[^a-z0-9]+", "-", joined.lower()).strip("-")[:63].strip("-") or "pool"
        return filled

    @model_validator(mode="after")
    def _sane(self) -> Self:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("`labels` names a label twice")
        if self.gpu is not None and self.gpus == 0:
            raise ValueError("`gpu` is set and `gpus` is 0")
        if self.boot_minutes > self.max_minutes:
            raise ValueError("`boot_minutes` is longer than `max_minutes`, the time of the whole lease")
        if self.scope_path and self.scope in (None, "repository"):
            raise ValueError('`scope_path` needs `scope = "organization"` or `"enterprise"`')
        if strange := names(self.runner_command) - PLACES:
            known = ", ".join(f"{{{place}}}" for place in sorted(PLACES))
            raise ValueError(f"`runner_command` has {{{min(strange)}}}; what is filled in is {known}")
        if (no := self._unproven()) is not None:
            raise ValueError(no)
        for word in ("min_driver", "min_cuda"):
            text: str | None = getattr(self, word)
            if text is not None and not re.fullmatch(r"\d+(\.\d+){0,3}", text):
                raise ValueError(f'`{word}` is a version such as "12.8"')
        return self

    def _unproven(self) -> str | None:
        """What its image and its mode say against each other."""
        if self.image is None and (self.mode != "bare" or self.signed):
            return f"no `image` is named, so nothing proves what its jobs run in: {UNPROVEN}"
        if self.mode == "bare" and self.image is not None:
            return "a `bare` pool runs in no `image`; what the provider boots is `machine_image`"
        if self.allow_build and self.mode != "guarded":
            return '`allow_build` is for `mode = "guarded"`: in another one no job reaches an engine'
        signing = {name for name in ("keys", "identity", "provenance", "oldest_signature_days") if getattr(self, name)}
        if not self.signed and signing:
            return f"`signed` is false, so `{min(signing)}` would be for nothing: leave one of them out"
        return None
