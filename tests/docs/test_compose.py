"""The compose files: what they name is there, and the proxy knows every web."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

TREE = Path(__file__).resolve().parent.parent.parent


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((TREE / name).read_text("utf-8"))


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker-compose.replicas.yml"])
def test_what_services_name_is_there(name: str) -> None:
    file = read(name)
    for service in file["services"].values():
        assert set(service.get("depends_on", ())) <= set(file["services"])
        named = {str(volume).partition(":")[0] for volume in service.get("volumes", ())}
        assert {volume for volume in named if not volume.startswith((".", "/"))} <= set(file["volumes"])
        assert set(service.get("secrets", ())) <= set(file["secrets"])


def test_two_of_each_behind_a_proxy_that_knows_the_webs() -> None:
    file = read("docker-compose.replicas.yml")
    roles = {name: one["command"][2] for name, one in file["services"].items() if "--role" in one.get("command", ())}
    assert sorted(roles.values()) == ["engine", "engine", "web", "web"]
    told = re.findall(r"([\w-]+):8080", file["configs"]["caddyfile"]["content"])
    assert sorted(told) == sorted(name for name, role in roles.items() if role == "web")
    for name in roles:
        *_, module = file["services"][name]["healthcheck"]["test"]
        assert importlib.util.find_spec(module) is not None
