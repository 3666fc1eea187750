"""Prove `lit-od watch`: kills, streams that break off, memory, and speed.

    python scripts/bench/watch.py restarts BUNDLE [--files 10000] [--kills 20] [--poll SECONDS]
    python scripts/bench/watch.py streams BUNDLE [--seconds 10]
    python scripts/bench/watch.py memory BUNDLE [--frames 100000] [--live] [--maps]
    python scripts/bench/watch.py speed BUNDLE [--frames 2000] [--size 640x480] [--runs 7] [--threads 2]

restarts: files are written while the watch is killed (SIGKILL) at random moments and started again; at the end each
has exactly one row, and its score. streams: FFmpeg writes an H.264 file and serves the same by HTTP on this machine,
whole, and live, broken off and served again. memory: the resident memory of a watch over many tiny frames, of a
file or (--live) of a stream. speed: frames a second of a video file beside decoding alone, medians of interleaved
runs. BUNDLE takes any image; exported/mnist-digits does. Each prints a JSON line.
"""

import argparse
import collections
import contextlib
import csv
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from lit_od import Scorer
from lit_od.images.camera import VideoFile
from lit_od.images.find_local import find
from lit_od.images.video_place import Every, VideoPlace
from lit_od.operations.row_log import rows_of
from lit_od.operations.watch import FRAME_COLUMNS, Watch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("proof", choices=list(PROOFS))
    parser.add_argument("bundle")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--poll", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--frames", type=int)
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--maps", action="store_true")
    parser.add_argument("--live", action="store_true")
    args = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(PROOFS[args.proof](args, Path(folder))))


