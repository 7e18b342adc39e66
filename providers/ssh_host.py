"""On the host: claims, looks, ends and facts, one JSON answer to each JSON request. Python 3.8 or later, standard library.

Sent by `providers.ssh_wire` over standard input at each login, with its two companions; never installed, and gone with the
connection. What stays is a folder for each slot that is taken:

    ROOT/.lock                      held through every create and destroy; the kernel lets go of it when its holder dies
    ROOT/slot-3/                    made by `mkdir`, which only the first can: this is the claim
    ROOT/slot-3/OWNER.TAG/          appears by one rename, complete with record and script: never half-written
        instance.json               what was ordered: key, times, the slot's user
        process.json, ended.json    of the keeper
        console.log, start.sh, work/
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from providers import ssh_host_keeper as keeping
from providers import ssh_host_processes as processes

HELLO = "sublet host 1"
PATIENCE = 10.0  # seconds for another one's create or destroy
GRACE = 2.0  # seconds between SIGTERM and SIGKILL
ENDING = 6.0  # seconds for SIGKILL to have its effect
SMI = 10.0  # seconds for one question to nvidia-smi
SLOT = re.compile(r"slot-(\d{1,3})")
INSTANCE = re.compile(r"([a-z0-9]{1,63})\.([a-z0-9][a-z0-9-]{0,62})")
CARDS = "index,uuid,name,memory.total,driver_version"


class No(Exception):
    """A definite answer that is no success; `kind` says what the service makes of it."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class There(NamedTuple):
    slot: int
    owner: str
    tag: str
    folder: Path


@contextlib.contextmanager
def locked(root: Path, patience: float = PATIENCE) -> Generator[None, None, None]:
    root.mkdir(mode=0o711, parents=True, exist_ok=True)
    descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise No("busy", "another create or destroy is at work on this host") from None
            time.sleep(0.01)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # by word, since a keeper that was just forked may still have it open
        os.close(descriptor)


def instances(root: Path) -> Iterator[There]:
    with contextlib.suppress(FileNotFoundError):
        for place in sorted(root.iterdir()):
            slot = SLOT.fullmatch(place.name)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                for folder in sorted(place.iterdir()) if slot else ():
                    name = INSTANCE.fullmatch(folder.name)
                    if name and slot:
                        yield There(int(slot[1]), name[1], name[2], folder)


def find(root: Path, tag: str) -> There | None:
    return next((there for there in instances(root) if there.tag == tag), None)


def read(path: Path) -> dict[str, Any] | None:
    """The object in the file; None if it is not there; an empty one if it is not JSON."""
    try:
        content: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return dict(content) if isinstance(content, dict) else {}  # pyright: ignore[reportUnknownArgumentType]  it is JSON


def keeper_of(there: There) -> processes.Keeper | None:
    content = read(there.folder / "process.json")
    try:
        return processes.Keeper(int(content["pid"]), int(content["start"]), str(content["boot"])) if content else None
    except (KeyError, TypeError, ValueError):
        return None


def user_of(there: There, first_uid: int) -> int:
    """The slot's own user as it was when the instance began; 0: none."""
    uid = (read(there.folder / "instance.json") or {}).get("uid")
    return uid if isinstance(uid, int) else first_uid and first_uid + there.slot - 1


def create(order: dict[str, Any], root: str, slots: int, first_uid: int, groups: list[str], smi: str) -> dict[str, Any]:
    """The instance of this tag and key, made if it is not there. Asked again, it completes what a crash left half-made."""
    until = time.clock_gettime(time.CLOCK_BOOTTIME) + float(order["seconds"])
    yard, tag = Path(root), str(order["tag"])
    if first_uid and os.geteuid() != 0:
        raise No("unfit", "a user for each slot needs root, or sudo, on the host")
    cards = _cards(smi) if order["gpus"] else {}
    with locked(yard):
        _sweep(yard)
        there = find(yard, tag)
        if there is None:
            if _strays(yard, tag):
                raise No("unclear", f"processes of an instance {tag} are left without their folder: destroy it first")
            there = _place(yard, order, _claim(yard, order, slots, cards), first_uid)
        record = read(there.folder / "instance.json") or {}
        if there.owner != order["owner"]:
            raise No("taken", f"the name {tag} is taken by an instance that is not ours")
        if record.get("key") != order["key"]:
            raise No("unclear", f"an instance {tag} of another attempt is there")
        if not (there.folder / "process.json").exists():
            extra = {
                "CUDA_VISIBLE_DEVICES": visible(cards, order, there.slot, "-1"),
                "NVIDIA_VISIBLE_DEVICES": visible(cards, order, there.slot, "void"),
            }
            clean = keeping.environment(there.folder, sys.executable, extra)
            came_up = keeping.start(there.folder, user_of(there, first_uid), groups, until, clean)
            if not came_up and not (there.folder / "process.json").exists():
                raise No("unclear", f"the keeper of {tag} did not come up")
        return shown(there, yard)


