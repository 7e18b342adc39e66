"""The bench that the board's own author proves it on: `python -m app.forges.conformance sublet_corkboard.bench:bench`."""

import contextlib
import hashlib
import hmac
import tempfile
from collections.abc import Generator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from app.core.model import Scope, ScopeKind
from app.forges.conformance import Fault, Pair, Signing
from app.forges.contract import Credential, Forge, Minted, Surroundings
from providers.contract import Secret
from sublet_corkboard import TOKEN, CorkboardForge, CorkboardSettings
from sublet_corkboard.board import Away, BadPass, Board, Desk

KEY = "the-key-of-the-hall"
SECRETS = {Signing.CURRENT: "what the bell says", Signing.PREVIOUS: "what the bell said", Signing.WRONG: "ding dong"}


class ClumsyBoard(Board):
    """Somebody stands in its door, or the slip for a new desk is dropped on the way back."""

    trouble: Fault | None = None
    asked = 0

    def door(self, verb: str) -> None:
        self.asked += 1
        if self.trouble is Fault.DOWN:
            raise Away
        if self.trouble is Fault.SERVER_ERROR:
            raise OSError("the board fell off the wall")
        if self.trouble is Fault.TOKEN_EXPIRED:
            raise BadPass

    def register(self, project: str, name: str, labels: Sequence[str]) -> Desk:
        desk = super().register(project, name, labels)
        if self.trouble is Fault.LOST_REPLY:
            self.trouble = None
            raise ConnectionError("the slip is gone")
        return desk


class CorkboardBench:
    name = "corkboard"
    stands_on = "its own board, which is a file: the forge itself"
    faults = frozenset(
        {
            Fault.DOWN,
            Fault.SERVER_ERROR,
            Fault.TOKEN_EXPIRED,
            Fault.LOST_REPLY,
            Fault.DELIVERIES,
            Fault.OLD_SECRET,
            Fault.WAITING,
            Fault.FORK,
            Fault.STOLEN,
        }
    )
    secrets: Sequence[str] = (KEY, *SECRETS.values())
    signatures: Sequence[str] = ("x-board-signature",)
    repository = "acme/train"
    other, owner = "acme/serve", "acme"
    scopes: Sequence[Scope] = (Scope(ScopeKind.REPOSITORY, "acme/train"),)
    labels: tuple[str, ...] = ("gpu", "rubin")
    actor = "ida"

    def __init__(self, folder: Path) -> None:
        self.settings = CorkboardSettings(folder / "board.sqlite", Secret(KEY))
        self.board = ClumsyBoard(self.settings.file, KEY)
        self._heard = 0

    def forge(self, *, polled: bool = False) -> Forge:
        current, previous = (Secret(SECRETS[one]) for one in (Signing.CURRENT, Signing.PREVIOUS))
        told = (None, None) if polled else (current, previous)
        around = Surroundings(lambda: datetime(2027, 3, 1, tzinfo=UTC), "", None, *told)
        made = CorkboardForge(self.name, self.settings, around)
        made.board = self.board
        return made

    def queue(self, labels: Sequence[str] = (), *, repository: str = "", waiting: bool = False, fork: bool = False) -> str:
        return str(self.board.pin(repository or self.repository, labels or self.labels, held=waiting, own=not fork))

    def cancel(self, key: str) -> None:
        self.board.tear_down(int(key))

    def rerun(self, key: str) -> str:
        raise AssertionError("nobody hangs a slip up again")

    def steal(self, key: str) -> None:
        taken = self.board.work(self.board.register(self.repository, "theirs", self.labels).token)
        assert taken is not None and str(taken.id) == key

    def conclusion(self, key: str) -> str | None:
        slip = self.board.slip(int(key))
        return {"good": "success", "bad": "failure"}.get(slip.outcome) if slip is not None else None

    def crowd(self) -> Sequence[str]:
        return [self.queue() for _ in range(30)]

    def crowd_of_runners(self, prefix: str) -> Sequence[str]:
        return [str(self.board.register(self.repository, f"{prefix}{place}", ("gpu",)).id) for place in range(30)]

    def deliveries(self) -> Sequence[Pair]:
        notes = self.board.notes(self._heard)
        self._heard = max([self._heard, *(number for number, _ in notes)])
        return [self.signed(({"Content-Type": "application/json"}, body.encode()), Signing.CURRENT) for _, body in notes]

    def repeated(self, pair: Pair) -> Pair:
        return pair

    def signed(self, pair: Pair, by: Signing) -> Pair:
        made = hmac.new(SECRETS[by].encode(), pair[1], hashlib.sha256).hexdigest()
        return {**pair[0], "X-Board-Signature": made}, pair[1]

    def lose(self) -> None:
        raise AssertionError("the board keeps no list of what it told")

    def program(self, credential: Credential) -> "Worker":
        return Worker(self.board, credential.environment[TOKEN].reveal())

    def token_of(self, minted: Minted) -> str:
        return minted.credential.environment[TOKEN].reveal()

    def labels_of(self, minted: Minted) -> frozenset[str]:
        desk = self.board.desk(int(minted.runner_id))
        return frozenset(desk.labels if desk is not None else ())

    def registered(self) -> Sequence[str]:
        return [desk.name for desk in self.board.desks(self.repository)]

    def asked(self) -> int:
        return self.board.asked

    def astray(self) -> int:
        raise AssertionError("the board sends nobody elsewhere")

    def spent(self) -> int:
        raise AssertionError("the board counts nobody's questions")

    def cause(self, fault: Fault) -> None:
        self.board.trouble = fault

    def mend(self) -> None:
        self.board.trouble = None


class Worker:
    """Somebody at a desk, as far as the board can tell."""

    def __init__(self, board: Board, token: str) -> None:
        self._board, self._token = board, token

    def take(self) -> str | None:
        slip = self._board.work(self._token)
        return None if slip is None else str(slip.id)

    def finish(self, key: str) -> None:
        self._board.done(self._token, "good")


@contextlib.contextmanager
def bench() -> Generator[CorkboardBench]:
    with tempfile.TemporaryDirectory(prefix="sublet-corkboard-") as folder:
        yield CorkboardBench(Path(folder))
