"""What a job's container may be made of: every field of a create call, and a sentence for each that is refused.

Pure, and refusing by default: a field that is not named here may only have the value that it would have if it were left out.
Field names are the Engine API's (`POST /containers/create`), in small letters. Of a top-level field that is none of `CONFIG`
the same holds, because the engine also takes every field of HostConfig there (moby, runconfig.ContainerConfigWrapper).
"""

from __future__ import annotations

from typing import Any, Callable

from . import guard_gpus, guard_mounts
from .guard_fields import Limits, fields, is_empty, is_nothing, items, only_nothing, table, words
from .guard_request import Refused

CONFIG = words(
    "hostname domainname user attachstdin attachstdout attachstderr publishservice exposedports tty openstdin stdinonce"
    " env cmd healthcheck argsescaped image volumes workingdir entrypoint networkdisabled macaddress onbuild labels stopsignal"
    " stoptimeout shell"
)
"""Fields of a container's own configuration: they choose what runs inside, which the job may choose."""
FREE = words(
    "containeridfile networkmode portbindings publishallports autoremove capdrop dns dnsoptions dnssearch extrahosts groupadd"
    " readonlyrootfs shmsize consolesize init cpushares memory nanocpus cpuperiod cpuquota cpurealtimeperiod cpurealtimeruntime"
    " cpusetcpus cpusetmems blkioweight memoryreservation memoryswap memoryswappiness kernelmemory kernelmemorytcp"
    " oomkilldisable pidslimit ulimits cpucount cpupercent iomaximumiops iomaximumbandwidth tmpfs"
)
"""Fields of HostConfig that give a container nothing of the host. `networkmode` has a check of its own besides."""
CAPABILITIES = words(
    "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_CHROOT"
)
"""What the engine gives by itself: naming one of them adds nothing."""
NO_NEW = ("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true")
LOGS = ("", "json-file", "local", "none")
ENDPOINT = words(
    "ipamconfig links aliases networkid endpointid gateway ipaddress ipprefixlen ipv6gateway globalipv6address"
    " globalipv6prefixlen macaddress dnsnames gwpriority"
)


def container(body: dict[str, Any], limits: Limits) -> str:
    """The image that it names. Raises `Refused`."""
    given = fields(body)
    host = table(given.pop("hostconfig", {}), "HostConfig")
    networking = table(given.pop("networkingconfig", {}), "NetworkingConfig")
    for name, value in given.items():
        if name not in CONFIG and not is_nothing(value):
            raise Refused(f"The field {name!r} is not one that a job may set beside HostConfig.")
    image = given.get("image")
    if not isinstance(image, str) or not image:
        raise Refused("It names no image.")
    environment = [str(word) for word in items(given.get("env", []), "Env")]
    host_config(host, limits, environment)
    for name, value in fields(networking).items():
        if name != "endpointsconfig":
            raise Refused(f"NetworkingConfig.{name} is not known here.")
        for network, endpoint in table(value, "EndpointsConfig").items():
            _endpoint(network, endpoint, limits)
    return image


def host_config(host: dict[str, Any], limits: Limits, environment: list[str]) -> None:
    """Raises `Refused`."""
    for name, value in fields(host).items():
        check = CHECKS.get(name)
        if check is not None:
            check(value, limits)
        elif name not in FREE and not is_nothing(value):
            raise Refused(f"HostConfig.{name} is not something that a job may set; leave it out.")
    guard_gpus.check(fields(host), environment, limits.gpus, limits.folders)


