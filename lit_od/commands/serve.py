"""Serve bundles: a page to drop images on, and an HTTP interface for programs.

Both are at the address that is printed, by default for this machine alone:

  curl --data-binary @image.jpg http://127.0.0.1:8000/score      one image, its row as JSON
  curl -F file=@a.jpg -F file=@b.jpg http://127.0.0.1:8000/score  several, a list of rows

Of several bundles, /score?model=NAME names one. NAME is the bundle's folder, or what stands before it: NAME=BUNDLE.
/docs and /openapi.json describe all addresses, /metrics is for Prometheus, /health/ready is 200 once the bundles are
loaded. POST /v2/models/NAME/infer is the Open Inference Protocol, version 2, with binary tensors: it takes `images`,
UINT8 (n, h, w, c), or `encoded`, BYTES (n), image files (base64 where they are in the JSON), and gives score, p_value,
is_outlier and error; clients written for it work unchanged. By name it also gives `map`, a picture; and, where the
detector has maps, `regions`, JSON with box, area, peak and place in the image's own pixels, and `raw`, the map's
values, FP32 in binary form.

A bundle that is replaced on disk is taken up within seconds, once its files and golden images are checked; a bad one
is refused, and the old one goes on answering. SIGTERM or Ctrl-C lets requests finish.

There is no encryption, and no password unless --token-file names a file with a token, which requests then must carry
(Authorization: Bearer TOKEN), but for health, /docs and the page itself. --host 0.0.0.0 opens the address to the
network; --allow-host names the server where it is asked under a name other than localhost.

--normal PATH... shows the normal images that a picture resembles most, by the distance of their features,
or of their pixels where a bundle's graph gives no features.

  lit-od serve BUNDLE
  lit-od serve pills=BUNDLE --port 9000 --normal good/
"""

import argparse
from collections.abc import Sequence

from lit_od.bundle.model_file import open_bundle
from lit_od.commands._arguments import (
    add_session_arguments,
    named_folder,
    no_overrides,
    positive,
    session_options,
)
from lit_od.commands._status import DONE
from lit_od.errors import ConfigError, missing_extra
from lit_od.images.preparation import MAX_PIXELS
from lit_od.runtime.threads import thread_count
from lit_od.serving.limits import MIB, MILLION, Limits
from lit_od.serving.log import FORMS, TEXT, Log

PACKAGES = ("starlette", "uvicorn", "prometheus_client", "python_multipart")
"""Packages of the extra `serve`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundles", metavar="BUNDLE", nargs="+", help="folder of a bundle, or NAME=FOLDER")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=_port, default=8000, help="port; 0 takes a free one (8000)")
    parser.add_argument("--allow-host", metavar="NAME", action="append", default=[], help="a name of this server")
    parser.add_argument("--normal", metavar="PATH", nargs="+", help="normal images to show beside those scored")
    parser.add_argument("--max-body", metavar="MIB", type=positive, help="largest request (64)")
    parser.add_argument("--max-images", metavar="N", type=positive, help="images a request (1024)")
    parser.add_argument("--max-pixels", metavar="MILLIONS", type=_megapixels, help="pixels of one image (50)")
    parser.add_argument("--max-time", metavar="SECONDS", type=positive, help="time to wait and score a request (300)")
    parser.add_argument("--queue", metavar="N", type=positive, help="requests that may wait; others get 503 (256)")
    parser.add_argument("--patience", metavar="SECONDS", type=positive, help="time of a client that sends slowly (15)")
    parser.add_argument("--token-file", metavar="FILE", help="file with the token that requests must carry")
    parser.add_argument("--log", choices=FORMS, default=TEXT, help="lines on standard error; json has one a request")
    add_session_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Serve until a signal stops it."""
    no_overrides(overrides)
    try:
        from lit_od.serving import server
        from lit_od.serving.app import application
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in PACKAGES:
            raise
        missing_extra("a web server (Starlette, uvicorn, prometheus-client, python-multipart)", "serve,cpu")
    from lit_od.serving.access import Token
    from lit_od.serving.metrics import Metrics
    from lit_od.serving.models import Model
    from lit_od.serving.normal_images import NormalImages
    from lit_od.serving.reload import Reloader
    from lit_od.serving.shelf import Shelf
    from lit_od.serving.work_queue import WorkQueue

    limits, log = _limits(args), Log(args.log)
    paths = named(args.bundles)
    token = Token.read(args.token_file) if args.token_file else None

    def load(name: str, path: str, normal: NormalImages | None) -> Model:
        bundle = open_bundle(path, trust=args.trust)
        if bundle.detector.kind in args.trust:
            log.say("imported", f"{bundle.detector.kind} is imported, which --trust allows")
        return Model.load(name, bundle, normal=normal, **session_options(args))

    shelf, metrics = Shelf(), Metrics(log)
    reloader = Reloader(shelf, paths, load, metrics=metrics, log=log)
    with server.listen(args.host, args.port) as listener:
        where = server.address(listener)
        queue = WorkQueue(workers=thread_count(args.threads), capacity=limits.queue, scored=metrics.scored)

        def begin() -> None:
            log.note("loading", f"loading {', '.join(paths)}", {"address": where})
            reloader.begin(NormalImages.read(args.normal) if args.normal else None)

        def ready() -> None:
            reloader.watch()
            fields = {"models": list(paths), "address": where}
            log.say("serving", f"serving {', '.join(paths)} at {where} (Ctrl-C stops)", fields)

        def close() -> None:
            reloader.close()
            queue.close()

        hosts = [args.host, *args.allow_host]
        app = application(shelf, queue, limits=limits, metrics=metrics, log=log, hosts=hosts, token=token)
        running = server.Server(app, limits=limits, ready=ready, load=begin, log=log, refused=metrics.refused)
        server.serve(running, listener, close=close)
    return DONE


def named(bundles: Sequence[str]) -> dict[str, str]:
    """Return the folders of bundles by the names under which they are served.

    Args:
        bundles: Each BUNDLE or NAME=BUNDLE.

    Raises:
        ConfigError: If a bundle has no name, or two have the same.
    """
    found: dict[str, str] = {}
    for word in bundles:
        name, path = named_folder(word)
        if not name or "/" in name or not name.isprintable():
            raise ConfigError(f"{word} has no name to serve it under: give it one, as NAME={path}")
        if name in found:
            raise ConfigError(f"{found[name]} and {path} are both named {name}: give one another, as NAME={path}")
        found[name] = path
    return found


def _limits(args: argparse.Namespace) -> Limits:
    values = {
        "body": args.max_body and MIB * args.max_body,
        "memory": args.max_body and max(Limits().memory, 2 * MIB * args.max_body),
        "images": args.max_images,
        "pixels": args.max_pixels and MILLION * args.max_pixels,
        "time": args.max_time,
        "queue": args.queue,
        "patience": args.patience,
    }
    return Limits(**{name: value for name, value in values.items() if value})


def _megapixels(text: str) -> int:
    most = MAX_PIXELS // 1_000_000
    if (number := positive(text)) > most:
        raise argparse.ArgumentTypeError(f"must be at most {most}, the largest image that is decoded, got {number}")
    return number


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"must be a port of 0 to 65535, got {text!r}")
    return int(text)
