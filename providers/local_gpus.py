"""This machine's NVIDIA GPUs as nvidia-smi tells them, shared out among the slots of the `local` provider."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

ASK = ("--query-gpu=uuid,name,memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True, slots=True)
class Gpu:
    uuid: str
    name: str  # "NVIDIA H100 80GB HBM3": an open string
    memory_gib: int


def find_gpus() -> tuple[tuple[Gpu, ...], str]:
    """The GPUs, and a sentence when there are none. Takes up to 10 s where a driver hangs."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return (), "nvidia-smi is not installed"
    try:
        answer = subprocess.run([program, *ASK], capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
        return tuple(_read(line) for line in answer.stdout.splitlines() if line.strip()), "nvidia-smi lists no GPU"
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return (), f"nvidia-smi could not be asked: {type(error).__name__}"


def _read(line: str) -> Gpu:
    uuid, name, memory = (part.strip() for part in line.split(","))
    return Gpu(uuid, name, int(float(memory)) // 1024)


def share(gpus: Sequence[Gpu], slot: int, slots: int) -> tuple[Gpu, ...]:
    """The GPUs of one slot (1 is the first): an even share each, and one for the first slots if there are fewer."""
    each = max(1, len(gpus) // slots)
    return tuple(gpus[(slot - 1) * each : slot * each])
