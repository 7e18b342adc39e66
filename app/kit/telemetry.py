"""Logs that hold no secret and no forged line, and metrics whose every label value was declared beforehand."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any, TextIO, cast

import prometheus_client
import structlog
from prometheus_client import CollectorRegistry
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from providers.contract import Secret

# --- logs ---------------------------------------------------------------------------------------------------------

LONGEST_VALUE = 4_000
"""Characters of one logged value; tracebacks get five times that."""
HIDDEN = "***"
SECRET_KEY = re.compile(
    r"token|secret|passw|authorization|cookie|private_?key|credential|api_?key|signature|jit_?config|csrf|^once$", re.IGNORECASE
)
"""A second net under `Secret`: a text under such a name is never shown."""
SECRET_TEXT = re.compile(
    r"gh[pousr]_[A-Za-z0-9_]{16,}|github_pat_\w{20,}|gl(?:pat|rt|rtr|cbt|dt|ft|soat)-[\w.-]{16,}|sbl_[\w-]{20,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}|(?i:bearer|basic)\s+[\w+/=.~-]{8,}|once=[\w-]{8,}|://[^/\s:@]+:[^/\s@]+(?=@)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
"""A third net: what looks like a forge's token, a bearer, a login link, a URL's password or a private key."""
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]|\n|\t")
UNLISTED_KEYS = frozenset({"level", "logger", "timestamp"})


def _clean(key: str, value: Any, depth: int = 0) -> Any:
    if isinstance(value, Secret):
        return HIDDEN
    if isinstance(value, bytes | bytearray):
        return f"<{len(value)} bytes>"
    if isinstance(value, str):
        if value and SECRET_KEY.search(key):
            return HIDDEN
        longest = LONGEST_VALUE * (5 if key == "exception" else 1)
        value = SECRET_TEXT.sub(HIDDEN, value)
        return value if len(value) <= longest else f"{value[:longest]}… ({len(value)} characters)"
    if depth > 4:
        return "…"
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {str(name): _clean(str(name), item, depth + 1) for name, item in itertools.islice(items, 100)}
    if isinstance(value, list | tuple | set | frozenset):
        things = cast("Iterable[Any]", value)
        return [_clean(key, item, depth + 1) for item in itertools.islice(things, 100)]
    if value is None or isinstance(value, bool | int | float):
        return value
    return _clean(key, str(value), depth + 1)


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> EventDict:
    """No secret leaves in a log line, whether by its type, by its name or by its looks."""
    return {key: value if key in UNLISTED_KEYS else _clean(key, value) for key, value in event.items()}


def _escaped(text: str) -> str:
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}" if ord(found[0]) < 256 else f"\\u{ord(found[0]):04x}", text)


def escape(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> EventDict:
    """One event is one line: a branch name with a newline or a terminal code in it cannot fake another entry."""

    def safe(key: str, value: Any) -> Any:
        if not isinstance(value, str):
            return value if value is None or isinstance(value, bool | int | float) else _escaped(repr(value))
        if key == "exception":  # the one thing with lines of its own: they are indented, so that none can pass for an entry
            return "".join(f"\n    {_escaped(line)}" for line in value.splitlines()).lstrip("\n")
        return _escaped(value)

    return {_escaped(key): safe(key, value) for key, value in event.items()}


class _Named:
    """Writes whole lines under a name; a stream that nobody reads any more is no reason to fail."""

    def __init__(self, output: TextIO, *names: str) -> None:
        self.name = structlog.stdlib.LoggerFactory(ignore_frame_names=[__name__])(*names).name
        self._output = output

    def msg(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._output.write(f"{line}\n")
            self._output.flush()

    debug = info = warning = error = critical = exception = fatal = msg


def setup_logging(level: str = "info", form: str = "json", stream: TextIO | None = None) -> None:
    """One stream for our own lines and those of every library: JSON with UTC times, or `console` for people."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    output: TextIO = stream or sys.stderr
    last: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, redact]
    if form == "json":
        last.append(structlog.processors.JSONRenderer(sort_keys=True))  # escapes everything outside printable ASCII
    else:
        last += [
            escape,
            structlog.dev.ConsoleRenderer(colors=output.isatty(), exception_formatter=structlog.dev.plain_traceback),
        ]
    # Our own lines go straight to the stream: by way of `logging` each would cost twice as much, and a busy hour has many.
    structlog.configure(
        processors=[*shared, *last[1:]],
        logger_factory=functools.partial(_Named, output),
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = name != "uvicorn.access"  # its lines would hold login links; the web writes its own
    for name in ("httpx", "httpcore", "urllib3", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def logger(name: str) -> FilteringBoundLogger:
    """A logger that takes facts as keywords: `log.info("delivery refused", forge="github")`."""
    found: FilteringBoundLogger = structlog.get_logger(name)
    return found


bound = structlog.contextvars.bound_contextvars
"""`with bound(lease=name): ...` puts the name on every line logged inside."""


# --- metrics ------------------------------------------------------------------------------------------------------

OTHER = "other"
PHASE_BUCKETS = (1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600, 900, 1800, 3600)
REQUEST_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
JOB_RESULTS = ("success", "failure", "cancellation", "error", "timeout", "skip")
OUTCOMES = (
    "completed",
    "preempted",
    "boot_failed",
    "verify_failed",
    "timeout",
    "no_offer",
    "unused",
    "failed",
    "destroyed_by_user",
    "pilot",
)
SPEND_KINDS = ("before_job", "job", "after_job", "rounding")
PROVIDER_OPERATIONS = ("offers", "create", "get", "owned", "destroy", "check")
PROVIDER_OUTCOMES = ("ok", "no_capacity", "refused", "throttled", "unclear", "late")
FORGE_OUTCOMES = ("ok", "refused", "down", "held_back", "name_taken", "busy", "late")
FORGE_OPERATIONS = (
    "fetch_job", "fetch_run", "open_jobs", "missed", "redeliver", "find_runner", "mint", "remove", "runners", "check",
)  # fmt: skip
DELIVERY_RESULTS = (
    "recorded", "duplicate", "stale", "ignored", "ping", "refused", "bad_signature", "bad_delivery", "too_large", "unavailable",
)  # fmt: skip
JOIN_RESULTS = ("joined", "again", "reused", "unknown", "ended")
VERIFICATION_RESULTS = (
    "allowed", "away", "not_allowed_repository", "unknown_registry", "not_found", "unsigned", "wrong_key", "wrong_digest",
    "tampered", "revoked", "expired_identity", "wrong_identity", "too_old", "no_provenance", "wrong_provenance",
    "platform_unsigned", "unreadable",
)  # fmt: skip
"""What became of a look at an image: let in, the registry away, or the check that it failed (core.images.Refusal)."""
ROLES = ("all", "web", "engine")
LOGIN_RESULTS = ("ok", "bad_link", "bad_token", "limited")
HEARD_BY = ("webhook", "poll")


class Declared:
    """The label names of one metric with every value they may take; anything else counts as "other"."""

    def __init__(self, labels: Mapping[str, Sequence[str]]) -> None:
        self._allowed = {name: frozenset((*values, OTHER)) for name, values in labels.items()}

    def known(self, labels: Mapping[str, str]) -> tuple[str, ...]:
        """The values in order. Raises KeyError for a label that the metric does not have or that is missing."""
        if labels.keys() != self._allowed.keys():
            raise KeyError(f"labels are {sorted(self._allowed)}, got {sorted(labels)}")
        return tuple(labels[name] if labels[name] in allowed else OTHER for name, allowed in self._allowed.items())

    def every(self) -> Iterable[tuple[str, ...]]:
        """Each combination without "other", which exists only once something fell into it."""
        return itertools.product(*(sorted(allowed - {OTHER}) for allowed in self._allowed.values()))


class Counter:
    """Only ever grows."""

    def __init__(self, registry: CollectorRegistry, name: str, text: str, labels: Mapping[str, Sequence[str]]) -> None:
        self._declared, self._metric = Declared(labels), prometheus_client.Counter(name, text, tuple(labels), registry=registry)
        for values in self._declared.every() if labels else ():
            self._metric.labels(*values)

    def add(self, amount: float = 1.0, **labels: str) -> None:
        values = self._declared.known(labels)
        (self._metric.labels(*values) if values else self._metric).inc(amount)


class Gauge:
    """A number as it is now."""

    def __init__(self, registry: CollectorRegistry, name: str, text: str, labels: Mapping[str, Sequence[str]]) -> None:
        self._declared, self._metric = Declared(labels), prometheus_client.Gauge(name, text, tuple(labels), registry=registry)
        self._names, self._seen = tuple(labels), set(self._declared.every() if labels else ())
        self._all({})

    def set(self, value: float, **labels: str) -> None:
        values = self._declared.known(labels)
        self._seen.add(values)
        (self._metric.labels(*values) if values else self._metric).set(value)

    def replace(self, numbers: Mapping[tuple[str, ...], float]) -> None:
        """Set every series at once, keyed by label values in order; what is not named becomes 0, "other" is summed."""
        totals: dict[tuple[str, ...], float] = {}
        for values, number in numbers.items():
            known = self._declared.known(dict(zip(self._names, values, strict=True)))
            totals[known] = totals.get(known, 0.0) + number
        self._all(totals)

    def _all(self, totals: Mapping[tuple[str, ...], float]) -> None:
        self._seen.update(totals)
        for values in self._seen:
            if values:
                self._metric.labels(*values).set(totals.get(values, 0.0))


class Histogram:
    """Durations in seconds; a series exists from its first observation on."""

    def __init__(
        self, registry: CollectorRegistry, name: str, text: str, labels: Mapping[str, Sequence[str]], buckets: Sequence[float]
    ) -> None:
        self._declared = Declared(labels)
        self._metric = prometheus_client.Histogram(name, text, tuple(labels), buckets=buckets, registry=registry)

    def observe(self, seconds: float, **labels: str) -> None:
        values = self._declared.known(labels)
        (self._metric.labels(*values) if values else self._metric).observe(seconds)


class Telemetry:
    """Every metric of the service, declared here once. Money is in one currency, named in `sublet_build_info`."""

    def __init__(
        self,
        *,
        version: str = "0",
        currency: str = "USD",
        pools: Sequence[str] = (),
        providers: Sequence[str] = (),
        gpus: Sequence[str] = (),
        forges: Sequence[str] = (),
        phases: Sequence[str] = (),
    ) -> None:
        """The sequences are what the settings name; `gpus` may leave out "none", which stands for no GPU."""
        prometheus_client.disable_created_metrics()  # they would double the series and tell nothing that `rate` needs
        gpus = sorted({*gpus, "none"})
        at: dict[str, Sequence[str]] = {"provider": providers, "gpu": gpus}
        registry = CollectorRegistry()
        counts = CollectorRegistry()  # the library takes `leases` and `leases_total` for one name, Prometheus does not
        self._registries = (registry, counts)
        prometheus_client.ProcessCollector(namespace="sublet", registry=registry)

        def counter(name: str, text: str, **labels: Sequence[str]) -> Counter:
            return Counter(counts, f"sublet_{name}", text, labels)

        def gauge(name: str, text: str, **labels: Sequence[str]) -> Gauge:
            return Gauge(registry, f"sublet_{name}", text, labels)

        def histogram(name: str, text: str, buckets: Sequence[float], **labels: Sequence[str]) -> Histogram:
            return Histogram(registry, f"sublet_{name}", text, labels, buckets)

        self.build_info = gauge("build_info", "1, with the version and the currency.", version=[version], currency=[currency])
        self.build_info.set(1, version=version, currency=currency)
        self.database_up = gauge("database_up", "1 if the database answered the last look.")
        self.engine_beat_age = gauge("engine_beat_age_seconds", "Since the engine finished its last look; -1: never.")

        self.replicas = gauge(
            "replicas", "Processes on this database that are at work; another version than this one's is `other`.",
            role=ROLES, version=[version],
        )  # fmt: skip
        self.replica_age = gauge(
            "replica_age_seconds",
            "Since the last word of the process of this role that spoke last; -1: there is none.",
            role=ROLES,
        )

        self.jobs_waiting = gauge("jobs_waiting", "Queued jobs that wait for a machine.", pool=pools)
        self.jobs_oldest_wait = gauge("jobs_oldest_wait_seconds", "The longest wait of a job that still waits.", pool=pools)
        self.jobs = counter("jobs", "Jobs that ended.", pool=pools, result=JOB_RESULTS)
        self.job_start = histogram(
            "job_start_duration_seconds", "From queued at the forge to running.", PHASE_BUCKETS, pool=pools, provider=providers
        )

        self.job_heard = histogram(
            "job_heard_duration_seconds", "From queued at the forge to heard of here: what polling costs.", PHASE_BUCKETS,
            forge=forges, by=HEARD_BY,
        )  # fmt: skip

        self.leases = gauge("leases", "Leases that are not released.", phase=phases, **at)
        self.leases_ended = counter("leases", "Leases that were released.", **at, outcome=OUTCOMES)
        self.lease_phase = histogram(
            "lease_phase_duration_seconds", "How long a lease stayed in a phase.", PHASE_BUCKETS, phase=phases, **at
        )
        self.spend_rate = gauge("spend_rate_per_hour", "Money per hour of all open leases.", **at)
        self.spend = counter("spend", "Money booked.", **at, pool=pools, kind=SPEND_KINDS)

        self.offers = gauge("offers", "Offers that are known now.", **at)
        self.offer_price = gauge("offer_price_per_hour", "The cheapest of them that is to be had; NaN: there is none.", **at)
        self.offers_age = gauge("offers_age_seconds", "Since its offers were last seen; -1: never.", provider=providers)
        self.provider_cooldown = gauge(
            "provider_cooldown", "What is left alone there for a while; paused or away, the whole provider is one more.",
            provider=providers,
        )  # fmt: skip

        self.orphans = gauge("orphans", "Instances under our tag that no lease owns.", provider=providers)
        self.destroy_pending = gauge("destroy_pending_seconds", "The longest wait for a proof of absence.", provider=providers)
        self.held_back = gauge("sweep_held_instances", "Strays that wait for a person's word.", provider=providers)
        self.sweep_age = gauge("sweep_age_seconds", "Since a provider's last whole list; -1: never.", provider=providers)
        self.leak_cost = gauge("leak_cost", "Money so far of stuck destroys and of strays.", provider=providers)
        self.destroy_failures = counter("destroy_failures", "Destroy calls that failed.", provider=providers)
        self.provider_requests = counter(
            "provider_requests",
            "Calls to a provider.",
            provider=providers,
            operation=PROVIDER_OPERATIONS,
            outcome=PROVIDER_OUTCOMES,
        )
        self.provider_request = histogram(
            "provider_request_duration_seconds", "Duration of a provider's answer.", REQUEST_BUCKETS,
            provider=providers, operation=PROVIDER_OPERATIONS,
        )  # fmt: skip
        self.forge_requests = counter(
            "forge_requests", "Calls to a forge.", forge=forges, operation=FORGE_OPERATIONS, outcome=FORGE_OUTCOMES
        )
        self.forge_rate_left = gauge("forge_rate_limit_remaining", "Calls left in the forge's window.", forge=forges)

        self.deliveries = counter(
            "deliveries", "Webhook deliveries, by what became of them.", forge=forges, result=DELIVERY_RESULTS
        )
        self.jobs_found = counter(
            "jobs_found", "Jobs that a search found further on than any webhook had told, or not at all.", forge=forges
        )
        self.image_verifications = counter(
            "image_verifications", "Looks at an image, by what became of them; each but `allowed` rents nothing.",
            result=VERIFICATION_RESULTS,
        )  # fmt: skip
        self.node_joins = counter("node_joins", "Nodes that presented a join token.", result=JOIN_RESULTS)
        self.logins = counter("logins", "Attempts to log in.", result=LOGIN_RESULTS)

    def exposition(self) -> tuple[bytes, str]:
        """The text for a scrape, and its content type."""
        text = b"".join(prometheus_client.generate_latest(registry) for registry in self._registries)
        return text, "text/plain; version=0.0.4; charset=utf-8"
