"""Every knob of Sublet: typed, grouped, documented under the field, read once, frozen."""

from app.settings.forges import (
    ForgejoSettings,
    ForgeSettings,
    GiteaSettings,
    GitHubSettings,
    GitLabSettings,
    IntakeSection,
)
from app.settings.load import Loaded, SettingsError, load
from app.settings.pools import PoolSettings
from app.settings.secrets import PublicPlace, SecretError, SecretPlace
from app.settings.sections import (
    DatabaseSettings,
    EngineSettings,
    LogSettings,
    ProviderSettings,
    RepositorySettings,
    ServerSettings,
)
from app.settings.tree import Settings
from app.settings.trust import IdentitySettings, ProvenanceSettings, RegistrySettings, TrustSettings

__all__ = [
    "DatabaseSettings",
    "EngineSettings",
    "ForgeSettings",
    "ForgejoSettings",
    "GitHubSettings",
    "GitLabSettings",
    "GiteaSettings",
    "IdentitySettings",
    "IntakeSection",
    "Loaded",
    "LogSettings",
    "PoolSettings",
    "ProvenanceSettings",
    "ProviderSettings",
    "PublicPlace",
    "RegistrySettings",
    "RepositorySettings",
    "SecretError",
    "SecretPlace",
    "ServerSettings",
    "Settings",
    "SettingsError",
    "TrustSettings",
    "load",
]
