"""Print the distributions that an extra installs: version, wheel, size on disk.

    python scripts/bench/wheels.py [--extra cpu] [--extra evaluate] [--platform manylinux_2_28_aarch64] [--python 3.11]

It builds the package's wheel, lets pip install it with the extras, `cpu` unless others are named, from wheels alone
into a folder that is deleted afterwards, and prints a table and a JSON line. A distribution without a wheel for the
platform makes pip fail, and this with it. Bytecode, which Python writes when it first imports a module, counts apart.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Installed:
    """A distribution that pip installed.

    Attributes:
        name: Its name.
        version: Its version.
        wheel: File name of its wheel.
        size: Bytes on disk, without bytecode.
        bytecode: Bytes of bytecode.
    """

    name: str
    version: str
    wheel: str
    size: int
    bytecode: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", action="append", help="an extra of pyproject.toml (cpu)")
    parser.add_argument("--platform", help="a platform of wheels, manylinux_2_28_aarch64 for instance (this one)")
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}")
    args = parser.parse_args()
    extras = args.extra or ["cpu"]
    found = _installed(extras, args.platform, args.python)
    for each in sorted(found, key=lambda each: -each.size):
        print(f"{each.size / 1e6:8.1f} MB  {each.name} {each.version}  {each.wheel}")
    size, bytecode = sum(each.size for each in found), sum(each.bytecode for each in found)
    where = f"lit-od[{','.join(extras)}], {args.platform or sys.platform}, Python {args.python}"
    print(
        f"{size / 1e6:8.1f} MB  {len(found)} distributions of {where}; {bytecode / 1e6:.1f} MB of bytecode beside them"
    )
    versions = {each.name: each.version for each in found}
    print(json.dumps({"extras": extras, "versions": versions, "bytes": size, "bytecode": bytecode}))


def _installed(extras: list[str], platform: str | None, python: str) -> list[Installed]:
    """Return what pip installs for extras, measured."""
    with tempfile.TemporaryDirectory() as folder:
        target, report, pip = Path(folder) / "target", Path(folder) / "report.json", [sys.executable, "-m", "pip"]
        subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        words = ["--python-version", python, "--target", target, "--only-binary", ":all:", "--report", report]
        words += [word for name in _platforms(platform) for word in ("--platform", name)]
        subprocess.run([*pip, "install", "--quiet", *words, f"{wheel}[{','.join(extras)}]"], check=True)
        taken = json.loads(report.read_text())["install"]
        wheels = {each["metadata"]["name"]: _file_name(each["download_info"]["url"]) for each in taken}
        return [_measured(each, wheels) for each in distributions(path=[str(target)])]


def _platforms(platform: str | None) -> list[str]:
    """Return a platform and the older ones whose wheels it takes."""
    if platform is None or not platform.startswith("manylinux_2_"):
        return [platform] if platform else []
    return [platform, *(f"manylinux_2_{minor}_{platform.split('_', 3)[3]}" for minor in (17, 26, 27, 28))]


def _file_name(url: str) -> str:
    return unquote(Path(urlsplit(url).path).name)


def _measured(found: Distribution, wheels: dict[str, str]) -> Installed:
    sizes = {True: 0, False: 0}
    for file in found.files or []:
        path = Path(str(found.locate_file(file)))
        if path.is_file():  # scripts lie elsewhere in a target
            sizes[path.suffix == ".pyc"] += path.stat().st_size
    return Installed(found.name, found.version, wheels[found.name], sizes[False], sizes[True])


if __name__ == "__main__":
    main()
