"""The forges' tables of the settings file. Each field says what it is, its unit, its default and why."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from app.settings.fields import Name, SecretField, Section, WebAddress, Words
from app.settings.secrets import SecretPlace
from app.settings.sections import PluginSection

BUILT_IN = ("github", "gitlab", "gitea", "forgejo")


class GitHubAppSettings(Section):
    """A further GitHub App with the same rights, for more calls an hour: they are spread to the App with most left."""

    app_id: int = Field(gt=0)
    """Number of the App. No default. It needs no webhook: the App of `[github]` `app_id` has that."""
    private_key: SecretField
    """The App's private key (PEM). No default."""


class IntakeSection(Section):
    """How the news of one forge reach the service."""

    intake: Literal["both", "poll", "webhook"] = "both"
    """`both`: its webhooks are taken, and what they miss is found by listing. `poll`: no webhook at all, for a service that
    nothing from outside may reach; a job is heard of up to `poll_seconds` later. `webhook`: nothing is listed, but deliveries
    that failed are asked for again, and silent jobs are asked for. Default `both`."""
    poll_seconds: float | None = Field(default=None, ge=5, le=3_600)
    """Seconds between two listings of this forge. Default 15 with `intake = "poll"`, else [engine] `poll_seconds`."""

    @property
    def usual_poll(self) -> float | None:
        """Seconds between two listings where the file does not say; None: as [engine] has it."""
        return 15.0 if self.intake == "poll" else None

    @model_validator(mode="after")
    def _listed(self) -> Self:
        if self.intake == "webhook" and self.poll_seconds is not None:
            raise ValueError('`poll_seconds` is for nothing with `intake = "webhook"`: leave one of them out')
        return self

    def heard(self, *secrets: SecretPlace | None, what: str = "`webhook_secret`") -> None:
        """Raises ValueError where webhooks are taken that nobody could trust, or secrets are set that nobody uses."""
        if self.intake != "poll" and not any(secrets):
            raise ValueError(f'needs {what}: without it no delivery can be trusted. Without webhooks: `intake = "poll"`')
        if self.intake == "poll" and any(secrets):
            raise ValueError(f'{what} is for nothing with `intake = "poll"`: leave one of them out')


class GitHubSettings(IntakeSection):
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
    """Secret of the webhook. No default: without it no delivery can be trusted. Left out with `intake = "poll"`."""
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
        self.heard(self.webhook_secret)
        if self.scope == "enterprise" and not self.enterprise:
            raise ValueError('scope "enterprise" needs `enterprise`')
        if self.scope == "enterprise" and self.token is None:
            raise ValueError('scope "enterprise" needs `token`: a GitHub App cannot register enterprise runners')
        return self


class GitLabSettings(IntakeSection):
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
        self.heard(self.webhook_token, self.signing_token, what="`webhook_token` or `signing_token`")
        return self


class TeaSection(IntakeSection):
    """What Gitea and Forgejo have in common."""

    url: WebAddress
    """Address of the instance. No default."""
    token: SecretField
    """Access token; the scopes that it needs stand on the forge's page. No default."""
    webhook_secret: SecretField | None = None
    """Secret of the webhook. No default: without it no delivery can be trusted. Left out with `intake = "poll"`."""
    webhook_secret_previous: SecretField | None = None
    """The secret before the present one, still accepted while you change it at the forge. Default none."""
    scope: Literal["repository", "organization", "enterprise"] = "repository"
    """Where runners are registered; `enterprise` is the whole instance. Default `repository`: the narrowest. A pool may say
    otherwise."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        self.heard(self.webhook_secret)
        return self


class GiteaSettings(TeaSection):
    """One Gitea, 1.24 or later."""


class ForgejoSettings(TeaSection):
    """One Forgejo, 15 or later."""

    @property
    def usual_poll(self) -> float | None:
        """Its released versions send no webhook when a job is queued, and one question lists an owner's whole queue."""
        return 15.0


class ForgeSettings(IntakeSection, PluginSection):
    """A forge that an installed plugin serves. Further keys belong to the plugin's kind."""

    name: Name
    """What pools and pages call it, and the last part of its webhook's address: a-z, 0-9 and hyphens. No default."""
    kind: Name
    """Which plugin serves it. No default."""
    webhook_secret: SecretField | None = None
    """Secret of the webhook. No default: without it no delivery can be trusted. Left out with `intake = "poll"`."""
    webhook_secret_previous: SecretField | None = None
    """The secret before the present one, still accepted while you change it at the forge. Default none."""
    scope: Literal["repository", "organization", "enterprise"] = "repository"
    """Where runners are registered. Default `repository`: the narrowest. A pool may say otherwise."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.name in BUILT_IN:
            raise ValueError(f"`{self.name}` has a table of its own, [{self.name}]; call this one otherwise")
        if self.kind in BUILT_IN:
            raise ValueError(f"the kind `{self.kind}` has a table of its own: [{self.kind}]")
        self.heard(self.webhook_secret)
        return self
