"""What a node may say, field by field: typed strictly, nothing extra, every text and list with its limit."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

Short = Annotated[str, StringConstraints(max_length=300)]
Token = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{20,200}$")]
Random = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43,200}$")]
"""At least 32 random bytes in base64url."""
Whole = Annotated[int, Field(ge=0, le=2**40)]
Scalar = Annotated[str, StringConstraints(max_length=500)] | bool | int | float | None
Name = Annotated[str, StringConstraints(max_length=60)]

Card = Annotated[dict[Name, Scalar], Field(max_length=32)]
"""One GPU, flat."""


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Join(Body):
    lease: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,64}$")]
    token: Token
    session: Random


class ImageFacts(Body):
    """What the agent found when it checked the image itself."""

    digest: Short = ""
    mode: Short = ""
    checked: bool = False
    openssl: Short = ""
    keys: list[Short] = Field(default_factory=list[str], max_length=32)
    problem: Short = ""


class Facts(Body):
    gpus: list[Card] = Field(default_factory=list[dict[str, Scalar]], max_length=64)
    driver: Short = ""
    cuda: Short = ""
    architecture: Short = ""
    memory_mib: Whole = 0
    disk_free_mib: Whole = 0
    kernel: Short = ""
    cpus: Whole = 0
    problem: Short = ""
    image: ImageFacts | None = None


Rate = Annotated[float, Field(ge=0, le=1_000_000)]


class GpuMeasured(Body):
    """What a pilot's node measured of its first GPU: bandwidths in 10^9 bytes a second."""

    name: Short = ""
    compute_capability: Name = ""
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    memory_mib: Whole = 0
    free_mib: Whole = 0
    to_device_gbs: Rate | None = None
    from_device_gbs: Rate | None = None
    memory_gbs: Rate | None = None
    fp32_tflops: Rate | None = None
    problem: Short = ""


class HostMeasured(Body):
    host: Short
    connect_ms: Rate | None = None
    problem: Short = ""


class NetworkMeasured(Body):
    """Milliseconds, bytes, and 10^6 bits a second."""

    connect_ms: Rate | None = None
    download_bytes: Whole = 0
    download_mbps: Rate | None = None
    hosts: list[HostMeasured] = Field(default_factory=list[HostMeasured], max_length=8)
    problem: Short = ""


class Measured(Body):
    gpu: GpuMeasured
    network: NetworkMeasured


class Nothing(Body):
    """A body without a word."""


class Heartbeat(Body):
    phase: Name = ""
    at: AwareDatetime | None = None


class Credential(Body):
    ticket: Random


class Image(Body):
    reference: Annotated[str, StringConstraints(min_length=1, max_length=600, pattern=r"^[!-~]+$")]


class Event(Body):
    kind: Literal["booted", "runner_online", "runner_exited", "job_started", "job_finished", "power_off"]
    at: AwareDatetime | None = None
    data: Annotated[dict[Name, Scalar], Field(max_length=20)] = Field(default_factory=dict)


class LogLine(Body):
    seq: Annotated[int, Field(ge=1, le=2**31 - 1)]
    at: AwareDatetime
    source: Literal["agent", "boot", "runner"]
    line: Annotated[str, StringConstraints(max_length=4200)]


class Log(Body):
    lines: list[LogLine] = Field(max_length=1000)


class JobStarted(Body):
    repository: Short
    run_id: Short = ""
    attempt: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    event: Short = ""
    head_repository: Short = ""
    job: Short = ""
    actor: Short = ""
    ref: Short = ""
    sha: Short = ""
    fork: bool | None = None
