"""What vendors call a GPU -> one name for it. An open table: users add lines, and an unknown name stays as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping

ALIASES: Mapping[str, tuple[str, ...]] = {
    # Rubin has no settled name yet: R100, R200 and VR200 are all in use (NVIDIA/attestation-sdk#30, ovh roadmap #1208).
    "rubin": ("rubin", "vera rubin", "r100", "r200", "vr100", "vr200", "rubin cpx"),
    "gb300": ("gb300",),
    "gb200": ("gb200",),
    "b300": ("b300",),
    "b200": ("b200",),
    "b100": ("b100",),
    "gh200": ("gh200",),
    "h200": ("h200",),
    "h100": ("h100",),
    "h20": ("h20",),
    "a100": ("a100",),
    "a10": ("a10", "a10g"),
    "a30": ("a30",),
    "a40": ("a40",),
    "l40s": ("l40s",),
    "l40": ("l40",),
    "l4": ("l4",),
    "t4": ("t4", "t4g"),
    "v100": ("v100",),
    "rtx-pro-6000": ("rtx pro 6000", "rtx6000 pro"),
    "rtx-6000-ada": ("rtx 6000 ada", "rtx6000ada", "rtx6000 ada"),
    "rtx-a6000": ("rtx a6000", "a6000"),
    "rtx-5090": ("rtx 5090", "rtx5090"),
    "rtx-4090": ("rtx 4090", "rtx4090"),
    "rtx-3090": ("rtx 3090", "rtx3090"),
}
"""Name in Sublet -> the words that vendors use. The longest word that is found counts, so `h100` never stands for `gh100`."""

ARCHITECTURES: Mapping[str, str] = {
    "rubin": "Rubin",
    "gb300": "Blackwell",
    "gb200": "Blackwell",
    "b300": "Blackwell",
    "b200": "Blackwell",
    "b100": "Blackwell",
    "gh200": "Hopper",
    "h200": "Hopper",
    "h100": "Hopper",
    "h20": "Hopper",
    "l40s": "Ada Lovelace",
    "l40": "Ada Lovelace",
    "l4": "Ada Lovelace",
    "a100": "Ampere",
}
"""What NVML must say on the node: an offer's name alone proves nothing."""


class GpuNames:
    """The built-in aliases and a site's own, which win."""

    def __init__(self, own: Mapping[str, tuple[str, ...]] | None = None) -> None:
        table = {plain(word): name for name, words in ALIASES.items() for word in (name, *words)}
        table |= {plain(word): name.lower() for name, words in (own or {}).items() for word in (name, *words)}
        self._table = {word: name for word, name in table.items() if word}
        self._longest_first = sorted(self._table, key=lambda word: (-len(word), word))

    def canonical(self, text: str) -> str:
        """Our name of the GPU that a vendor, a pool or a label calls so; an unknown one in lower case, as it is."""
        words = plain(text)
        exact = self._table.get(words)
        if exact is not None:
            return exact
        spaced = f" {words} "
        return next((self._table[word] for word in self._longest_first if f" {word} " in spaced), text.strip().lower())


def plain(text: str) -> str:
    """`NVIDIA_H100-80GB HBM3` -> `nvidia h100 80gb hbm3`."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))
