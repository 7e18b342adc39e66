"""Bodies held against the models of Kubernetes' own client: unknown keys, wrong types and missing fields are told."""

from __future__ import annotations

import re
from datetime import datetime
from functools import cache
from typing import Any, cast

from providers.sdk import sdk

PLAIN: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "float": (int, float), "bool": bool, "object": object}
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
LABEL_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
QUANTITY = re.compile(r"\d+(\.\d+)?([KMGTP]i|m|k|[MGTP])?")


@cache
def _model(name: str) -> Any:
    return getattr(sdk("kubernetes_asyncio.client", "kubernetes"), name)


def problems(model: str, value: object, where: str = "") -> list[str]:
    """What is wrong with a body, by the model of this name; empty if nothing is."""
    listed, mapped = re.fullmatch(r"list\[(.+)\]", model), re.fullmatch(r"dict\(str, (.+)\)", model)
    if listed:
        if not isinstance(value, list):
            return [f"{where} is no list"]
        rows = cast("list[object]", value)
        return [text for number, row in enumerate(rows) for text in problems(listed[1], row, f"{where}[{number}]")]
    if mapped:
        if not isinstance(value, dict):
            return [f"{where} is no table"]
        cells = cast("dict[object, object]", value)
        return [text for key, cell in cells.items() for text in problems(mapped[1], cell, f"{where}.{key}")]
    if model == "datetime":
        return [] if isinstance(value, str) and datetime.fromisoformat(value).tzinfo else [f"{where} is no time"]
    if model in PLAIN:
        wrong = not isinstance(value, PLAIN[model]) or (isinstance(value, bool) and model != "bool" and model != "object")
        return [f"{where} is no {model}"] if wrong else []
    return _object(model, value, where)


def _object(model: str, value: object, where: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where} is no {model}"]
    given, kind = cast("dict[str, object]", value), _model(model)
    names: dict[str, str] = {wire: name for name, wire in kind.attribute_map.items()}
    found = [f"{where}.{key} is not a field of {model}" for key in given if key not in names]
    found += [
        text
        for key, cell in given.items()
        if key in names
        for text in problems(kind.openapi_types[names[key]], cell, f"{where}.{key}")
    ]
    try:  # the client's own check of what is required
        kind(**{names[key]: cell for key, cell in given.items() if key in names})
    except ValueError as error:
        found.append(f"{where}: {error}")
    return found


def pod_problems(pod: dict[str, Any], *, restricted: bool) -> list[str]:
    """What an API server says of a Pod beyond its types: names, labels, quantities, and the restricted security standard."""
    found = problems("V1Pod", pod, "pod")
    if found:
        return found
    metadata, spec = pod["metadata"], pod["spec"]
    found += [] if NAME.fullmatch(metadata["name"]) else ["metadata.name is no name"]
    for key, value in {**metadata.get("labels", {}), **spec.get("nodeSelector", {})}.items():
        if not LABEL_KEY.fullmatch(key) or not LABEL.fullmatch(value):
            found.append(f"{key}={value} is no label")
    found += [f"annotation {key} is none" for key in metadata.get("annotations", {}) if not LABEL_KEY.fullmatch(key)]
    if spec["activeDeadlineSeconds"] < 1 or spec["activeDeadlineSeconds"] > 2**31 - 1:
        found.append("spec.activeDeadlineSeconds is out of range")
    volumes = {volume["name"] for volume in spec["volumes"]}
    for container in spec["containers"]:
        amounts = {**container["resources"]["limits"], **container["resources"]["requests"]}
        found += [f"{name}: {amount} is no quantity" for name, amount in amounts.items() if not QUANTITY.fullmatch(amount)]
        gpus = {name: amount for name, amount in container["resources"]["limits"].items() if name.startswith("nvidia.com/")}
        if any(container["resources"]["requests"].get(name) != amount for name, amount in gpus.items()):
            found.append("an extended resource is requested as much as it is limited")
        found += [f"no volume {mount['name']}" for mount in container["volumeMounts"] if mount["name"] not in volumes]
    return found + (_unrestricted(spec) if restricted else [])


def _unrestricted(spec: dict[str, Any]) -> list[str]:
    """The Pod Security Standard "restricted", as its documentation lists it."""
    outer, found = spec.get("securityContext", {}), list[str]()
    found += [f"{name} is set" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    kinds = {key for volume in spec["volumes"] for key in volume if key != "name"}
    found += [f"volume type {kind}" for kind in kinds - {"secret", "emptyDir", "configMap", "projected", "downwardAPI"}]
    for container in spec["containers"]:
        inner = container.get("securityContext", {})
        both = {**outer, **inner}
        if inner.get("allowPrivilegeEscalation") is not False:
            found.append("allowPrivilegeEscalation != false")
        if inner.get("capabilities", {}).get("drop") != ["ALL"] or set(inner["capabilities"].get("add", [])) - {
            "NET_BIND_SERVICE"
        }:
            found.append("unrestricted capabilities")
        if both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0:
            found.append("runAsNonRoot != true")
        if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            found.append("seccompProfile")
        if both.get("privileged"):
            found.append("privileged")
    return found
