"""Replace a served bundle again and again under load, and count what fails.

    python scripts/bench/serve_reload.py BUNDLE [--times 100] [--clients 3] [--threads 1]

Each time another threshold is written in one step in place of the old bundle, and the next one once the server has
taken it up (/metrics). Every tenth time the bundle is damaged instead, which the server must refuse. Clients post an
image to /score, and to the v2 protocol, all the while; each answer must be 200 and hold a score. Prints requests,
failures, reloads, and the server's memory before, half way and after.
"""

import argparse
import http.client
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from lit_od import Scorer

EVERY_BAD = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(shutil.copytree(args.bundle, Path(folder) / "bundle"))
        words = ["-m", "lit_od.cli", "serve", str(bundle), "--port", "0", "--threads", str(args.threads)]
        server = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True)
        try:
            replace(server, bundle, args.times, args.clients)
        finally:
            server.terminate()
            server.communicate()


def replace(server: "subprocess.Popen[str]", bundle: Path, times: int, count: int) -> None:
    """Replace the bundle under load, and print what came of it.

    Args:
        server: The server.
        bundle: The bundle that it serves.
        times: Number of replacements.
        count: Number of clients.
    """
    assert server.stderr is not None
    place = urlsplit(re.findall(r"http://\S+/", server.stderr.readline())[0])
    threading.Thread(target=server.stderr.read, daemon=True).start()
    address = str(place.hostname), int(place.port or 0)
    before, begun, ended = metrics(address), time.perf_counter(), threading.Event()
    with ThreadPoolExecutor(count) as pool:
        clients = [pool.submit(ask, address, bundle, ended) for _ in range(count)]
        try:
            middle = {}
            for turn in range(1, times + 1):
                turned(address, bundle, bad=turn % EVERY_BAD == 0)
                if turn == times // 2:
                    middle = metrics(address)
        finally:
            ended.set()
        found = sum((client.result() for client in clients), Counter())
    after, seconds = metrics(address), time.perf_counter() - begun
    good = found.pop("200", 0)
    print(f"{good:,} requests answered 200 in {seconds:.0f} s, failed: {dict(found) or 'none'}")
    done, refused = (after[f"lit_od_bundle_reloads_total {each}"] for each in ("done", "refused"))
    print(f"{times} times replaced: {done:.0f} taken up, {refused:.0f} bad ones refused")
    memory = [each["process_resident_memory_bytes "] / 1e6 for each in (before, middle, after)]
    print("server's memory: {:.0f} MB before, {:.0f} half way, {:.0f} after".format(*memory))
    sys.exit(bool(found) or done + refused != times)


def turned(address: tuple[str, int], bundle: Path, *, bad: bool) -> None:
    """Replace the bundle, and wait until the server has noticed.

    Args:
        address: Host and port of the server.
        bundle: The bundle.
        bad: Damage it instead, and mend it once it is refused.
    """
    name = "refused" if bad else "done"
    before = metrics(address)[f"lit_od_bundle_reloads_total {name}"]
    damaged = bundle / "detector.safetensors"
    if bad:
        kept = damaged.read_bytes()
        damaged.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    else:
        value = str(np.random.default_rng().uniform(-1, 1))
        words = ["-m", "lit_od.cli", "threshold", str(bundle), f"--value={value}"]
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    while metrics(address)[f"lit_od_bundle_reloads_total {name}"] == before:
        time.sleep(0.05)
    if bad:
        damaged.write_bytes(kept)


def ask(address: tuple[str, int], bundle: Path, ended: threading.Event) -> Counter[str]:
    """Post an image until the end.

    Args:
        address: Host and port of the server.
        bundle: The bundle.
        ended: Set at the end.

    Returns:
        Numbers of answers by status, or by their fault.
    """
    shape = Scorer.load(bundle, threads=1).preparation.shape
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if shape[-1] == 1 else pixels).save(file, "PNG")
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, *shape], "data": pixels.ravel().tolist()}
    requests = {
        "/score": (file.getvalue(), "image/png"),
        "/v2/models/bundle/infer": (json.dumps({"inputs": [tensor]}).encode(), "application/json"),
    }
    found: Counter[str] = Counter()
    while not ended.is_set():
        for path, (body, kind) in requests.items():
            with closing(http.client.HTTPConnection(*address, timeout=30)) as connection:
                try:
                    connection.request("POST", path, body, {"content-type": kind})
                    answer = connection.getresponse()
                    whole = json.loads(answer.read())
                except (OSError, http.client.HTTPException, ValueError) as error:
                    found[type(error).__name__] += 1
                    continue
            scored = ("error" in whole and whole["error"] is None) or "outputs" in whole
            found[str(answer.status) if scored else f"no score: {whole}"] += 1
    return found


def metrics(address: tuple[str, int]) -> dict[str, float]:
    """Return samples by name, and result where they have one."""
    with closing(http.client.HTTPConnection(*address, timeout=30)) as connection:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    return {
        f"{sample.name} {sample.labels.get('result', '')}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


if __name__ == "__main__":
    main()