def look(tag: str, root: str, first_uid: int) -> dict[str, Any] | None:
    """None if neither a folder nor a process of it is there."""
    there = find(Path(root), tag)
    if there is not None:
        return shown(there, Path(root), first_uid)
    return next((_stray(name, left) for name, left in _strays(Path(root), tag).items()), None)


def listing(owner: str, root: str, first_uid: int) -> list[dict[str, Any]]:
    """Also of processes whose folder somebody has removed."""
    rows = [shown(there, Path(root), first_uid) for there in instances(Path(root)) if there.owner == owner]
    strays = [_stray(name, left) for name, left in _strays(Path(root)).items()]
    return rows + [row for row in strays if row["owner"] == owner]


def _strays(root: Path, tag: str = "") -> dict[str, list[processes.Seen]]:
    """The processes of instances whose folder is gone: of one, or of all."""
    marked = processes.Census().marked(str(root))
    with_folder = {there.folder.name for there in instances(root)}
    return {name: left for name, left in marked.items() if name not in with_folder and tag in ("", name.partition(".")[2])}


def _stray(name: str, left: list[processes.Seen]) -> dict[str, Any]:
    owner, _, tag = name.partition(".")
    return {"tag": tag, "owner": owner, "state": "ending", "detail": f"{len(left)} of its processes are left without a folder"}


def shown(there: There, root: Path, first_uid: int = 0) -> dict[str, Any]:
    record = read(there.folder / "instance.json")
    answer: dict[str, Any] = {"tag": there.tag, "owner": there.owner, "slot": there.slot}
    if not record:
        return {**answer, "state": "broken", "detail": "its record cannot be read"}
    answer.update(key=record.get("key"), created_at=record.get("created_at"))
    keeper, ended = keeper_of(there), read(there.folder / "ended.json")
    if keeper is None:
        try:
            with locked(root, 0):
                return {**answer, "state": "broken", "detail": "half-created: it was cut off before its script started"}
        except No:
            return {**answer, "state": "starting", "detail": "being started"}
    if ended is None and processes.alive(keeper):
        return {**answer, "state": "running", "detail": "the script runs"}
    if ended is not None:
        code = ended.get("code")
        word = "its hard end came" if code is None else f"the script ended with {code}"
    else:
        word = "ended from outside" if keeper.boot == processes.boot() else "the host was started anew"
    left = processes.Census().of(str(there.folder), keeper, user_of(there, first_uid))
    return {**answer, "state": "ended", "detail": f"{word}; {len(left)} of its processes are left" if left else word}


def destroy(tag: str, root: str, first_uid: int) -> int:
    """SIGTERM, a short grace, SIGKILL until none is left, then the wipe, then the claim. How many processes do not end."""
    yard = Path(root)
    there = find(yard, tag)
    if there is not None:
        _ask_to_end(there, first_uid)
    with locked(yard):
        there = find(yard, tag)
        if there is None:
            return _end_strays(yard, tag)
        uid = user_of(there, first_uid)
        left = processes.end(str(there.folder), keeper_of(there), uid, ENDING)
        if not left:
            keeping.wipe(there.folder, uid)
            there.folder.rename(yard / f".gone-{os.getpid()}-{time.monotonic_ns()}")
            _sweep(yard)
        return left


def _end_strays(root: Path, tag: str) -> int:
    end = time.monotonic() + ENDING
    while True:
        left = [process for ours in _strays(root, tag).values() for process in ours]
        if not left or time.monotonic() > end:
            return len(left)
        processes.tell(left, signal.SIGKILL)
        time.sleep(0.01)


def facts(root: str, smi: str) -> dict[str, Any]:
    """What an offer and a look at the host's health need. Takes up to 20 s where a driver hangs."""
    yard = Path(root)
    try:
        with locked(yard, 0):
            trouble = ""
    except No:
        trouble = ""
    except OSError as error:
        trouble = f"{root} cannot be written: {error.strerror}"
    space = next(folder for folder in (yard, *yard.parents) if folder.exists())
    cards, disk = _cards(smi), os.statvfs(space)
    return {
        "machine": os.uname().machine,
        "python": ".".join(str(number) for number in sys.version_info[:3]),
        "kernel": os.uname().release,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "disk_bytes": disk.f_bavail * disk.f_frsize,
        "taken": [] if trouble else sorted({there.slot for there in instances(yard)}),
        "root": os.geteuid() == 0,
        "trouble": trouble,
        "cards": cards,
    }


def _ask_to_end(there: There, first_uid: int) -> None:
    keeper, uid = keeper_of(there), user_of(there, first_uid)
    end = time.monotonic() + GRACE
    left = processes.Census().of(str(there.folder), keeper, uid)
    processes.tell([process for process in left if keeper is None or process.pid != keeper.pid], signal.SIGTERM)
    while left and time.monotonic() < end:
        time.sleep(0.01)
        left = processes.Census().of(str(there.folder), keeper, uid)


