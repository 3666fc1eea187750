"""Measure the peak memory of `lit-od score` over images and ten times as many.

    python scripts/bench/memory.py BUNDLE IMAGES [--count 3000] [--threads 2] [--maps] [--cut]

With --cut every file is cut in half, and so none can be read. The images repeat if the folder holds fewer. Prints the
peak resident sizes and a JSON line.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from lit_od.images.find_local import find
from lit_od.runtime.threads import available_threads

SCORE = """
import sys
from lit_od.cli import main
status = main(sys.argv[1:])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) / 1024)
sys.exit(status)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("images")
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--maps", action="store_true", help="draw heat maps too")
    parser.add_argument("--cut", action="store_true", help="score the first half of each file")
    args = parser.parse_args()
    names = [str(Path(source.name).absolute()) for source in find([args.images])]
    counts = (args.count, 10 * args.count)
    with tempfile.TemporaryDirectory() as folder:
        names = [_cut(name, Path(folder) / str(row)) for row, name in enumerate(names)] if args.cut else names
        peaks = [_peak(args.bundle, names, count, args.threads, maps=args.maps) for count in counts]
    print(
        f"peak memory for {counts[0]:,} images {peaks[0]:.0f} MB, for {counts[1]:,} images {peaks[1]:.0f} MB; "
        f"ratio {peaks[1] / peaks[0]:.3f}"
    )
    print(
        json.dumps(
            {"images": counts, "megabytes": peaks, "ratio": peaks[1] / peaks[0], "maps": args.maps, "cut": args.cut}
        )
    )


def _cut(name: str, folder: Path) -> str:
    """Write the first half of a file into a new folder, and return its path."""
    data = Path(name).read_bytes()
    folder.mkdir()
    (folder / Path(name).name).write_bytes(data[: len(data) // 2])
    return str(folder / Path(name).name)


def _peak(bundle: str, names: list[str], count: int, threads: int, *, maps: bool) -> float:
    """Return the peak resident megabytes of a process that scores `count` images."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "list.txt"
        listed.write_text("".join(f"{name}\n" for name in itertools.islice(itertools.cycle(names), count)))
        rows = Path(folder) / "rows.csv"
        words = ["score", bundle, str(listed), "--out", str(rows), "--threads", str(threads)]
        words += ["--maps", str(Path(folder) / "maps")] if maps else []
        done = subprocess.run([sys.executable, "-c", SCORE, *words], capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stderr  # 1: some images could not be read
        assert sum(1 for _ in rows.open()) == count + 1
    return float(done.stdout)


if __name__ == "__main__":
    main()
