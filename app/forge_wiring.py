"""The settings' forges as adapters, and what the service must know of each: how its news come, and where it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from app.core.listening import Listening
from app.core.model import RepositoryRule, ScopeKind
from app.forges import registry
from app.forges.contract import Forge, Surroundings
from app.forges.forgejo import ForgejoForge
from app.forges.gitea import GiteaForge
from app.forges.github import GitHubForge
from app.forges.github_auth import AppKey
from app.forges.github_wire import api_address
from app.forges.gitlab import GitLabForge
from app.settings import SecretPlace, Settings
from app.settings.forges import ForgeSettings, TeaSection
from providers.contract import Secret

TIMEOUT = timedelta(seconds=20)  # of one call to a plugin's forge


def forges_of(
    settings: Settings, now: Callable[[], datetime], on_rate: Callable[[str, int], None], public_url: str
) -> dict[str, Forge]:
    """The forges that are set up; their secrets are read now.

    Raises SecretError, ValueError for a blank secret, and ForgeTrouble for a plugin that is not there or not content."""

    def hook(name: str) -> str:
        return f"{public_url.rstrip('/')}/hooks/{name}"

    named = [rule.match for rule in settings.repository if RepositoryRule(rule.match).exact]
    forges: dict[str, Forge] = {}
    if settings.github is not None:
        github = settings.github
        forges["github"] = GitHubForge(
            webhook_secret=_read(github.webhook_secret),
            now=now,
            webhook_secret_previous=_read(github.webhook_secret_previous),
            api_url=github.api_url or api_address(github.url),
            app_id=str(github.app_id or ""),
            private_key=_read(github.private_key),
            more_apps=[AppKey(str(app.app_id), app.private_key.read()) for app in github.app],
            token=_read(github.token),
            hook_url=hook("github"),
            named=named,
            on_rate=on_rate,
        )
    if settings.gitlab is not None:
        gitlab = settings.gitlab
        forges["gitlab"] = GitLabForge(
            url=gitlab.url,
            token=gitlab.token.read(),
            webhook_token=_read(gitlab.webhook_token),
            signing_token=_read(gitlab.signing_token),
            hook_url=hook("gitlab"),
            named=named,
            now=now,
            on_rate=on_rate,
        )
    kinds: Mapping[str, tuple[type[GiteaForge | ForgejoForge], TeaSection | None]] = {
        "gitea": (GiteaForge, settings.gitea),
        "forgejo": (ForgejoForge, settings.forgejo),
    }
    for name, (kind, table) in kinds.items():
        if table is not None:
            forges[name] = kind(
                url=table.url,
                token=table.token.read(),
                webhook_secret=_read(table.webhook_secret),
                webhook_secret_previous=_read(table.webhook_secret_previous),
                now=now,
                on_rate=on_rate,
            )
    known = registry.installed() if settings.forge else None
    for table in settings.forge:
        around = Surroundings(
            now=now,
            hook_url=hook(table.name),
            on_rate=on_rate,
            webhook_secret=_read(table.webhook_secret),
            webhook_secret_previous=_read(table.webhook_secret_previous),
            timeout=TIMEOUT,
        )
        forges[table.name] = registry.build(table.kind, table.name, table.own(), around, known)
    return forges


def _read(place: SecretPlace | None) -> Secret | None:
    return None if place is None else place.read()


def listening_of(settings: Settings) -> dict[str, Listening]:
    """How each forge's news come."""
    found: dict[str, Listening] = {}
    for name, table in settings.forges.items():
        seconds = table.poll_seconds or table.usual_poll or settings.engine.poll_seconds
        poll = None if table.intake == "webhook" else timedelta(seconds=seconds)
        found[name] = Listening(webhooks=table.intake != "poll", poll=poll)
    return found


def scopes_of(settings: Settings) -> dict[str, ScopeKind]:
    """Where each forge's runners are registered, unless a pool says otherwise. GitLab's default is the project, as ever."""
    return {name: ScopeKind(scope) for name, table in settings.forges.items() if (scope := getattr(table, "scope", ""))}


def hosts_of(settings: Settings) -> tuple[str, ...]:
    """Where the forges are, as `name:port`; of a plugin's forge where its own keys say it."""
    told = [
        str((table.model_extra or {}).get("url", "")) if isinstance(table, ForgeSettings) else str(getattr(table, "url", ""))
        for table in settings.forges.values()
    ]
    found = [urlsplit(url) for url in told]
    return tuple(f"{url.hostname}:{url.port or (443 if url.scheme == 'https' else 80)}" for url in found if url.hostname)