def _claim(root: Path, order: dict[str, Any], slots: int, cards: dict[str, Any]) -> int:
    """The offered slot if it is free, else another one whose GPUs nobody uses."""
    why = f"all {slots} slots of this host are taken"
    for slot in sorted(range(1, slots + 1), key=lambda slot: slot != order["slot"]):
        if (root / f"slot-{slot}").exists():
            continue
        mine = _share(cards, order["gpus"], slot)
        if cards.get("cards") and len(mine) < order["gpus"]:
            why = f"nvidia-smi lists {len(cards['cards'])} GPUs, too few for slot {slot}"
        elif strangers := [card["uuid"] for card in mine if card["used"]]:
            why = f"another program computes on {', '.join(strangers)} of slot {slot}"
        else:
            with contextlib.suppress(FileExistsError):
                (root / f"slot-{slot}").mkdir(mode=0o711)
                return slot
    raise No("full", why)


def _place(root: Path, order: dict[str, Any], slot: int, first_uid: int) -> There:
    """Make the folder. Cut off before the rename, an empty claim is left, which the next create sweeps."""
    uid = first_uid and first_uid + slot - 1
    draft = root / f"slot-{slot}" / ".new"
    draft.mkdir(mode=0o711)
    (draft / "work").mkdir(mode=0o711)  # a runner that drops its rights may pass through to what it was given
    for name in ("home", "tmp"):
        (draft / "work" / name).mkdir(mode=0o700)
    kept = {name: order[name] for name in ("key", "created_at", "ends_at")}
    keeping.write(draft / "instance.json", json.dumps({**kept, "uid": uid}))
    keeping.write(draft / "start.sh", order["script"])
    if uid:
        for path in (draft / "start.sh", draft / "work", draft / "work" / "home", draft / "work" / "tmp"):
            os.chown(path, uid, uid)
    folder = draft.with_name(f"{order['owner']}.{order['tag']}")
    draft.rename(folder)
    return There(slot, order["owner"], order["tag"], folder)


def _sweep(root: Path) -> None:
    """Remove what a cut-off create or destroy left half-made. Only under the lock: whoever makes such a thing holds it."""
    for rest in root.glob(".gone-*"):
        keeping.remove(rest)
    for place in root.glob("slot-*"):
        if SLOT.fullmatch(place.name) and not any(INSTANCE.fullmatch(folder.name) for folder in place.iterdir()):
            keeping.remove(place)


def _cards(smi: str) -> dict[str, Any]:
    """This host's GPUs as nvidia-smi tells them, in the order of the bus, and whether somebody computes on them."""
    try:
        rows = _csv(smi, f"--query-gpu={CARDS}")
        busy = {row[0] for row in _csv(smi, "--query-compute-apps=gpu_uuid")}
        cards = [
            {"uuid": uuid, "name": name, "memory_mib": int(float(memory)), "driver": driver, "used": uuid in busy}
            for _, uuid, name, memory, driver in sorted(rows, key=lambda row: int(row[0]))
        ]
        return {"cards": cards, "problem": ""}
    except FileNotFoundError:
        return {"cards": [], "problem": "absent"}
    except (OSError, RuntimeError, ValueError) as error:
        return {"cards": [], "problem": f"nvidia-smi could not be asked: {error or type(error).__name__}"}


def _csv(smi: str, query: str) -> list[list[str]]:
    import subprocess  # here, since most logins never need it

    command = [smi, query, "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SMI, check=True)  # noqa: S603
    except subprocess.SubprocessError as error:
        raise RuntimeError(type(error).__name__) from None
    lines = answer.stdout.decode(errors="replace").splitlines()
    return [[part.strip() for part in line.split(",")] for line in lines if line.strip()]


def _share(cards: dict[str, Any], each: int, slot: int) -> list[dict[str, Any]]:
    return list(cards.get("cards", ()))[(slot - 1) * each : slot * each]


def visible(cards: dict[str, Any], order: dict[str, Any], slot: int, none: str) -> str:
    """The GPUs of one slot for the libraries: by uuid, by number where nvidia-smi does not tell any, `none` without any."""
    each = order["gpus"]
    numbers = [str(number) for number in range((slot - 1) * each, slot * each)]
    return ",".join([card["uuid"] for card in _share(cards, each, slot)] or numbers) or none


VERBS: dict[str, Callable[..., Any]] = {
    "create": create,
    "look": look,
    "listing": listing,
    "destroy": destroy,
    "facts": facts,
}


def serve() -> None:
    """Answer until the connection closes. A request is a line with its length, then so many bytes of JSON."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(f"\n{HELLO}\n".encode())  # on a line of its own, whatever the login's shell has said before
    answers.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    while True:
        head = requests.readline()
        if not head:
            return
        request = json.loads(requests.read(int(head)))
        try:
            answer = {"yes": VERBS[request.pop("verb")](**request)}
        except No as no:
            answer = {"no": no.kind, "text": str(no)}
        except OSError as error:
            kind = "full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "broken"
            answer = {"no": kind, "text": f"{type(error).__name__}: {error.strerror}"}
        except Exception as error:  # noqa: BLE001  the service hears of it, and goes on
            answer = {"no": "broken", "text": type(error).__name__}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()
