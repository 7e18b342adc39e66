"""Which GPUs a job's container may have: as many as the lease asked for, and no other device.

The ways to name them: device requests (`--gpus`, and CDI's `nvidia.com/gpu=…`), the driver's own device files, and the NVIDIA
runtime's variable. A container with GPUs runs the vendor's hooks as root in front of its start: variables by which the loader
would take a library of the job's into them are refused (CVE-2025-23266).
"""

from __future__ import annotations

import re
from typing import Any, cast

from .guard_fields import fields
from .guard_request import Refused

NUMBER = r"(?:[0-9]{1,2}|GPU-[0-9A-Za-z-]{1,60}|MIG-[0-9A-Za-z/-]{1,100}|[0-9]{1,2}:[0-9]{1,2})"
DEVICE = re.compile(NUMBER)
CDI = re.compile(rf"nvidia\.com/gpu=({NUMBER}|all)")
FILE = re.compile(r"/dev/(nvidia[0-9]{1,2}|nvidiactl|nvidia-uvm|nvidia-uvm-tools|nvidia-modeset)")
ONE = re.compile(r"/dev/nvidia[0-9]{1,2}")
CAPABILITIES = frozenset(("gpu", "nvidia", "compute", "utility", "video", "graphics", "compat32", "display", "ngx"))
VISIBLE = "NVIDIA_VISIBLE_DEVICES"


def check(host: dict[str, Any], environment: list[str], asked: int, folders: list[str]) -> None:
    """`host`: HostConfig with names in small letters. Raises `Refused`."""
    wanted = 0
    for row in _rows(host.get("devicerequests")):
        wanted += _request(fields(row), asked)
    for row in _rows(host.get("devices")):
        wanted += _device(fields(row))
    variables = [(word.partition("=")[0], word.partition("=")[2]) for word in environment]
    runtime = host.get("runtime") == "nvidia"
    if runtime:
        wanted = max([wanted, 1, *(_visible(value, asked) for name, value in variables if name == VISIBLE)])
    if wanted > asked:
        raise Refused(f"It asks for {wanted} GPU{'s' * (wanted > 1)}, and this lease asked for {asked}.")
    if wanted or runtime:
        _loader(variables, folders)


def _request(row: dict[str, Any], asked: int) -> int:
    driver, count = row.pop("driver", ""), row.pop("count", 0)
    names: object = row.pop("deviceids", [])
    capabilities: object = row.pop("capabilities", [])
    if any(value not in ({}, [], "", 0, False) for value in row.values()):
        raise Refused("A device request has options, which a job may not set.")
    if driver not in ("", "nvidia", "cdi") or not isinstance(names, list) or not isinstance(capabilities, list):
        raise Refused("A device request is for GPUs only: --gpus, or nvidia.com/gpu=….")
    for group in cast("list[Any]", capabilities):
        if not isinstance(group, list) or not set(map(str, cast("list[Any]", group))) <= CAPABILITIES:
            raise Refused("A device request is for GPUs only: --gpus, or nvidia.com/gpu=….")
    if type(count) is not int or count < -1:
        raise Refused("A device request's count cannot be read.")
    pattern = CDI if driver == "cdi" else DEVICE
    words = [str(name) for name in cast("list[Any]", names)]
    every = count == -1 or "all" in words or "nvidia.com/gpu=all" in words
    for word in words:
        if not pattern.fullmatch(word) and not (word == "all" and driver != "cdi"):
            raise Refused(f"{word[:60]!r} is not a GPU: devices other than the asked GPUs are refused.")
    return max(asked, 1) if every else max(count, len(words))


def _device(row: dict[str, Any]) -> int:
    path = row.get("pathonhost")
    if (
        not isinstance(path, str)
        or not FILE.fullmatch(path)
        or not set(row)
        <= {
            "pathonhost",
            "pathincontainer",
            "cgrouppermissions",
        }
    ):
        raise Refused(f"The device {str(path)[:60]!r} is not a GPU: devices other than the asked GPUs are refused.")
    return 1 if ONE.fullmatch(path) else 0


def _visible(value: str, asked: int) -> int:
    if value in ("", "void", "none"):
        return 0
    words = value.split(",")
    if value == "all":
        return max(asked, 1)
    if not all(DEVICE.fullmatch(word) or CDI.fullmatch(word) for word in words):
        raise Refused(f"{VISIBLE} names something else than GPUs.")
    return max(asked, 1) if "nvidia.com/gpu=all" in words else len(words)


def _loader(variables: list[tuple[str, str]], folders: list[str]) -> None:
    for name, value in variables:
        if not name.startswith("LD_"):
            continue
        places = value.split(":")
        if name != "LD_LIBRARY_PATH" or not all(_is_of_image(place, folders) for place in places):
            raise Refused(f"{name} is not taken together with GPUs: set it inside the container, by the command itself.")


def _is_of_image(place: str, folders: list[str]) -> bool:
    if not place.startswith("/") or ".." in place.split("/") or place.startswith(("/proc", "/dev", "/tmp", "/var/tmp", "/run")):
        return False
    return not any(place == folder or place.startswith(folder + "/") for folder in folders)


def _rows(value: object) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in cast("list[Any]", value)):
        raise Refused("The list of devices cannot be read.")
    return cast("list[dict[str, Any]]", value)