def network(body: dict[str, Any], _limits: Limits) -> None:
    """`POST /networks/create`. Raises `Refused`."""
    given = fields(body)
    if given.pop("driver", "") not in ("", "bridge"):
        raise Refused("A network has the driver 'bridge': others reach into the host's own network.")
    for option, value in table(given.pop("options", {}), "Options").items():
        if option not in ("com.docker.network.driver.mtu", "com.docker.network.bridge.enable_icc") and not is_empty(value):
            raise Refused(f"The network option {option[:80]} is not something that a job may set.")
    ipam = fields(table(given.pop("ipam", {}), "IPAM"))
    if ipam.pop("driver", "") not in ("", "default") or any(not is_empty(value) for value in ipam.values()):
        raise Refused("The engine chooses a network's addresses here: leave subnet and gateway out.")
    if given.pop("scope", "") not in ("", "local"):
        raise Refused("A network's scope is local.")
    for name in ("name", "checkduplicate", "internal", "attachable", "enableipv4", "enableipv6", "labels"):
        given.pop(name, None)
    only_nothing(given, "A network's")


def connect(body: dict[str, Any], limits: Limits) -> None:
    """`POST /networks/{name}/connect` and `/disconnect`. Raises `Refused`."""
    given = fields(body)
    _ours(given.pop("container", ""), limits)
    given.pop("force", None)
    _endpoint("", given.pop("endpointconfig", {}), limits)
    only_nothing(given, "A connection's")


def execution(body: dict[str, Any], _limits: Limits) -> None:
    """`POST /containers/{name}/exec`. Raises `Refused`."""
    given = fields(body)
    if given.pop("privileged", False) is not False:
        raise Refused("A privileged exec would have every right on this machine; leave --privileged out.")
    known = "user tty attachstdin attachstdout attachstderr detach detachkeys env workingdir cmd consolesize container"
    for name in known.split():
        given.pop(name, None)
    only_nothing(given, "An exec's")


def _endpoint(network_name: str, value: object, limits: Limits) -> None:
    if network_name:
        _network_mode(network_name, limits)
    given = fields(table(value, "a network's endpoint"))
    for name, inner in given.items():
        if name not in ENDPOINT and not is_empty(inner):
            raise Refused(f"The endpoint's {name} is not something that a job may set.")
    _links(given.get("links", []), limits)


def _ours(name: object, limits: Limits) -> None:
    if not isinstance(name, str) or not limits.own(name):
        raise Refused(f"{str(name)[:80]!r} is not a container of this job.")


def _network_mode(value: object, limits: Limits) -> None:
    if value in ("", "default", "bridge", "none"):
        return
    if isinstance(value, str) and value.startswith("container:"):
        _ours(value[len("container:") :], limits)
    elif value == "host" or not isinstance(value, str) or not limits.network(value):
        raise Refused(
            f"The network {str(value)[:60]!r} is not one of this job's: "
            "take 'bridge', 'none' or one made by `docker network create`."
        )


def _space(what: str, *plain: str) -> Callable[[Any, Limits], None]:
    """A namespace: its own, or that of another container of this job."""

    def check(value: Any, limits: Limits) -> None:
        if isinstance(value, str) and value.startswith("container:") and what in ("PidMode", "IpcMode"):
            _ours(value[len("container:") :], limits)
        elif value not in ("", *plain):
            raise Refused(f"{what} {str(value)[:40]!r} would take the container into the host's own; leave it out.")

    return check


def _only(what: str, why: str, allowed: str = "") -> Callable[[Any, Limits], None]:
    """Nothing at all, or this word."""

    def check(value: Any, _limits: Limits) -> None:
        if not is_empty(value) and value != allowed:
            raise Refused(f"{what}: {why}")

    return check


def _absent(what: str, why: str) -> Callable[[Any, Limits], None]:
    """Even an empty list says something here: null alone is the engine's own choice."""

    def check(_value: Any, _limits: Limits) -> None:
        raise Refused(f"{what}: {why}")

    return check


def _each(check_one: Callable[[object, Limits], None], what: str) -> Callable[[Any, Limits], None]:
    def check(value: Any, limits: Limits) -> None:
        for one in items(value, what):
            check_one(one, limits)

    return check


