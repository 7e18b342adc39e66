"""The logs of jobs: lines kept in memory, and in one file per job where the forge has a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

LINES = 10_000  # of one job; what comes after is counted, not kept
LINE_LENGTH = 4_000
JOBS = 300


class JobLogs:
    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._kept: dict[int, list[str]] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def append(self, job_id: int, first: int, lines: Sequence[str]) -> int:
        """Lines `first`, `first`+1, … of a job. Lines that are there already are passed over. Returns how many there are."""
        kept = self._load(job_id)
        lost = ["(lost)"] * min(LINES, max(0, first - len(kept)))  # a gap keeps its place, so that counting goes on
        fresh = lost + [" ".join(line[:LINE_LENGTH].splitlines()) for line in lines[max(0, len(kept) - first) :]]
        fresh = fresh[: max(0, LINES - len(kept))]
        kept.extend(fresh)
        if self._folder is not None and fresh:
            with self._file(self._folder, job_id).open("a", encoding="utf-8", errors="replace") as file:
                file.writelines(f"{line}\n" for line in fresh)
        return len(kept)

    def lines(self, job_id: int) -> list[str]:
        return list(self._load(job_id))

    def _load(self, job_id: int) -> list[str]:
        if job_id not in self._kept:
            path = self._file(self._folder, job_id) if self._folder is not None else None
            there = path is not None and path.is_file()
            self._kept[job_id] = path.read_text("utf-8", "replace").split("\n")[:-1] if path is not None and there else []
            for old in list(self._kept)[: max(0, len(self._kept) - JOBS)]:
                del self._kept[old]
        return self._kept[job_id]

    def _file(self, folder: Path, job_id: int) -> Path:
        return folder / f"job-{job_id}.log"
