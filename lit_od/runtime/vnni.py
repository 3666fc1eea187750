"""Instructions of the processor that add int8 products without saturation (VNNI)."""

import platform
from pathlib import Path

_X64 = ("x86_64", "amd64")


def lacks_vnni(processor: Path = Path("/proc/cpuinfo")) -> bool:
    """Return True if this is known to be an x64 processor without VNNI.

    Args:
        processor: File in which Linux describes the processor; elsewhere there is none, and nothing is known.
    """
    if platform.machine().lower() not in _X64:
        return False
    try:
        lines = processor.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return bool(flags) and not {"avx512_vnni", "avx_vnni"} & set(flags)
