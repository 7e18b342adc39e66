"""How a registry may be reached: its access as the settings give it, and which addresses a login may ever be sent to."""

from __future__ import annotations

import ipaddress
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.trust.globs import fits
from app.trust.reference import DOCKER_HUB
from providers.contract import Secret

HUB_SERVER = "registry-1.docker.io"
"""Docker Hub's images are named docker.io/... and served there (docs.docker.com, Registry API)."""


@dataclass(frozen=True, slots=True)
class RegistryAccess:
    """One registry that may be asked."""

    host: str  # "registry.acme.example:5000"
    mirrors: tuple[str, ...] = ()  # hosts in order; "eu-*=mirror.example" is for regions that fit the pattern
    username: str = ""
    password: Secret | None = None
    plain_http: bool = False  # loopback only
    ca: ssl.SSLContext | Path | str | None = None  # a context, or the path of a PEM file
    mirrors_resolve_tags: bool = False  # whether the mirrors' word counts for which digest a tag means

    def __post_init__(self) -> None:
        """Raises ValueError: plain HTTP to anything but this machine would show logins and tags to the network."""
        if self.plain_http and not is_loopback(hostname(self.host)):
            raise ValueError(f"{self.host}: plain http is only for registries on this machine")

    @property
    def base(self) -> str:
        server = HUB_SERVER if self.host == DOCKER_HUB else self.host
        return f"{'http' if self.plain_http else 'https'}://{server}"

    @property
    def login(self) -> tuple[str, str] | None:
        """User name and password, at the moment of use."""
        return (self.username, self.password.reveal()) if self.password else None

    def mirrors_for(self, region: str) -> tuple[str, ...]:
        """The hosts for a region, in the order of the settings."""
        found: list[str] = []
        for written in self.mirrors:
            pattern, named, host = written.rpartition("=")
            if not named or (region and fits(pattern, region)):
                found.append(host)
        return tuple(found)

    def tls(self) -> ssl.SSLContext:
        """The usual authorities and this registry's own. Raises OSError or ssl.SSLError for a file that is none."""
        if isinstance(self.ca, ssl.SSLContext):
            return self.ca
        context = ssl.create_default_context()
        if self.ca is not None:
            context.load_verify_locations(cafile=str(self.ca))
        return context


def hostname(host: str) -> str:
    """The host without its port, an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def is_loopback(name: str) -> bool:
    name = name.rstrip(".")  # a name's dot at the end changes nothing but its spelling
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def forbidden(target: httpx.URL, access: RegistryAccess, what: str) -> str:
    """Why we do not follow a registry to that address, or "". For token services and redirects.

    A registry must not be able to make the service call what only the service can reach: this machine, or the address
    169.254.169.254 that gives out a cloud machine's credentials. Names that resolve to such addresses are not caught
    here; https still demands a certificate for the name that was asked.
    """
    own = httpx.URL(access.base)
    same = (target.scheme, target.host, target.port) == (own.scheme, own.host, own.port)
    if target.userinfo or target.fragment:
        return f"{what} has a login or a fragment in its address"
    if not target.host:
        return f"{what} has no host"
    local = access.plain_http and is_loopback(target.host)
    if target.scheme != "https" and not (target.scheme == "http" and local):
        return f"{what} is not https"
    if same or local:
        return ""
    if is_loopback(target.host):
        return f"{what} is on this very machine"
    if re.fullmatch(r"[0-9.]+|0x[0-9a-fA-F.x]+", target.host) or ":" in target.host:
        try:
            address = ipaddress.ip_address(target.host)
        except ValueError:
            return f"{what} is written as a number that is no address"
        if not address.is_global and target.host != own.host:
            return f"{what} is the private address {target.host}"
    return ""
