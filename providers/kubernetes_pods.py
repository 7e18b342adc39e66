"""A lease as a Pod: what is written for an order, and what a pod's status says of the instance."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from providers.contract import Instance, Order, Phase, Refused
from providers.http import table, tables
from providers.kubernetes_settings import TOLERATION, KubernetesSettings, Shape

MANAGED = "app.kubernetes.io/managed-by"
OWNER, TAG, KEY, ENDS = "sublet/owner", "sublet/tag", "sublet/key", "sublet/ends-at"
IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._:/-]{0,400}@sha256:[0-9a-f]{64}")
START = "start.sh"
FOLDER = "/run/sublet"
PREEMPTED = frozenset({"Evicted", "Preempted", "Preempting", "NodeLost", "Shutdown", "Terminated", "NodeShutdown"})
"""Reasons that kubelet or the scheduler writes when it takes a pod away; newer clusters also set DisruptionTarget."""
NEVER = frozenset({"InvalidImageName", "ErrImageNeverPull"})
"""Reasons for waiting that time does not heal."""


def name_of(tag: str) -> str:
    """The pod's name: the tag, which may end with a hyphen, as a name may not."""
    return tag if not tag.endswith("-") else f"{tag[:62]}x"


def secret_name(order: Order) -> str:
    """Of this attempt only: what an earlier pod of the name left is still being collected."""
    return f"sublet-{hashlib.sha256(f'{order.tag}|{order.key}'.encode()).hexdigest()[:24]}"


def pod_of(order: Order, shape: Shape, settings: KubernetesSettings, now: datetime) -> dict[str, Any]:
    """The Pod. Raises `Refused` for an image that is not named by digest."""
    if IMAGE.fullmatch(order.image or "") is None:
        raise Refused("a pod's image is named by digest, registry/repository@sha256:…")
    seconds = max(1, int((order.ends_at - now).total_seconds()))
    pull = settings.pull_secrets or ((secret_name(order),) if order.login is not None else ())
    labels = {MANAGED: "sublet", OWNER: order.owner}
    notes = {
        TAG: order.tag,
        KEY: order.key,
        ENDS: order.ends_at.astimezone(UTC).isoformat(),
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": seconds,  # the dead-man switch; it counts from the moment a node has the pod
        "terminationGracePeriodSeconds": int(settings.grace.total_seconds()),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "hostNetwork": False,
        "hostPID": False,
        "hostIPC": False,
        "securityContext": _user(settings),
        "nodeSelector": dict(shape.selector),
        "tolerations": [_toleration(text) for text in shape.tolerations],
        "imagePullSecrets": [{"name": name} for name in pull],
        "containers": [_container(order, shape, settings)],
        "volumes": [
            {
                "name": "start",
                "secret": {"secretName": secret_name(order), "items": [{"key": START, "path": START}], "defaultMode": 0o444},
            },
            {"name": "scratch", "emptyDir": {"sizeLimit": f"{shape.disk_gib}Gi"} if shape.disk_gib else {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{settings.shm_mib}Mi"}},
        ],
    }
    extra = {
        "serviceAccountName": settings.service_account,
        "runtimeClassName": shape.runtime_class,
        "priorityClassName": shape.priority_class,
    }
    spec |= {key: value for key, value in extra.items() if value}
    metadata = {"name": name_of(order.tag), "namespace": settings.namespace, "labels": labels, "annotations": notes}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _user(settings: KubernetesSettings) -> dict[str, Any]:
    context: dict[str, Any] = {"seccompProfile": {"type": "RuntimeDefault"}, "runAsNonRoot": settings.non_root}
    if settings.run_as_user:
        number = settings.run_as_user
        context |= {"runAsUser": number, "runAsGroup": number, "fsGroup": number}
    return context


def _toleration(text: str) -> dict[str, str]:
    match = TOLERATION.fullmatch(text)
    assert match is not None  # the settings have checked it
    found: dict[str, str] = {"key": match["key"], "operator": "Exists" if match["value"] is None else "Equal"}
    if match["value"] is not None:
        found["value"] = match["value"]
    if match["effect"]:
        found["effect"] = match["effect"]
    return found


def _container(order: Order, shape: Shape, settings: KubernetesSettings) -> dict[str, Any]:
    wanted = {
        shape.resource: str(shape.gpus) if shape.gpus else "",
        "cpu": format(shape.cpus, "f") if shape.cpus else "",
        "memory": f"{shape.memory_gib}Gi" if shape.memory_gib else "",
        "ephemeral-storage": f"{shape.disk_gib}Gi" if shape.disk_gib else "",
    }
    limits = {name: amount for name, amount in wanted.items() if amount}
    # An image may say NVIDIA_VISIBLE_DEVICES=all, which on some clusters gives a pod without GPUs those of the others.
    hidden = [] if shape.gpus else [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]
    return {
        "name": "runner",
        "image": order.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", f"{FOLDER}/{START}"],
        "env": hidden,
        "resources": {"limits": limits, "requests": limits},
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "capabilities": {"drop": ["ALL"], "add": list(settings.capabilities)},
        },
        "volumeMounts": [
            {"name": "start", "mountPath": FOLDER, "readOnly": True},
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108  inside of the pod
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108  inside of the pod
        ],
    }


def secret_of(order: Order, pod_uid: str, settings: KubernetesSettings) -> dict[str, Any]:
    """The start-up script, and the registry's login, owned by the pod: the cluster removes it with the pod.

    A script in the pod's own arguments or environment could be read by everybody who may list pods. One Secret holds both,
    so that a pod that has its script can pull. Raises `Refused` for a bearer token, which kubelet cannot use."""
    content = {START: base64.b64encode(order.user_data.encode()).decode()}
    login = order.login if not settings.pull_secrets else None
    if login is not None:
        if not login.username:
            raise Refused(
                "nodes pull with a user name and a password, and the registry's login is a bearer token: say pull_secrets"
            )
        given = f"{login.username}:{login.password.reveal()}"
        auths = {"auths": {login.registry: {"auth": base64.b64encode(given.encode()).decode()}}}
        content[".dockerconfigjson"] = base64.b64encode(json.dumps(auths).encode()).decode()
    reference = {"apiVersion": "v1", "kind": "Pod", "name": name_of(order.tag), "uid": pod_uid, "blockOwnerDeletion": False}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/dockerconfigjson" if login is not None else "Opaque",
        "immutable": True,
        "metadata": {
            "name": secret_name(order),
            "namespace": settings.namespace,
            "labels": {MANAGED: "sublet", OWNER: order.owner},
            "ownerReferences": [reference],
        },
        "data": content,
    }