def started(args: argparse.Namespace, source: object, out: Path, *words: object) -> subprocess.Popen[str]:
    """Start a watch.

    Args:
        args: Arguments of the bench.
        source: The source.
        out: File of the rows.
        words: Further arguments.
    """
    line = ["-m", "lit_od.cli", "watch", args.bundle, source, "--out", out, "--threads", args.threads, *words]
    return subprocess.Popen([sys.executable, *map(str, line)], stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> list[str]:
    """Stop a watch in order, and return what it has printed."""
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 0, err
    return err.splitlines()


def rows_in(file: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file."""
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines, strict=True))


def restarts(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Kill the watch again and again while files are written."""
    import lit_od

    images = find([str(Path(lit_od.__file__).parent / "assets" / "digits.npz:test_images")])
    draw = random.Random(args.seed)
    incoming, out = folder / "in", folder / "rows.csv"
    incoming.mkdir()
    written, over = [0], threading.Event()
    lives = [draw.uniform(0, 6) for _ in range(args.kills)]
    pause = (sum(lives) + 3 * args.kills) / args.files

    def write() -> None:
        for number in range(args.files):
            image = images[number % len(images)].decode()
            path = incoming / f"{number:06}.png"
            image.save(folder / "whole.png")
            data = (folder / "whole.png").read_bytes()
            with path.open("wb") as file:  # in two parts, with a pause now and then
                file.write(data[:100])
                file.flush()
                if number % 50 == 0:
                    time.sleep(0.05)
                file.write(data[100:])
            written[0] = number + 1
            time.sleep(pause * draw.random())
        over.set()

    writer = threading.Thread(target=write)
    began = time.perf_counter()
    writer.start()
    words = ["--settle", 0.5, *(["--poll", args.poll] if args.poll else [])]
    counts = []
    for number, life in enumerate(lives):
        process = started(args, incoming, out, *words)
        assert process.stderr is not None
        if number % 5:  # else it may be killed before it has begun
            process.stderr.readline()
        time.sleep(life)
        process.kill()
        process.communicate()
        counts.append(out.read_bytes().count(b"\n") if out.exists() else 0)
    process = started(args, incoming, out, *words)
    writer.join()
    end = time.monotonic() + 120
    while out.read_bytes().count(b"\n") <= args.files and time.monotonic() < end:
        time.sleep(0.2)
    print("\n".join(ended(process)))
    took = time.perf_counter() - began
    times = collections.Counter(row["path"] for row in rows_in(out))
    names = [str(incoming / f"{number:06}.png") for number in range(args.files)]
    lost, doubled = [name for name in names if not times[name]], [name for name in times if times[name] > 1]
    scores = {row["path"]: float(row["score"]) for row in rows_in(out) if row["score"]}
    wanted = Scorer.load(args.bundle).score(names).score
    far = max(abs(scores[name] - score) for name, score in zip(names, wanted, strict=True) if name in scores)
    growing = sum(later > earlier for earlier, later in itertools.pairwise([0, *counts]))
    print(
        f"{args.files:,} files in {took:.0f} s, killed {args.kills} times and started {args.kills + 1} times, with new "
        f"rows in {growing} of {args.kills} lives: {len(lost)} lost, {len(doubled)} doubled, "
        f"{len(times.keys() - set(names))} unknown, largest difference of a score {far:.1e}"
    )
    return {"files": args.files, "kills": args.kills, "lost": len(lost), "doubled": len(doubled), "seconds": took}


def ffmpeg(*words: object) -> list[str]:
    """Return FFmpeg's command line."""
    return ["ffmpeg", "-loglevel", "error", "-y", *map(str, words)]


def picture(size: str, seconds: float) -> list[object]:
    """Return the words that make FFmpeg draw a moving test picture."""
    return ["-f", "lavfi", "-i", f"testsrc=size={size}:rate=25:duration={seconds}", "-pix_fmt", "yuv420p"]


def free_port() -> int:
    """Return a port that nothing listens to."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def listening(port: int) -> None:
    """Wait for the server."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)


H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "25"]


def streams(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Watch an H.264 file, the same by HTTP, and a live stream that breaks off twice."""
    port = free_port()
    film, url = folder / "film.mp4", f"http://127.0.0.1:{port}/film"
    subprocess.run(ffmpeg(*picture(args.size, args.seconds), *H264, "-movflags", "+faststart", film), check=True)
    found: dict[str, object] = {}
    serve = [sys.executable, "-m", "http.server", str(port), "-b", "127.0.0.1"]
    for name, source in (("file", film), ("http", f"{url}.mp4")):
        server = subprocess.Popen(serve, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        listening(port)
        process = started(args, source, folder / f"{name}.csv")
        _, err = process.communicate()
        server.kill()
        server.wait()
        assert process.returncode == 0, err
        rows = rows_in(folder / f"{name}.csv")
        assert [int(row["frame"]) for row in rows] == list(range(25 * args.seconds)), err
        print(f"{name}: {err.splitlines()[-1]}")
        found[name] = len(rows)
    same = all(
        abs(float(one["score"]) - float(other["score"])) < 1e-6
        for one, other in zip(rows_in(folder / "file.csv"), rows_in(folder / "http.csv"), strict=True)
    )
    live = ["-re", *picture(args.size, args.seconds), *H264, "-f", "mpegts", "-listen", "1", url]
    server = subprocess.Popen(ffmpeg(*live))
    time.sleep(3)  # it serves the first that connects, and nobody else
    process = started(args, url, folder / "live.csv")
    assert process.stderr is not None
    print(process.stderr.readline().rstrip())
    for _ in range(2):
        time.sleep(0.6 * args.seconds)
        server.kill()  # it breaks off
        server.wait()
        time.sleep(1.5)
        server = subprocess.Popen(ffmpeg(*live))
    time.sleep(args.seconds)
    server.kill()
    server.wait()
    print("\n".join(lines := ended(process)))
    numbers = [int(row["frame"]) for row in rows_in(folder / "live.csv")]
    assert numbers == sorted(set(numbers))
    dropped = int(re.findall(r"([\d,]+) dropped", lines[-1])[0].replace(",", ""))
    found |= {"same_scores": same, "live": len(numbers), "dropped": dropped, "breaks": lines[-1].split()[-2]}
    return found


def memory(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Watch the resident memory over many tiny frames."""
    count = args.frames or 100_000
    words = [*picture("64x48", count / 25), "-c:v", "mpeg4", "-q:v", "8", "-f", "mpegts"]
    maps = ["--maps", folder / "maps", "--outliers-only"] if args.maps else []
    source: object = folder / "film.ts"
    server = None
    if args.live:
        source = f"http://127.0.0.1:{free_port()}/live"
        server = subprocess.Popen(ffmpeg(*words, "-listen", "1", source))
        time.sleep(3)
    else:
        subprocess.run(ffmpeg(*words, source), check=True)
    process = started(args, source, folder / "rows.csv", *maps)
    seen: list[float] = []
    while (server or process).poll() is None:
        time.sleep(0.5)
        status = Path(f"/proc/{process.pid}/status")
        resident = re.findall(r"VmRSS:\s+(\d+)", status.read_text()) if status.exists() else []
        if resident and (folder / "rows.csv").exists():
            seen.append(int(resident[0]) / 1024)
    lines = ended(process) if server else process.communicate()[1].splitlines()
    rows = (folder / "rows.csv").read_bytes().count(b"\n") - 1
    parts = [round(statistics.median(part)) for part in np.array_split(seen[2:], 10) if len(part)]
    print(f"{lines[-1]}\nMiB resident in each tenth of the time: {parts}")
    return {"frames": count, "rows": rows, "mib": parts}


def speed(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Compare frames a second with decoding alone."""
    count = args.frames or 2000
    film = folder / "film.mp4"
    subprocess.run(ffmpeg(*picture(args.size, count / 25), "-c:v", "libx264", "-preset", "fast", film), check=True)
    scorer = Scorer.load(args.bundle, threads=args.threads)
    place, stop = VideoPlace.of(str(film)), threading.Event()
    number = iter(range(10**6))

    def frames() -> Iterator[object]:
        return VideoFile(place, Every(), threads=args.threads).frames(stop, lambda key, version: False)

    def decode() -> None:
        VideoFile(place, Every(), threads=args.threads)
        skipping = VideoFile(place, Every(10**9), threads=args.threads)
        collections.deque(skipping.frames(stop, lambda key, version: False), maxlen=0)

    def convert() -> None:
        collections.deque(frames(), maxlen=0)

    def watch() -> None:
        with rows_of(str(folder / f"{next(number)}.csv"), "csv", FRAME_COLUMNS, frames=True) as rows:
            Watch(scorer, rows, FRAME_COLUMNS).run([frames()], stop, batch_size=8)
            assert rows.count == count

    pixels = np.stack([frame.pixels for frame, _ in zip(frames(), range(64), strict=False)])

    def score() -> None:
        for start in range(0, count, 64):
            scorer.score(list(pixels[: min(64, count - start)]))

    sides: dict[str, Callable[[], None]] = {"decode": decode, "to_rgb": convert, "score": score, "watch": watch}
    runs = []
    for _ in range(args.runs + 1):
        taken = {}
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            taken[name] = time.perf_counter() - began
        runs.append(taken)
    rates = {name: count / statistics.median(run[name] for run in runs[1:]) for name in sides}
    ratio = statistics.median(run["decode"] / run["watch"] for run in runs[1:])
    print(
        f"{count:,} frames of {args.size}, H.264: decoding alone {rates['decode']:,.0f} frames/s, with RGB pixels "
        f"{rates['to_rgb']:,.0f}; scoring alone {rates['score']:,.0f}; watch {rates['watch']:,.0f}, {ratio:.2f} of "
        f"decoding alone; {args.threads} threads, {args.runs} runs"
    )
    return {"frames_per_s": {name: round(rate) for name, rate in rates.items()}, "ratio": ratio}


PROOFS: dict[str, Callable[[argparse.Namespace, Path], dict[str, object]]] = {
    "restarts": restarts,
    "streams": streams,
    "memory": memory,
    "speed": speed,
}

if __name__ == "__main__":
    if shutil.which("ffmpeg") is None and "restarts" not in sys.argv:
        sys.exit("this needs ffmpeg: apt-get install ffmpeg")
    main()
