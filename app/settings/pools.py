"""The `[[pool]]` table: which jobs a pool serves, what they need, and what they may cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal, Self, cast

from pydantic import Field, model_validator

from app.settings.fields import Addition, Label, Name, Price, Section, Words, table


class PoolSettings(Section):
    """Which jobs a pool serves, what they need, and what they may cost."""

    name: Name
    """What pages call it. Default: its labels joined by hyphens."""
    labels: tuple[Label, ...] = Field(min_length=1, max_length=20)
    """The labels it serves: a job with all of these, and nothing else but what `may_add` allows, is its own. No default."""
    forges: tuple[Literal["github", "gitlab"], ...] = ()
    """Forges whose jobs it serves. Default: every one that is set up."""
    providers: tuple[Name, ...] = ()
    """Providers by name, in order of preference. Default: all, the cheapest first."""
    gpu: Words | None = None
    """GPU model as offers name it, for example `h100`. Default none: a machine without a GPU will do."""
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
    """Regions that machines may be in, as the providers name them. Default: any."""
    spot: bool | None = None
    """true: only machines that may be reclaimed; false: never those. Default: either."""
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
    """GPU architecture as NVIDIA names it, for example `Hopper`; proven on the node. Default: any."""
    may_add: tuple[Addition, ...] = ()
    """What a job's own labels may add: `spot`, `burst`, `region:NAME`, `gpu:NAME`, `gpus:NUMBER` (at most). Default none."""
    rent: Literal["always", "burst"] = "always"
    """`burst`: own hosts first, and machines are rented only for jobs that say `burst`. Default `always`."""
    image: Words | None = None
    """Machine or container image to boot. Default: the provider's own."""
    scope: Literal["repository", "organization", "enterprise"] | None = None
    """Where runners are registered. Default: the forge's `scope`. For GitLab an organisation is a group."""
    scope_path: Words = ""
    """The organisation, group or enterprise. Default: the owner of the job's repository."""
    runner_group: Words = ""
    """Runner group by name. Default: the forge's `runner_group`."""
    runner_command: tuple[Words, ...] = Field(default=(), max_length=50)
    """Command that starts the runner on the node, as a list of words. Default: the usual one of the forge."""
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
        for word in ("min_driver", "min_cuda"):
            text: str | None = getattr(self, word)
            if text is not None and not re.fullmatch(r"\d+(\.\d+){0,3}", text):
                raise ValueError(f'`{word}` is a version such as "12.8"')
        return self
