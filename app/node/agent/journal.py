"""The node's log on its way to the service: cleaned, masked, numbered, bounded, and kept while the service is away."""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from typing import Any, Callable, Iterable, Iterator, NamedTuple

LONGEST_LINE = 4096
"""Characters of one line; what is longer is cut."""
MOST_LINES = 10_000
MOST_CHARACTERS = 4 << 20
RUNNER_LINES = 19_000
"""Of the 20,000 lines that the service keeps: the rest is for the agent's own, which come last."""
BATCH_LINES = 200
BATCH_BYTES = 200_000
"""Of one upload; the service takes 256 KiB."""
SHORTEST_SECRET = 8
MASK = "***"

ESCAPES = re.compile(
    "\x1b\\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    "|\x1b[\\]PX^_].*?(?:\x07|\x1b\\\\|$)"  # OSC and the other strings: titles, links
    "|\x1b[ -/]*[0-~]"  # two-letter escapes
)
CONTROLS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def clean(text: str) -> str:
    """One line without terminal escapes, control characters, line separators and direction changes. Tabs stay."""
    return CONTROLS.sub("", ESCAPES.sub("", text))


class Line(NamedTuple):
    seq: int
    moment: float  # monotonic
    source: str
    text: str


class Mask:
    """Covers the values of secrets, whole or line by line, should the runner ever print them."""

    def __init__(self) -> None:
        self._pattern: re.Pattern[str] | None = None
        self.longest = 0

    def learn(self, secrets: Iterable[str]) -> None:
        words: set[str] = set()
        for secret in secrets:
            words.update(_forms(secret))
        self.longest = max((len(word) for word in words), default=0)
        alternatives = sorted(words, key=lambda word: (-len(word), word))  # the longest first: a part must not win
        self._pattern = re.compile("|".join(map(re.escape, alternatives))) if alternatives else None

    def cover(self, text: str, most: int = LONGEST_LINE) -> str:
        """The first `most` characters, masked. A secret that begins within them is covered whole, never cut in two."""
        pieces: list[str] = []
        place = 0
        for found in self._pattern.finditer(text) if self._pattern is not None else ():
            if found.start() >= most:
                break
            pieces += [text[place : found.start()], MASK]
            place = found.end()
        pieces.append(text[place:most])
        return "".join(pieces) + (" …" if len(text) > most else "")


def _forms(secret: str) -> Iterator[str]:
    for line in secret.splitlines():
        word = clean(line).strip()
        if len(word) >= SHORTEST_SECRET:
            yield word
    if "\n" in secret:  # a settings file: the token inside it may be printed without its line
        yield from (word for word in re.findall(r"[A-Za-z0-9_+=.-]{20,}", secret) if re.search("[0-9]", word))


class Journal:
    """Any thread may write; one thread uploads. When it is full the oldest lines go, and a line says how many."""

    def __init__(self, moment: Callable[[], float], echo: Callable[[str], None] = lambda text: None) -> None:
        self.mask = Mask()
        self._moment, self._echo = moment, echo
        self._lines: deque[Line] = deque()
        self._characters = self._next = 0
        self._full = False
        self._lost = 0  # lines that fell out and that no uploaded note tells of yet
        self._last_lost: Line | None = None
        self._noted = (0, 0)  # number of the note in the last batch, and how many lines it tells of
        self._lock = threading.Lock()
        self.filled = threading.Event()

    def say(self, text: str) -> None:
        """A line of the agent itself; it is on the machine's console too."""
        self.add("agent", text)
        self._echo(self.mask.cover(clean(text)))

    def add(self, source: str, text: str) -> None:
        kept = self.mask.cover(clean(text))
        if not kept.strip():
            return
        with self._lock:
            if source == "runner" and self._next >= RUNNER_LINES:
                if self._full:
                    return
                self._full, source, kept = True, "agent", "the runner has written too much: what follows is not kept"
            self._next += 1
            self._lines.append(Line(self._next, self._moment(), source, kept))
            self._characters += len(kept)
            while len(self._lines) > MOST_LINES or self._characters > MOST_CHARACTERS:
                self._last_lost = self._lines.popleft()
                self._characters -= len(self._last_lost.text)
                self._lost += 1
        self.filled.set()

    def batch(self) -> list[Line]:
        """The oldest lines, as many as fit into one upload. They stay until `sent`."""
        with self._lock:
            self.filled.clear()
            chosen: list[Line] = []
            if self._lost and self._last_lost is not None:  # the note takes the number of the last line that it stands for
                text = f"{self._lost} lines were lost here, because the service was away"
                chosen.append(Line(self._last_lost.seq, self._last_lost.moment, "agent", text))
                self._noted = (self._last_lost.seq, self._lost)
            room = BATCH_BYTES
            for line in self._lines:
                weight = 100 + len(json.dumps(line.text))
                if chosen and (len(chosen) >= BATCH_LINES or weight > room):
                    break
                chosen.append(line)
                room -= weight
            return chosen

    def sent(self, lines: list[Line]) -> None:
        """Forget what the service has."""
        done = {line.seq for line in lines}
        with self._lock:
            if self._noted[0] in done:
                self._lost -= self._noted[1]
                self._noted = (0, 0)
            while self._lines and self._lines[0].seq in done:
                self._characters -= len(self._lines.popleft().text)

    @property
    def empty(self) -> bool:
        with self._lock:
            return not self._lines and not self._lost


class Splitter:
    """Bytes of a runner to lines, without ever holding more than one capped line."""

    def __init__(self, line: Callable[[str], None], mask: Mask) -> None:
        self._line, self._mask = line, mask
        self._rest = b""
        self._cut = False

    def feed(self, data: bytes) -> None:
        pieces = re.split(rb"\r\n|\n|\r(?=[^\n])", self._rest + data)
        self._rest = pieces.pop()
        for piece in pieces:
            self._give(piece)
        room = 4 * (LONGEST_LINE + self._mask.longest)  # four bytes a character at most
        if len(self._rest) > room:
            self._give(self._rest)
            self._rest, self._cut = b"", True

    def end(self) -> None:
        if self._rest:
            self._give(self._rest)
            self._rest = b""

    def _give(self, piece: bytes) -> None:
        cut, self._cut = self._cut, False
        if not cut:  # else: the tail of a line that was given already
            self._line(piece.decode("utf-8", "replace"))


def upload(lines: list[Line], at: Callable[[float], str]) -> dict[str, Any]:
    return {"lines": [{"seq": line.seq, "at": at(line.moment), "source": line.source, "line": line.text} for line in lines]}
