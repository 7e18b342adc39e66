"""The tables of the settings file, except for pools. Each field says what it is, its unit, its default and why."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from app.settings.fields import FilePath, Name, SecretField, Section, WebAddress, Words, place, table
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


class GitHubAppSettings(Section):
    """A further GitHub App with the same rights, for more calls an hour: they are spread to the App with most left."""

    app_id: int = Field(gt=0)
    """Number of the App. No default. It needs no webhook: the App of `[github]` `app_id` has that."""
    private_key: SecretField
    """The App's private key (PEM). No default."""


class GitHubSettings(Section):
    """One GitHub account: github.com or GitHub Enterprise Server."""

    url: WebAddress = "https://github.com"
    """Address of the web pages. Default `https://github.com`; for Enterprise Server, your own host."""
    api_url: WebAddress | None = None
    """Address of the API. Default: `https://api.github.com`, `https://api.TENANT.ghe.com`, or `/api/v3` below `url`
    for Enterprise Server."""
    app_id: int | None = Field(default=None, gt=0)
    """Number of the GitHub App. Default none. An App is the safer way: its tokens live an hour and reach one repository."""
    private_key: SecretField | None = None
    """The App's private key (PEM). Default none. Goes together with `app_id`."""
    app: tuple[GitHubAppSettings, ...] = Field(default=(), max_length=20)
    """Further Apps, each with a rate limit of its own. Default none. One that is not installed somewhere is left out there."""
    token: SecretField | None = None
    """Personal access token, used where there is no App. Default none. Enterprise runners need one, as no App serves them."""
    webhook_secret: SecretField | None = None
    """Secret of the webhook. No default: without it no delivery can be trusted."""
    webhook_secret_previous: SecretField | None = None
    """The secret before the present one, still accepted while you change it at GitHub. Default none."""
    scope: Literal["repository", "organization", "enterprise"] = "repository"
    """Where runners are registered. Default `repository`: the narrowest. A pool may say otherwise."""
    runner_group: Words = ""
    """Runner group by name, for organisation and enterprise runners. Default: the default group."""
    enterprise: Words = ""
    """Short name of the enterprise, as in its address. Default none; needed for the scope `enterprise`."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.app_id is None) != (self.private_key is None):
            raise ValueError("`app_id` and `private_key` go together")
        if self.app and self.app_id is None:
            raise ValueError("[[github.app]] needs `app_id` and `private_key` in [github] too: that App has the webhook")
        if len({self.app_id, *(app.app_id for app in self.app)}) < 1 + len(self.app):
            raise ValueError("two of the Apps have the same `app_id`")
        if self.app_id is None and self.token is None:
            raise ValueError("needs `app_id` with `private_key`, or `token`")
        if self.webhook_secret is None:
            raise ValueError("needs `webhook_secret`: without it no delivery can be trusted")
        if self.scope == "enterprise" and not self.enterprise:
            raise ValueError('scope "enterprise" needs `enterprise`')
        if self.scope == "enterprise" and self.token is None:
            raise ValueError('scope "enterprise" needs `token`: a GitHub App cannot register enterprise runners')
        return self


class GitLabSettings(Section):
    """One GitLab account: gitlab.com or your own instance."""

    url: WebAddress = "https://gitlab.com"
    """Address of the instance. Default `https://gitlab.com`."""
    token: SecretField
    """Access token with the scopes `api` and `create_runner`. No default."""
    webhook_token: SecretField | None = None
    """The webhook's secret token (`X-Gitlab-Token`). Default none; this or `signing_token` is needed."""
    signing_token: SecretField | None = None
    """The webhook's signing token, for the signed form of deliveries, which is the stronger one. Default none."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.webhook_token is None and self.signing_token is None:
            raise ValueError("needs `webhook_token` or `signing_token`: without one no delivery can be trusted")
        return self


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


class ProviderSettings(Section):
    """One account at a place that rents out machines. Further keys belong to the provider's kind."""

    model_config = ConfigDict(extra="allow")

    name: Name
    """What pools and pages call it: a-z, 0-9 and hyphens. No default."""
    kind: Name
    """Which wrapper serves it: `local`, `docker`, or another that is installed. No default."""

    @model_validator(mode="before")
    @classmethod
    def _places(cls, value: Any) -> Any:
        own = table(value)
        if own is None:
            return value
        return {key: told if key in cls.model_fields else _placed(key, told) for key, told in own.items()}

    def own(self) -> dict[str, Any]:
        """The keys that belong to the provider's kind; each secret is read now, as `Secret`. Raises SecretError."""
        return {key: _taken(value) for key, value in (self.model_extra or {}).items()}


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
    While little of the forge's quota is left, both are asked less often, and at its end not at all."""

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
