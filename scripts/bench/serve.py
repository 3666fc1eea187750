"""Compare `lit-od serve` with the scorer, and its addresses with each other.

    python scripts/bench/serve.py BUNDLE [--batch-size 32] [--runs 9] [--threads 2] [--connections 4]

Tensors: both sides score the same prepared images on the same cores. The scorer's side is what `lit-od bench` calls
throughput. Images go out and scores come back as binary tensors, over several connections at once and over one.

Files: the same PNG files go to POST /score, as a body or a form, and to the binary v2 protocol, one a request and a
batch a request, over several connections at once.

The server runs in a separate process, the client in this one. Prints medians of interleaved runs, the ratios to the
scorer, the 99th percentile of the requests' times, and a JSON line.
"""

import argparse
import http.client
import io
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

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
        place = re.findall(r"http://\S+/", server.stderr.readline())[0]
        requests = {"tensors": tensors(images, wanted)} | files(images, wanted)
        sides: dict[str, Callable[[], Run]] = {"scorer": lambda: run([lambda: scorer.score(images)], len(images))}
        sides |= {name: asked(place, each, args.connections) for name, each in requests.items()}
        sides["tensors, one connection"] = asked(place, requests["tensors"], 1)
        runs = [{name: side() for name, side in sides.items()} for _ in range(args.runs + 1)][1:]  # the first warms up
    finally:
        server.terminate()
        server.communicate()
    told: dict[str, dict[str, float]] = {}
    print(f"batch {args.batch_size}, {args.connections} connections, {args.runs} runs")
    for name in sides:
        rate = statistics.median(each[name].rate for each in runs)
        ratio = statistics.median(each[name].rate / each["scorer"].rate for each in runs)
        p99 = float(np.percentile(np.concatenate([each[name].seconds for each in runs]), 99))
        told[name] = {"images_per_s": rate, "ratio": ratio, "p99_ms": 1000 * p99}
        print(f"{name:32} {rate:9,.0f} images/s {ratio:7.3f} of the scorer   p99 {1000 * p99:8.2f} ms a request")
    print(json.dumps({"sides": told, "connections": args.connections, "batch": args.batch_size}))


@dataclass(frozen=True)
class Request:
    """A request that is sent again and again.

    Attributes:
        path: Its address.
        body: Its body.
        headers: Its headers.
        images: Number of its images.
        check: Checks an answer's headers and body.
    """

    path: str
    body: bytes
    headers: dict[str, str]
    images: int
    check: Callable[[http.client.HTTPResponse, bytes], None]


@dataclass(frozen=True)
class Run:
    """A run: images a second, and the seconds of each call."""

    rate: float
    seconds: np.ndarray


def infer(tensor: dict[str, object], data: bytes, wanted: np.ndarray) -> Request:
    """Make a request of the binary v2 protocol.

    Args:
        tensor: Name, type and shape of the input.
        data: Its bytes.
        wanted: Scores that must come back, (n,).
    """

    def check(answer: http.client.HTTPResponse, body: bytes) -> None:
        scores = np.frombuffer(body[int(answer.headers["Inference-Header-Content-Length"]) :], "<f8")
        np.testing.assert_allclose(scores, wanted, rtol=1e-12)

    output = {"name": "score", "parameters": {"binary_data": True}}
    inputs = [{**tensor, "parameters": {"binary_data_size": len(data)}}]
    head = json.dumps({"inputs": inputs, "outputs": [output]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    return Request("/v2/models/bench/infer", head + data, headers, len(wanted), check)


def tensors(images: np.ndarray, wanted: np.ndarray) -> Request:
    """Make a request with prepared images as a binary tensor."""
    return infer({"name": "images", "datatype": "UINT8", "shape": images.shape}, images.tobytes(), wanted)


def encoded(pngs: Sequence[bytes], wanted: np.ndarray) -> Request:
    """Make a request of the binary v2 protocol with image files."""
    data = b"".join(len(png).to_bytes(4, "little") + png for png in pngs)
    return infer({"name": "encoded", "datatype": "BYTES", "shape": [len(pngs)]}, data, wanted)


def upload(pngs: Sequence[bytes], wanted: np.ndarray, *, form: bool) -> Request:
    """Make a request to /score.

    Args:
        pngs: The files; without a form the first alone is sent.
        wanted: Scores that must come back, (n,).
        form: Send them as a form.
    """

    def check(answer: http.client.HTTPResponse, body: bytes) -> None:
        rows = json.loads(body)
        scores = [row["score"] for row in (rows if form else [rows])]
        np.testing.assert_allclose(scores, wanted, rtol=1e-12)

    if not form:
        return Request("/score", pngs[0], {"Content-Type": "image/png"}, 1, check)
    line = b'--cut\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\n\r\n'
    body = b"".join(line + png + b"\r\n" for png in pngs) + b"--cut--\r\n"
    return Request("/score", body, {"Content-Type": "multipart/form-data; boundary=cut"}, len(pngs), check)


def files(images: np.ndarray, wanted: np.ndarray) -> dict[str, Request]:
    """Make the requests with image files, by their names."""
    pngs = [_png(image) for image in images]
    return {
        "one file, POST /score": upload(pngs[:1], wanted[:1], form=False),
        "one file, binary v2": encoded(pngs[:1], wanted[:1]),
        "a batch of files, POST /score": upload(pngs, wanted, form=True),
        "a batch of files, binary v2": encoded(pngs, wanted),
    }


def asked(place: str, request: Request, connections: int) -> Callable[[], Run]:
    """Return a function that sends a request over several connections during a run.

    Args:
        place: Address of the server.
        request: The request.
        connections: Number of connections.
    """
    host, port = urlsplit(place).hostname, urlsplit(place).port
    clients = [http.client.HTTPConnection(str(host), port) for _ in range(connections)]

    def ask(connection: http.client.HTTPConnection) -> None:
        connection.request("POST", request.path, request.body, request.headers)
        answer = connection.getresponse()
        request.check(answer, answer.read())

    return lambda: run([lambda client=client: ask(client) for client in clients], request.images)


def run(calls: Sequence[Callable[[], object]], images: int) -> Run:
    """Repeat calls for SECONDS, all at once."""

    def repeat(call: Callable[[], object]) -> list[float]:
        times = [time.perf_counter()]
        while times[-1] < begun + SECONDS:
            call()
            times.append(time.perf_counter())
        return list(np.diff(times))

    with ThreadPoolExecutor(len(calls)) as pool:
        begun = time.perf_counter()
        seconds = [each for found in pool.map(repeat, calls) for each in found]
        return Run(len(seconds) * images / (time.perf_counter() - begun), np.array(seconds))


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