def instance_of(pod: Mapping[str, Any], region: str, now: datetime, patience: timedelta) -> Instance:
    """The instance. Its id is NAME:UID, so that a later pod of the same name is another one."""
    metadata, status = table(pod["metadata"]), table(pod.get("status") or {})
    notes = table(metadata.get("annotations") or {})
    created = _time(metadata.get("creationTimestamp"))
    phase, detail = _phase(metadata, status, created, now, patience)
    conditions = _conditions(status)
    taken = conditions.get("DisruptionTarget", {})
    preempted = taken.get("status") == "True" or str(status.get("reason")) in PREEMPTED
    if preempted:
        word = f"{taken.get('reason') or status.get('reason')}: {taken.get('message') or status.get('message') or ''}"
        phase = Phase.FAILED if phase in (Phase.STOPPED, Phase.FAILED, Phase.UNKNOWN) else phase
        detail = word
    return Instance(
        id=f"{metadata['name']}:{metadata['uid']}",
        tag=str(notes.get(TAG) or metadata["name"]),
        phase=phase,
        created_at=created,
        region=region,
        detail=" ".join(detail.split())[:300],
        key=str(notes.get(KEY) or ""),
        preempted=preempted,
    )


def _phase(
    metadata: Mapping[str, Any], status: Mapping[str, Any], created: datetime | None, now: datetime, patience: timedelta
) -> tuple[Phase, str]:
    if metadata.get("deletionTimestamp"):
        return Phase.DESTROYING, "Terminating"
    said = f"{status.get('reason') or ''} {status.get('message') or ''}".strip()
    match status.get("phase"):
        case "Running":
            return Phase.RUNNING, "Running"
        case "Pending":
            return _waiting(status, created, now, patience)
        case "Succeeded":
            return Phase.STOPPED, "Succeeded"
        case "Failed" if status.get("reason") == "DeadlineExceeded":
            return Phase.STOPPED, f"its hard end came: {said}"
        case "Failed":
            ends = [table(state["terminated"]) for state in _states(status) if state.get("terminated")]
            if ends:
                return Phase.STOPPED, f"Failed: {ends[0].get('reason') or 'Error'} with {ends[0].get('exitCode')} {said}"
            return Phase.FAILED, said or "Failed before it ran"  # kubelet did not take it: OutOfcpu, UnexpectedAdmissionError…
        case other:
            return Phase.UNKNOWN, said or f"phase {other!s:.40}"


def _waiting(status: Mapping[str, Any], created: datetime | None, now: datetime, patience: timedelta) -> tuple[Phase, str]:
    """Pending: STARTING, unless what it waits for has not come for too long. Then the scheduler's or kubelet's own words."""
    scheduled = _conditions(status).get("PodScheduled", {})
    waits = [table(state["waiting"]) for state in _states(status) if state.get("waiting")]
    word = f"{waits[0].get('reason') or ''}: {waits[0].get('message') or ''}".strip(": ") if waits else "Pending"
    since = created
    if scheduled.get("status") == "False":
        word = f"{scheduled.get('reason') or 'Unschedulable'}: {scheduled.get('message') or ''}".strip(": ")
        since = _time(scheduled.get("lastTransitionTime")) or created
    if any(wait.get("reason") in NEVER for wait in waits):
        return Phase.FAILED, word
    healthy = not waits or waits[0].get("reason") in ("ContainerCreating", "PodInitializing")
    stuck = scheduled.get("status") == "False" or not healthy
    if stuck and since is not None and now - since > patience:
        return Phase.FAILED, word
    return Phase.STARTING, word


def _conditions(status: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    return {str(condition.get("type")): condition for condition in tables(status.get("conditions") or [])}


def _states(status: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return [table(row.get("state") or {}) for row in tables(status.get("containerStatuses") or [])]


def _time(value: object) -> datetime | None:
    """RFC 3339 as Kubernetes writes it; None if it is not there."""
    return datetime.fromisoformat(value) if isinstance(value, str) and value else None
