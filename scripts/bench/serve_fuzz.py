"""Fuzz the interface of `lit-od serve` with schemathesis, on this machine alone.

    python scripts/bench/serve_fuzz.py BUNDLE... [--seconds 300] [--schemathesis PROGRAM]

The requests are made from /openapi.json, valid ones and broken ones: half the time for all addresses, half for those
that take images. Statuses are read from the server's /metrics: any of 500 or more but 503 is a failure, and so is an
answer that the description does not have. Prints requests by status; exit status 1 if there was a failure. The program
comes with `pip install schemathesis`, best into an environment that holds nothing else.
"""

import argparse
import http.client
import re
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

CHECKS = "status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance"
"""Answers are as described. The server's errors are counted by the server: to schemathesis 503 would be one too."""

ROUNDS = ([], ["--include-method", "POST", "--phases", "coverage,fuzzing", "--max-examples", "100000"])
"""Options of each round: all addresses, and in sequence; then those that take images, at length."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--schemathesis", default="schemathesis", help="the program")
    args = parser.parse_args()
    words = ["-m", "lit_od.cli", "serve", *args.bundles, "--port", "0", "--threads", "1"]
    server = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True)
    log: list[str] = []
    try:
        assert server.stderr is not None
        place = re.findall(r"http://\S+/", server.stderr.readline())[0]
        threading.Thread(target=log.extend, args=(server.stderr,), daemon=True).start()
        failed = 0
        for seed, more in enumerate(ROUNDS):
            command = [args.schemathesis, "run", f"{place}openapi.json", "--checks", CHECKS, "--seed", str(seed)]
            command += ["--max-time", str(args.seconds // len(ROUNDS)), "--warnings", "off", "--continue-on-failure"]
            told = subprocess.run([*command, *more], capture_output=True, text=True)
            if told.returncode:
                failed += 1
                print(told.stdout, told.stderr)
        found = statuses(place)
        alive = server.poll() is None
    finally:
        server.terminate()
        server.communicate()
    errors = {status: count for status, count in found.items() if status.startswith("5") and status != "503"}
    print(f"{sum(found.values()):,} requests in {args.seconds} s, by status: {dict(sorted(found.items()))}")
    print(f"errors of the server: {errors or 'none'}; rounds with an answer that is not as described: {failed}")
    print("".join(log), end="")
    sys.exit(bool(errors or failed or not alive))


def statuses(place: str) -> Counter[str]:
    """Return the number of requests by status."""
    parts = urlsplit(place)
    with closing(http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)) as connection:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "lit_od_requests_total":
                found[sample.labels["status"]] += int(sample.value)
    return found


if __name__ == "__main__":
    main()
