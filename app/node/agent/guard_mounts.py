"""What a job's container may see of the host's files: the job's own folder, the hook to read, the guarded socket, volumes.

Pure but for one question: where a path really leads. A link may move after that; `guard_place` looks at what was mounted.
"""

from __future__ import annotations

import os.path
from typing import Any

from .guard_fields import NAME, Limits, fields, is_empty, is_nothing, only_nothing, table
from .guard_request import Refused

BIND_WORDS = frozenset(("", "ro", "rw", "private", "rprivate", "nocopy", "cached", "delegated", "consistent"))


def source(path: object, limits: Limits, writes: bool = True) -> None:
    """A place of the host that a container is to see. Raises `Refused`."""
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise Refused("A mount's source is an absolute path.")
    plain = path.rstrip("/") or "/"
    if os.path.normpath(path).replace("//", "/") != plain:  # the engine cleans a path before it follows links, the kernel after
        raise Refused(f"The path {path[:200]} is not in its plain form: write it without '.', '..' and '//'.")
    real = limits.real(plain)
    if real in limits.sockets:
        return
    for folder in (*limits.folders, *(() if writes else limits.read_only)):
        if real == folder or real.startswith(folder + "/"):
            return
    raise Refused(
        f"{path[:200]} is outside of the job's folder {limits.folders[0] if limits.folders else '(none)'}: "
        "mount a path below it, or use a named volume."
    )


def bind(text: object, limits: Limits) -> None:
    """One of `-v`: SOURCE:TARGET[:OPTIONS], where a source without a slash is a volume's name. Raises `Refused`."""
    parts = text.split(":") if isinstance(text, str) else []
    if len(parts) not in (2, 3) or not parts[1].startswith("/"):
        raise Refused("A bind is SOURCE:TARGET or SOURCE:TARGET:OPTIONS.")
    if not set((parts[2] if len(parts) == 3 else "").split(",")) <= BIND_WORDS:
        raise Refused(f"The mount options {parts[2][:60]!r} are not allowed; ro and rw are.")
    if parts[0].startswith("/"):
        source(parts[0], limits, "ro" not in parts[-1].split(",") or len(parts) < 3)
    elif not NAME.fullmatch(parts[0]):
        raise Refused(f"{parts[0][:60]!r} is neither an absolute path nor a volume's name.")


def mount(row: object, limits: Limits) -> None:
    """One of `--mount`. Raises `Refused`."""
    given = fields(table(row, "Mounts"))
    kind = given.pop("type", "")
    place = given.pop("source", "")
    writes = given.pop("readonly", False) is not True
    for name in ("target", "consistency"):
        given.pop(name, None)
    options = fields(table(given.pop(f"{kind}options", {}), "options"))
    for name in ("bindoptions", "volumeoptions", "tmpfsoptions"):
        if is_nothing(given.get(name, {})) or given.get(name) == {}:
            given.pop(name, None)
    if given:
        raise Refused(f"A mount's {next(iter(given))} is not something that a job may set.")
    if kind == "bind":
        source(place, limits, writes)
        allowed = {"propagation", "nonrecursive", "createmountpoint", "readonlynonrecursive", "readonlyforcerecursive"}
        if options.get("propagation", "") not in ("", "private", "rprivate"):
            raise Refused("A mount may not be shared with the host: leave propagation out.")
    elif kind == "volume":
        if place and not (isinstance(place, str) and NAME.fullmatch(place)):
            raise Refused("That is not a volume's name.")
        allowed = {"nocopy", "labels", "subpath"}
        driver = fields(table(options.pop("driverconfig", {}), "DriverConfig"))
        if driver.get("name", "") not in ("", "local") or not is_empty(driver.get("options", {})):
            raise Refused(
                "A volume has the driver 'local' and no driver options: with them it could be any folder of the host."
            )
    elif kind == "tmpfs":
        allowed = {"sizebytes", "mode"}
    else:
        raise Refused(f"Mounts of type {str(kind)[:20]!r} are not allowed; bind, volume and tmpfs are.")
    for name, value in options.items():
        if name not in allowed and not is_empty(value):
            raise Refused(f"The mount option {name} is not something that a job may set.")


def volume(body: dict[str, Any], _limits: Limits) -> None:
    """`POST /volumes/create`. Raises `Refused`."""
    given = fields(body)
    if given.pop("driver", "") not in ("", "local"):
        raise Refused("A volume has the driver 'local'.")
    if not is_empty(given.pop("driveropts", {})):
        raise Refused("A volume has no driver options here: with them it could be any folder or device of the host.")
    name = given.pop("name", "")
    if name and not (isinstance(name, str) and NAME.fullmatch(name)):
        raise Refused("That is not a volume's name.")
    given.pop("labels", None)
    only_nothing(given, "A volume's")
