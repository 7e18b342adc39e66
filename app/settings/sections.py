"""The tables of the settings file, except for pools and forges. Each field says what it is, its unit, its default and why."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from app.settings.fields import FilePath, Name, Section, Words, place, table
from app.settings.secrets import FORMS, HOW, SecretPlace


class ServerSettings(Section):
    """Where the service listens, and its own TLS."""

    host: str = "127.0.0.1"
    """Address to listen on. Default `127.0.0.1`: nobody but this machine, until you decide otherwise."""
    port: int = Field(default=8080, ge=0, le=65_535)
    """TCP port to listen on. Default 8080; 0 takes any free one and writes it to `service.json`."""
    tls_certificate: FilePath | None = None
    """PEM file of the certificate and its chain. Default none: plain HTTP, for loopback or behind a proxy."""
    tls_key: FilePath | None = None
    """PEM file of the certificate's key. Default none. Goes together with `tls_certificate`."""
    node_ca: FilePath | None = None
    """PEM file of the authority that nodes shall trust, and no other. Default none: nodes trust what their image trusts."""

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("`tls_certificate` and `tls_key` go together")
        return self


def _database(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.startswith(FORMS):
        return place(value)
    if urlsplit(value).scheme not in ("sqlite", "postgresql", "postgresql+psycopg"):
        raise ValueError(
            "a database address begins with sqlite:/// or postgresql://, or is itself env:NAME, file:PATH or cmd:PROGRAM"
        )
    if urlsplit(value).password or "password=" in value.lower():
        raise ValueError(f"the address holds a password: keep the whole address elsewhere and {HOW}")
    return value


class DatabaseSettings(Section):
    """Where everything is kept."""

    url: Annotated[str | SecretPlace | None, BeforeValidator(_database), WithJsonSchema({"type": "string"})] = None
    """SQLAlchemy address: `sqlite:///PATH` or `postgresql://HOST/NAME`. Default: `sublet.db` in the data folder.
    An address with a password is written as `env:NAME`, `file:PATH` or `cmd:PROGRAM`."""

    def address(self) -> str | None:
        """The address itself, read now; None for the default. Raises SecretError."""
        if not isinstance(self.url, SecretPlace):
            return self.url
        return self.url.read().reveal()


_SECRET_WORDS = frozenset({"key", "token", "secret", "password", "credential", "credentials"})


_KNOWN_TO_ALL = frozenset({"host_key", "kms_key"})
"""The public key of an SSH host, and the name of a key that never leaves its vendor."""


def _sounds_secret(key: str) -> bool:
    name = key.lower()
    return name.rsplit("_", 1)[-1] in _SECRET_WORDS and not name.startswith("public") and name not in _KNOWN_TO_ALL


def _placed(key: str, value: Any) -> Any:
    """A reference to a secret as its place, also in a table of the kind's own, such as `[provider.secrets]`.

    Raises ValueError for a secret that is written in place."""
    if isinstance(value, dict):
        return {str(name): _placed(str(name), each) for name, each in cast("dict[Any, Any]", value).items()}
    if isinstance(value, str) and value.startswith(FORMS):
        return place(value)
    if isinstance(value, str) and value and _sounds_secret(key):
        raise ValueError(f"`{key}` holds a value, and a secret is never written in place: {HOW}")
    return value


def _taken(value: Any) -> Any:
    """The inverse, now: each place read, as `Secret`."""
    if isinstance(value, dict):
        return {str(key): _taken(each) for key, each in cast("dict[Any, Any]", value).items()}
    return value.read() if isinstance(value, SecretPlace) else value


class PluginSection(Section):
    """A table whose further keys belong to its kind, which a plugin serves. A secret among them is never written in place."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _places(cls, value: Any) -> Any:
        own = table(value)
        if own is None:
            return value
        return {key: told if key in cls.model_fields else _placed(key, told) for key, told in own.items()}

    def own(self) -> dict[str, Any]:
        """The keys that belong to the table's kind; each secret is read now, as `Secret`. Raises SecretError."""
        return {key: _taken(value) for key, value in (self.model_extra or {}).items()}


class ProviderSettings(PluginSection):
    """One account at a place that rents out machines. Further keys belong to the provider's kind."""

    name: Name
    """What pools and pages call it: a-z, 0-9 and hyphens. No default."""
    kind: Name
    """Which wrapper serves it: `local`, `docker`, or another that is installed. No default."""


def _glob(value: str) -> str:
    if not value or len(value) > 300 or not value.isprintable() or " " in value:
        raise ValueError('a pattern over full paths, for example "acme/*"')
    if "/" not in value:
        raise ValueError('a pattern names an owner and a repository, for example "acme/*"')
    return value


class RepositorySettings(Section):
    """Which repositories may spend money here. What no rule names may not; the first rule that matches counts."""

    match: Annotated[str, AfterValidator(_glob)]
    """Pattern over the full path, without regard to case: `acme/train`, `acme/*`. No default."""
    forks: bool = False
    """Whether jobs of forks may run. Default false: whoever opens a pull request from a fork chooses the code."""
    events: tuple[Words, ...] = ()
    """Events whose jobs may run, as the forge names them. Default: the usual ones that no stranger can start."""
    actors: tuple[Words, ...] = ()
    """User names, or patterns over them, of those who may set a run going; `dependabot[[]bot]` for a name with brackets.
    Default: anybody whom the forge lets start such a run. Whoever re-runs a job counts, not who ran it first."""


class EngineSettings(Section):
    """How the part that moves leases works. The defaults suit most."""

    beat_seconds: float = Field(default=2.0, ge=0.05, le=60)
    """Seconds between two looks when nothing happens. Default 2: a lost hint costs no more than this."""
    heartbeat_seconds: float = Field(default=10.0, ge=0.2, le=300)
    """Seconds between two heartbeats of a node. Default 10."""
    silent_minutes: float = Field(default=5.0, ge=0.05, le=120)
    """Minutes of silence after which a node powers itself off, and after which it counts as lost. Default 5."""
    hold_seconds: float = Field(default=120.0, ge=5, le=3600)
    """Seconds that a worker may hold a lease before another may take over. Default 120: longer than any one step."""
    redeliver_seconds: float = Field(default=120.0, ge=15, le=3_600)
    """Seconds between two questions to a forge which of its deliveries did not arrive. Default 120."""
    poll_seconds: float = Field(default=300.0, ge=15, le=3_600)
    """Seconds between two listings of the open jobs of active repositories, for what no delivery told. Default 300.
    While little of the forge's quota is left, both are asked less often, and at its end not at all. A forge's own
    `poll_seconds` comes first."""

    @model_validator(mode="after")
    def _patience(self) -> Self:
        if self.silent_minutes * 60 < 3 * self.heartbeat_seconds:
            raise ValueError("`silent_minutes` is shorter than three heartbeats: every node would count as lost")
        return self


class LogSettings(Section):
    """What the service writes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important kind of line that is written. Default `info`."""
    format: Literal["auto", "text", "json"] = "auto"
    """`text` for people, `json` for collectors. Default `auto`: text on a terminal, else JSON."""
