"""The whole settings file as one frozen value, with the checks that look at more than one table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.settings.fields import FilePath, WebAddress, Words, is_loopback
from app.settings.forges import (
    BUILT_IN,
    ForgejoSettings,
    ForgeSettings,
    GiteaSettings,
    GitHubSettings,
    GitLabSettings,
    IntakeSection,
)
from app.settings.pools import PoolSettings
from app.settings.sections import (
    DatabaseSettings,
    EngineSettings,
    LogSettings,
    ProviderSettings,
    RepositorySettings,
    ServerSettings,
)
from app.settings.trust import RegistrySettings, TrustSettings, registry_of


class Settings(BaseSettings):
    """Everything that `sublet.toml` may say."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        arbitrary_types_allowed=True,
        env_prefix="SUBLET_",
        env_nested_delimiter="__",
    )

    public_url: WebAddress | None = None
    """Address under which forges, nodes and people reach the service; https unless it is this machine's own.
    Default: `http://127.0.0.1:PORT` while the service listens on loopback."""
    data: FilePath = Path("sublet-data")
    """Folder for the database and the keys. Default `sublet-data` in the working folder."""
    server: ServerSettings = ServerSettings()
    """Where the service listens."""
    database: DatabaseSettings = DatabaseSettings()
    """Where everything is kept."""
    github: GitHubSettings | None = None
    """The GitHub account. Default none."""
    gitlab: GitLabSettings | None = None
    """The GitLab account. Default none."""
    gitea: GiteaSettings | None = None
    """The Gitea account. Default none."""
    forgejo: ForgejoSettings | None = None
    """The Forgejo account. Default none."""
    forge: tuple[ForgeSettings, ...] = Field(default=(), max_length=20)
    """Accounts at forges that installed plugins serve. Default none."""
    provider: tuple[ProviderSettings, ...] = Field(default=(), max_length=100)
    """Accounts at places that rent out machines. Default none."""
    gpu_names: dict[Words, tuple[Words, ...]] = Field(default={}, max_length=200)
    """What vendors call a GPU, besides the names that are built in: `rubin = ["R300 NVL"]`. Default none."""
    trust: TrustSettings = TrustSettings()
    """Whose signature on an image counts."""
    registry: tuple[RegistrySettings, ...] = Field(default=(), max_length=100)
    """Registries that may be asked for images. Default none."""
    pool: tuple[PoolSettings, ...] = Field(default=(), max_length=200)
    """Which jobs are served, and with what. Default none."""
    repository: tuple[RepositorySettings, ...] = Field(default=(), max_length=1_000)
    """Which repositories may spend money here. Default none, and then no job is served."""
    engine: EngineSettings = EngineSettings()
    """How the part that moves leases works."""
    log: LogSettings = LogSettings()
    """What the service writes to standard error."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what it is given: `load` merges flags, environment and file, and keeps where each value came from."""
        return (init_settings,)

    @property
    def forges(self) -> dict[str, IntakeSection]:
        """Every forge that is set up, by name."""
        built_in = {"github": self.github, "gitlab": self.gitlab, "gitea": self.gitea, "forgejo": self.forgejo}
        known: dict[str, IntakeSection] = {name: one for name, one in built_in.items() if one is not None}
        return known | {one.name: one for one in self.forge}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = [*self._addresses(), *self._names(), *self._served_twice(), *self._scopes(), *self._images()]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _addresses(self) -> list[str]:
        if self.public_url is None and not is_loopback(self.server.host):
            return ["`public_url`: is needed, as [server] `host` is more than this machine's own address"]
        return []

    def _names(self) -> list[str]:
        problems: list[str] = []
        titled = {"provider": self.provider, "pool": self.pool, "forge": self.forge}
        for title, names in ((title, [row.name for row in rows]) for title, rows in titled.items()):
            doubles = [name for name, count in Counter(names).items() if count > 1]
            problems += [f"[[{title}]]: two are named `{name}`" for name in doubles]
        doubles = [host for host, count in Counter(row.host for row in self.registry).items() if count > 1]
        problems += [f"[[registry]]: two have the host `{host}`" for host in doubles]
        known = {row.name for row in self.provider}
        forges = self.forges
        for number, pool in enumerate(self.pool, 1):
            for name in pool.providers:
                if name not in known:
                    told = ", ".join(f"`{other}`" for other in sorted(known)) or "none"
                    problems.append(f"[[pool]] #{number} `providers`: no [[provider]] is named `{name}` (there are: {told})")
            for forge in pool.forges:
                if forge not in forges:
                    table = f"[{forge}] table" if forge in BUILT_IN else f"[[forge]] named `{forge}`"
                    problems.append(f"[[pool]] #{number} `forges`: there is no {table}")
        return problems

    def _images(self) -> list[str]:
        """Pools whose image could never pass."""
        problems: list[str] = []
        hosts = {row.host for row in self.registry}
        for number, pool in enumerate(self.pool, 1):
            where = f"[[pool]] #{number}"
            if pool.image is None:
                continue
            if (host := registry_of(pool.image)) not in hosts:
                lines = f'    [[registry]]\n    host = "{host}"'
                problems.append(f"{where} `image`: its registry is in no [[registry]], and no other is asked. Write:\n{lines}")
            own = bool(pool.keys or pool.identity)
            identities = pool.identity if own else self.trust.identity
            if pool.signed and not own and not self.trust.keys and not identities:
                line = '    [trust]\n    keys = ["file:cosign.pub"]'
                problems.append(f"{where} `image`: nothing says whose signature on it counts. Write, for example:\n{line}")
            if pool.signed and identities and self.trust.trusted_root is None:
                problems.append(f"{where} `identity`: signatures without a key need `trusted_root` in [trust]")
        return problems

    def _served_twice(self) -> list[str]:
        """Two pools with the same labels for the same forge would make it chance which one pays."""
        problems: list[str] = []
        everywhere = frozenset({*self.forges, *BUILT_IN})
        for number, pool in enumerate(self.pool, 1):
            for other, earlier in enumerate(self.pool[: number - 1], 1):
                forges = frozenset[str](pool.forges or everywhere) & frozenset[str](earlier.forges or everywhere)
                if set(pool.labels) == set(earlier.labels) and forges:
                    problems.append(f"[[pool]] #{number} `labels`: the same as those of #{other} (`{earlier.name}`)")
        return problems

    def _scopes(self) -> list[str]:
        return [
            f'[[pool]] #{number} `scope`: "enterprise" needs `scope_path`, or `enterprise` in [github]'
            for number, pool in enumerate(self.pool, 1)
            if pool.scope == "enterprise" and not pool.scope_path and not (self.github and self.github.enterprise)
        ]
