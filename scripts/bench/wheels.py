"""Check that every distribution of the scorer has a wheel for a platform.

    python scripts/bench/wheels.py [--platform manylinux_2_28_aarch64] [--python 3.11]

Resolves the base dependencies and the extra `cpu` with pip, installs nothing, and prints a table and a
JSON line. A distribution without a wheel for the platform makes pip fail, and this with it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--platform", default="manylinux_2_28_aarch64")
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}")
    args = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["cpu"]]
    wheels = [
        (unquote(Path(urlsplit(url).path).name), _size(url)) for url in _resolve(wanted, args.platform, args.python)
    ]
    for name, size in sorted(wheels):
        print(f"{size / 1e6:8.1f} MB  {name}")
    total = sum(size for _, size in wheels)
    print(f"{total / 1e6:8.1f} MB  {len(wheels)} wheels for {args.platform}, Python {args.python}")
    print(json.dumps({"platform": args.platform, "wheels": dict(wheels), "bytes": total}))


def _resolve(wanted: list[str], platform: str, python: str) -> list[str]:
    """Return the addresses of the wheels that pip would install."""
    oldest = [f"manylinux_2_{minor}_{platform.split('_', 3)[3]}" for minor in (17, 26, 27, 28)]
    platforms = [platform, *oldest] if platform.startswith("manylinux_2_") else [platform]
    with tempfile.TemporaryDirectory() as folder:
        words = [word for name in platforms for word in ("--platform", name)]
        words += ["--python-version", python, "--target", folder, "--only-binary", ":all:"]
        report = Path(folder) / "report.json"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*pip, "--report", report, *words, *wanted], check=True)
        return [each["download_info"]["url"] for each in json.loads(report.read_text())["install"]]


def _size(url: str) -> int:
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD")) as answer:
        return int(answer.headers["Content-Length"])


if __name__ == "__main__":
    main()
