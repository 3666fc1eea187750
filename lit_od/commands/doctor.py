"""Show what is installed here, and what is missing for which command.

It prints versions, the processor, threads, execution providers, and a line for each extra of lit_od: installed, or the
pip line that installs it.

  lit-od doctor
  lit-od doctor --json > doctor.json
"""

import argparse
import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from lit_od.commands._arguments import add_json_argument, no_overrides, print_json
from lit_od.commands._status import DONE
from lit_od.errors import MissingExtra
from lit_od.formats.text import printable
from lit_od.images import heif
from lit_od.runtime.onnx_session import onnx_runtime
from lit_od.runtime.threads import available_threads
from lit_od.versions import __version__, versions

NEEDED = {
    "cpu": "every command that runs a graph (or gpu in its place)",
    "train": "train, export, reproduce, demo, and fit with a recipe that trains",
    "evaluate": "evaluate, report, benchmark, and pictures of compare and monitor",
    "serve": "serve",
    "video": "watch on videos, streams and cameras",
    "quantize": "quantize",
    "ray": "score and refit with --engine ray",
    "parquet": "Parquet tables, of images and of rows",
    "heif": "HEIC and HEIF images",
    "loggers": "trackers for training",
    "completion": "completion",
}
"""Commands by the extra that brings what they need."""

VARIABLES = ("OMP_NUM_THREADS", "LIT_OD_DATA", "CUDA_VISIBLE_DEVICES")
"""Variables of the environment that change what lit_od does."""

INSTRUCTIONS = {
    "avx2": ("avx2",),
    "avx512": ("avx512f",),
    "vnni": ("avx512_vnni", "avx_vnni"),
    "amx": ("amx_int8",),
}
"""Instructions of the processor that change speed, by the flags of Linux that tell of them."""

_REQUIREMENT = re.compile(r"^([\w.-]+)(?:\[([\w,.-]+)\])?\s*\(?([^;)]*)\)?(?:;.*\bextra == ['\"]([\w-]+)['\"])?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_json_argument(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Print what was found."""
    no_overrides(overrides)
    found = _found()
    if args.json:
        print_json(found)
        return DONE
    width = max(map(len, NEEDED))
    print(f"lit_od       {found['lit_od']}, Python {found['python']}, {found['system']}")
    print(printable(f"processor    {found['processor']}: {', '.join(found['instructions']) or 'no known extension'}"))
    print(f"threads      {found['threads']} of {found['cores']} cores may be used")
    print(f"providers    {', '.join(found['providers']) or 'none: ONNX Runtime is missing'}")
    print(f"packages     {', '.join(f'{name} {number}' for name, number in found['packages'].items())}")
    for name, value in found["environment"].items():
        print(printable(f"environment  {name}={value}"))
    print()
    for name, each in found["extras"].items():
        lacks = ", ".join(each["missing"])
        print(f"{name:{width}}  {f'missing {lacks}' if lacks else 'installed'}: {each['for']}")
        if lacks:
            print(f"{'':{width}}  {each['mend']}")
    return DONE


def _found() -> dict[str, Any]:
    """Return versions, processor, threads, providers and extras, for JSON."""
    wanted = _requirements()
    base = {name: number for name, _ in wanted.get("", []) if (number := _version(name))}
    others = {name: number for name, number in versions().items() if name not in ("python", "lit-od")}
    model, flags = _processor()
    return {
        "lit_od": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": model,
        "instructions": [name for name, names in INSTRUCTIONS.items() if flags & set(names)],
        "cores": os.cpu_count(),
        "threads": available_threads(),
        "providers": _providers(),
        "packages": base | others,
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "executable": sys.executable,
        "heif": heif.is_readable(),
        "extras": {name: _extra(name, wanted) for name in NEEDED if name in wanted},
    }


def _extra(name: str, wanted: dict[str, list[tuple[str, str]]]) -> dict[str, Any]:
    """Return an extra's purpose, its packages, and those missing or too old."""
    packages = {package: _version(package) for package, _ in wanted[name]}
    if name == "cpu" and not any(packages.values()):
        packages = {package: _version(package) for package, _ in wanted["gpu"]} or packages
    floors = dict(wanted[name])
    missing = [
        package if number is None else f"{package} {floors[package]} (has {number})"
        for package, number in packages.items()
        if number is None or (package in floors and _is_older(number, floors[package]))
    ]
    mend = name if name == "cpu" else f"{name},cpu"
    return {"for": NEEDED[name], "packages": packages, "missing": missing, "mend": f'pip install "lit-od[{mend}]"'}


def _requirements() -> dict[str, list[tuple[str, str]]]:
    """Return packages and their version specifiers by extra; "" is the base.

    Extras that an extra takes in are resolved.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    nested: list[tuple[str, str]] = []
    try:
        lines = requires("lit-od") or []
    except PackageNotFoundError:
        return {}
    for line in lines:
        if parts := _REQUIREMENT.match(line):
            name, extras, floor, extra = parts[1], parts[2], parts[3].strip(), parts[4] or ""
            if name.lower().replace("_", "-") == "lit-od":
                nested += [(extra, each) for each in (extras or "").split(",")]
            else:
                found.setdefault(extra, []).append((name, floor))
    for _ in nested:  # an extra that takes in another may itself be taken in
        for extra, inner in nested:
            own = found.setdefault(extra, [])
            own += [each for each in found.get(inner, []) if each not in own]
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _is_older(number: str, floor: str) -> bool:
    """Return True if a version lies below the least that a specifier names."""
    least = re.search(r"(?:>=|==)\s*([\d.]+)", floor)
    return least is not None and _parts(number) < _parts(least[1])


def _parts(number: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", number.split("+")[0])[:3])


def _providers() -> list[str]:
    try:
        names: list[str] = onnx_runtime().get_available_providers()
    except MissingExtra:
        return []
    return names


def _processor(file: Path = Path("/proc/cpuinfo")) -> tuple[str, set[str]]:
    """Return the processor's name and flags; only Linux tells the flags."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    values = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    return values.get("model name", platform.machine()), set(values.get("flags", "").split())
