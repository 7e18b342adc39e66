"""What vendors call a GPU is one name here."""

import pytest

from app.core.gpus import GpuNames


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("H100_SXM5", "h100"),
        ("h100-pcie", "h100"),
        ("GH200 480GB", "gh200"),
        ("NVIDIA-GB200-NVL72", "gb200"),
        ("VR200", "rubin"),
        ("Vera Rubin NVL144", "rubin"),
        ("NVIDIA R200", "rubin"),
        ("RTX PRO 6000", "rtx-pro-6000"),
        ("NVIDIA RTX A6000", "rtx-a6000"),
        ("A10G", "a10"),
        ("rubin", "rubin"),
        ("Trainium2", "trainium2"),
        ("", ""),
    ],
)
def test_a_vendors_word_is_known(text: str, name: str) -> None:
    assert GpuNames().canonical(text) == name


def test_a_site_adds_its_own_words_and_they_win() -> None:
    names = GpuNames({"rubin": ("R300 NVL",), "old": ("H100",)})
    assert names.canonical("NVIDIA R300 NVL 1.5TB") == "rubin"
    assert names.canonical("h100") == "old"
