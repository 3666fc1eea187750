"""Compare `lit-od serve` over HTTP with the scorer in one process.

Both score the same prepared images on the same cores.

    python scripts/bench/serve.py BUNDLE [--batch-size 32] [--runs 9] [--threads 2] [--connections 4]

The scorer's side is what `lit-od bench` calls throughput. The server runs in a separate process, the
client in this one; images go out and scores come back as binary tensors, over several connections at once
and over a single one. Prints medians of interleaved runs, the ratios to the scorer, and a JSON line.
"""

import argparse
import http.client
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lit_od import Scorer

SECONDS = 1.0
"""Length of one run of each side."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--connections", type=int, default=4)
    args = parser.parse_args()
    scorer = Scorer.load(args.bundle, threads=args.threads)
    images = np.random.default_rng(0).integers(0, 256, (args.batch_size, *scorer.preparation.shape), dtype=np.uint8)
    wanted = scorer.score(images).score
    words = ["-m", "lit_od.cli", "serve", f"bench={args.bundle}", "--port", "0", "--threads", str(args.threads)]
    server = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        host, port = re.findall(r"http://(.*):(\d+)/", server.stderr.readline())[0]
        clients = [Client(host, int(port), images, wanted) for _ in range(args.connections)]
        sides = (
            lambda: _rate([lambda: scorer.score(images)], args.batch_size),
            lambda: _rate([client.ask for client in clients], args.batch_size),
            lambda: _rate([clients[0].ask], args.batch_size),
        )
        runs = [[side() for side in sides] for _ in range(args.runs + 1)][1:]  # the first warms up
    finally:
        server.terminate()
        server.communicate()
    direct, served, single = (statistics.median(run[side] for run in runs) for side in range(3))
    ratio, ratio_single = (statistics.median(run[side] / run[0] for run in runs) for side in (1, 2))
    print(
        f"scorer {direct:,.0f} images/s; served {served:,.0f} images/s over {args.connections} connections "
        f"({ratio:.3f}), {single:,.0f} over one ({ratio_single:.3f}); batch {args.batch_size}"
    )
    rates = {"images_per_s": direct, "served_images_per_s": served}
    ratios = {"ratio": ratio, "ratio_one_connection": ratio_single}
    print(json.dumps({**rates, **ratios, "connections": args.connections, "batch": args.batch_size}))


class Client:
    """A client that sends one batch repeatedly and checks the scores."""

    def __init__(self, host: str, port: int, images: np.ndarray, wanted: np.ndarray) -> None:
        """Connect, and prepare the request.

        Args:
            host: Name of the server.
            port: Its port.
            images: Prepared images, (n, h, w, c) uint8.
            wanted: Scores that must come back, (n,).
        """
        self._connection = http.client.HTTPConnection(host, port)
        self._wanted = wanted
        tensor = {"name": "images", "datatype": "UINT8", "shape": images.shape}
        output = {"name": "score", "parameters": {"binary_data": True}}
        request = {"inputs": [{**tensor, "parameters": {"binary_data_size": images.nbytes}}], "outputs": [output]}
        head = json.dumps(request).encode()
        self._body = head + images.tobytes()
        self._headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}

    def ask(self) -> None:
        """Send the batch and check the scores."""
        self._connection.request("POST", "/v2/models/bench/infer", self._body, self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        scores = np.frombuffer(body[int(answer.headers["Inference-Header-Content-Length"]) :], "<f8")
        np.testing.assert_allclose(scores, self._wanted, rtol=1e-12)


def _rate(calls: list[Callable[[], object]], batch: int) -> float:
    """Return the images a second of calls repeated for SECONDS, all at once."""

    def repeat(call: Callable[[], object]) -> int:
        done = 0
        while time.perf_counter() < begun + SECONDS:
            call()
            done += 1
        return done

    with ThreadPoolExecutor(len(calls)) as pool:
        begun = time.perf_counter()
        done = sum(pool.map(repeat, calls))
        return done * batch / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