def _capability(value: object, _limits: Limits) -> None:
    name = str(value).upper()
    if (name[4:] if name.startswith("CAP_") else name) not in CAPABILITIES:
        raise Refused(f"The capability {str(value)[:40]} is not one that a job's container may have.")


def _security(value: object, _limits: Limits) -> None:
    if value not in NO_NEW:
        raise Refused(f"The security option {str(value)[:60]!r} would take a protection away; only no-new-privileges is taken.")


def _links(value: object, limits: Limits) -> None:
    for one in items(value, "Links"):
        _ours(str(one).partition(":")[0], limits)


def _volumes_from(value: object, limits: Limits) -> None:
    name, _, options = str(value).partition(":")
    _ours(name, limits)
    if options not in ("", "ro", "rw"):
        raise Refused("VolumesFrom is NAME, NAME:ro or NAME:rw.")


def _restart(value: Any, _limits: Limits) -> None:
    if fields(table(value, "RestartPolicy")).get("name", "") not in ("", "no", "always", "on-failure", "unless-stopped"):
        raise Refused("That restart policy is not known.")


def _log(value: Any, _limits: Limits) -> None:
    if fields(table(value, "LogConfig")).get("type", "") not in LOGS:
        raise Refused("Logs stay on this machine: the log driver is json-file, local or none.")


def _adjust(value: Any, _limits: Limits) -> None:
    if not isinstance(value, int) or value < 0:
        raise Refused("OomScoreAdj: a job does not outlive the agent when memory runs out; leave it out.")


def _runtime(value: Any, limits: Limits) -> None:
    if value not in ("", *limits.runtimes):
        raise Refused(f"The runtime {str(value)[:40]!r} is not guarded here; leave it out.")


def _driver(value: Any, _limits: Limits) -> None:
    if value not in ("", "local"):
        raise Refused("A volume has the driver 'local'.")


CHECKS: dict[str, Callable[[Any, Limits], None]] = {
    "privileged": _only("Privileged", "such a container has every right on this machine; leave --privileged out."),
    "binds": _each(guard_mounts.bind, "Binds"),
    "mounts": _each(guard_mounts.mount, "Mounts"),
    "volumedriver": _driver,
    "volumesfrom": _each(_volumes_from, "VolumesFrom"),
    "networkmode": _network_mode,
    "pidmode": _space("PidMode"),
    "ipcmode": _space("IpcMode", "private", "shareable", "none"),
    "utsmode": _space("UTSMode"),
    "usernsmode": _space("UsernsMode"),
    "cgroupnsmode": _space("CgroupnsMode", "private"),
    "cgroup": _space("Cgroup"),
    "cgroupparent": _only("CgroupParent", "the engine places a job's containers; leave it out."),
    "capadd": _each(_capability, "CapAdd"),
    "securityopt": _each(_security, "SecurityOpt"),
    "sysctls": _only("Sysctls", "a job does not set the kernel's; leave it out."),
    "devicecgrouprules": _only("DeviceCgroupRules", "devices other than the asked GPUs are refused."),
    **{
        f"blkio{name}": _only(f"Blkio{name}", "leave it out.")
        for name in ("weightdevice", "devicereadbps", "devicewritebps", "devicereadiops", "devicewriteiops")
    },
    "storageopt": _only("StorageOpt", "leave it out."),
    "annotations": _only("Annotations", "the runtime would take orders from them; use labels."),
    "maskedpaths": _absent("MaskedPaths", "the paths that the engine hides stay hidden; leave it out."),
    "readonlypaths": _absent("ReadonlyPaths", "the paths that the engine protects stay protected; leave it out."),
    "isolation": _only("Isolation", "it is for Windows.", "default"),
    "links": _links,
    "restartpolicy": _restart,
    "logconfig": _log,
    "oomscoreadj": _adjust,
    "runtime": _runtime,
    "devices": lambda value, limits: None,  # guard_gpus.check looks at both
    "devicerequests": lambda value, limits: None,
}
