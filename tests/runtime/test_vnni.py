"""Processors without VNNI are known by their flags; where nothing is known, nothing is said."""

import platform
from pathlib import Path

import pytest

from lit_od.runtime.vnni import lacks_vnni


@pytest.mark.parametrize(
    ("flags", "lacks"),
    [
        ("fpu avx2 avx512f", True),
        ("fpu avx2 avx512_vnni", False),
        ("fpu avx_vnni", False),
        (None, False),
    ],
)
def test_the_flags_tell(flags: str | None, lacks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    file = tmp_path / "cpuinfo"
    file.write_text("processor : 0\n" if flags is None else f"processor : 0\nflags\t\t: {flags}\n")
    assert lacks_vnni(file) is lacks
    assert lacks_vnni(tmp_path / "nowhere") is False
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert lacks_vnni(file) is False
