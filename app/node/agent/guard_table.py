"""The calls of the container engine that a job may make: everything else is refused.

One row for each: method, path, what body it takes, which names its query may hold, and which check looks at it. The paths are
those of the Engine API from 1.24 on. Rows of the last table exist for pools that allow builds.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .guard_request import JSON, NOTHING, UNSEEN, Refused, Request

NAME = r"(?P<name>[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254})"
ANY_NAME = r"(?P<name>[a-zA-Z0-9][a-zA-Z0-9_. @:-]{0,254})"
REFERENCE = r"(?P<name>[a-zA-Z0-9][a-zA-Z0-9_.@:/-]{0,500})"


class Row(NamedTuple):
    method: str
    path: re.Pattern[str]
    body: str
    query: frozenset[str]
    check: str  # of the decider: "" needs none
    name: str = ""  # filled in by `find`: what the path names


def _row(methods: str, path: str, query: str = "", check: str = "", body: str = NOTHING) -> tuple[Row, ...]:
    return tuple(Row(one, re.compile(path), body, frozenset(query.split()), check) for one in methods.split())


ROWS: tuple[Row, ...] = (
    # what can be read
    *_row("GET HEAD", "/_ping"),
    *_row("GET", "/version"),
    *_row("GET", "/info"),
    *_row("GET", "/events", "since until filters"),
    *_row("GET", "/system/df", "type verbose"),
    *_row("GET", "/containers/json", "all limit size filters since before"),
    *_row("GET", "/images/json", "all filters filter shared-size digests manifests identity"),
    *_row("GET", f"/images/{REFERENCE}/json", "manifests platform size"),
    *_row("GET", f"/images/{REFERENCE}/history", "platform"),
    *_row("GET", "/networks", "filters"),
    *_row("GET", f"/networks/{ANY_NAME}", "verbose scope"),
    *_row("GET", "/volumes", "filters"),
    *_row("GET", f"/volumes/{NAME}"),
    # images: pulled if verified, and taken away
    *_row("POST", "/images/create", "fromImage tag platform", "pull"),
    *_row("POST", f"/images/{REFERENCE}/tag", "repo tag"),
    *_row("DELETE", f"/images/{REFERENCE}", "force noprune platforms"),
    *_row("POST", "/auth", body=UNSEEN),
    # containers: made of a verified image, and then the job's own
    *_row("POST", "/containers/create", "name platform", "create", JSON),
    *_row("GET", f"/containers/{NAME}/json", "size", "own"),
    *_row("GET", f"/containers/{NAME}/logs", "follow stdout stderr since until timestamps tail details", "own"),
    *_row("GET", f"/containers/{NAME}/stats", "stream one-shot", "own"),
    *_row("GET", f"/containers/{NAME}/changes", "", "own"),
    *_row("GET", f"/containers/{NAME}/top", "", "own"),
    *_row("POST", f"/containers/{NAME}/start", "detachKeys", "start"),
    *_row("POST", f"/containers/{NAME}/restart", "t signal", "start"),
    *_row("POST", f"/containers/{NAME}/stop", "t signal", "own"),
    *_row("POST", f"/containers/{NAME}/kill", "signal", "own"),
    *_row("POST", f"/containers/{NAME}/wait", "condition", "own"),
    *_row("POST", f"/containers/{NAME}/pause", "", "own"),
    *_row("POST", f"/containers/{NAME}/unpause", "", "own"),
    *_row("POST", f"/containers/{NAME}/resize", "h w", "own"),
    *_row("POST", f"/containers/{NAME}/rename", "name", "rename"),
    *_row("POST", f"/containers/{NAME}/attach", "stream stdin stdout stderr logs detachKeys", "own"),
    *_row("DELETE", f"/containers/{NAME}", "force v link", "own"),
    *_row("POST", f"/containers/{NAME}/exec", "", "exec", JSON),
    *_row("GET", f"/exec/{NAME}/json", "", "of_own"),
    *_row("POST", f"/exec/{NAME}/start", "", "of_own", JSON),
    *_row("POST", f"/exec/{NAME}/resize", "h w", "of_own"),
    # networks and volumes of their own kind
    *_row("POST", "/networks/create", "", "network", JSON),
    *_row("POST", f"/networks/{ANY_NAME}/connect", "", "connect", JSON),
    *_row("POST", f"/networks/{ANY_NAME}/disconnect", "", "disconnect", JSON),
    *_row("DELETE", f"/networks/{ANY_NAME}"),
    *_row("POST", "/volumes/create", "", "volume", JSON),
    *_row("DELETE", f"/volumes/{NAME}", "force"),
    *_row("POST", "/containers/prune", "filters"),
    *_row("POST", "/images/prune", "filters"),
    *_row("POST", "/networks/prune", "filters"),
    *_row("POST", "/volumes/prune", "filters"),
)
BUILD_QUERY = (
    "dockerfile t extrahosts remote q nocache cachefrom pull rm forcerm memory memswap cpushares cpusetcpus cpusetmems"
    " cpuperiod cpuquota buildargs shmsize squash labels networkmode platform target outputs version session buildid ulimits"
)
BUILDS: tuple[Row, ...] = (
    *_row("POST", "/build", BUILD_QUERY, "build", UNSEEN),
    *_row("POST", "/build/prune", "all filters keep-storage reserved-space max-used-space min-free-space"),
    *_row("POST", "/build/cancel", "id"),
    *_row("POST", "/session", body=UNSEEN),
    *_row("POST", "/grpc", body=UNSEEN),
    *_row("POST", f"/images/{REFERENCE}/push", "tag platform"),
)

INSTEAD: dict[str, str] = {
    r"/(build(/.*)?|session|grpc|images/.*/push)": "Builds are not allowed in this pool: build an image where it is signed.",
    r"/images/load|/images/get|/images/.*/get": "Images are not loaded or saved here: pull a signed one from its registry.",
    r"/commit": "A container is not made into an image here: build and sign it elsewhere.",
    r"/containers/.*/(archive|export|copy)": "Files are not copied by the engine: use a folder of the job, or `docker exec`.",
    r"/containers/.*/update": "What a container may have is settled when it is made.",
    r"/containers/.*/checkpoints.*": "Checkpoints are not taken here.",
    r"/containers/.*/attach/ws": "Attach without a web socket.",
    r"/(plugins|swarm|nodes|services|tasks|secrets|configs)(/.*)?": "Plugins and swarm are not for jobs.",
    r"/(distribution/.*|images/search)": "Ask the registry itself.",
}


def find(request: Request, builds: bool) -> Row:
    """The row of this call, with the name that its path holds. Raises `Refused`: what is not in the table is not allowed."""
    for row in (*ROWS, *(BUILDS if builds else ())):
        found = row.path.fullmatch(request.path) if row.method == request.method else None
        if found is None:
            continue
        unknown = set(request.query) - row.query
        if "fromSrc" in unknown:
            raise Refused("Images are not imported here: pull a signed one from its registry.")
        if unknown:
            raise Refused(f"The query's {sorted(unknown)[0][:40]!r} is not something that a job may say there.")
        return row._replace(name=found.groupdict().get("name", ""))
    for pattern, sentence in INSTEAD.items():
        if re.fullmatch(pattern, request.path):
            raise Refused(sentence)
    raise Refused("This call of the engine is not one that a job may make.")
