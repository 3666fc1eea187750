"""Serve bundles: a page to drop images on, and an HTTP interface for programs.

Both are at the address that is printed, by default for this machine alone. The interface is the Open
Inference Protocol, version 2, with binary tensors: POST /v2/models/NAME/infer takes `images`, UINT8
(n, h, w, c), or `encoded`, BYTES (n), image files (base64 where they are in the JSON), and gives score,
p_value, is_outlier and error; clients written for it work unchanged. By name it also gives `map`, a picture; and,
where the detector has maps, `regions`, JSON with box, area, peak and place in the image's own pixels, and `raw`, the
map's values, FP32 in binary form. NAME is the bundle's folder, or what stands before it: NAME=BUNDLE.

There is no password and no encryption: anybody who reaches the address may ask. --host 0.0.0.0 opens it to the
network; --allow-host names the server where it is asked under a name other than localhost.

--normal PATH... shows the normal images that a picture resembles most, by the distance of their features,
or of their pixels where a bundle's graph gives no features.
"""

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from lit_od.commands._arguments import (
    add_session_arguments,
    named_folder,
    no_overrides,
    positive,
    read_bundle,
    session_options,
)
from lit_od.commands._status import DONE
from lit_od.errors import ConfigError, missing_extra
from lit_od.images.preparation import MAX_PIXELS
from lit_od.runtime.threads import thread_count
from lit_od.serving.limits import MIB, MILLION, Limits


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
    add_session_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Serve until a signal stops it."""
    no_overrides(overrides)
    try:
        from lit_od.serving import server
        from lit_od.serving.app import application
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        missing_extra("a web server (Starlette and uvicorn)", "serve,cpu")
    from lit_od.serving.models import Model
    from lit_od.serving.normal_images import NormalImages
    from lit_od.serving.work_queue import WorkQueue

    limits = _limits(args)
    bundles = {name: read_bundle(path, args) for name, path in named(args.bundles).items()}
    listener = server.listen(args.host, args.port)  # before the long work
    with listener:
        with _ended_by_ctrl_c():
            normal = NormalImages.read(args.normal) if args.normal else None
            models = {
                name: Model.load(name, bundle, normal=normal, **session_options(args))
                for name, bundle in bundles.items()
            }
        queue = WorkQueue(workers=thread_count(args.threads), capacity=limits.queue)
        app = application(models, queue, limits=limits, normal=normal, hosts=[args.host, *args.allow_host])
        where = server.address(listener)

        def ready() -> None:
            print(f"lit-od: serving {', '.join(models)} at {where} (Ctrl-C stops)", file=sys.stderr, flush=True)

        server.serve(app, listener, limits=limits, ready=ready, close=queue.close)
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


@contextlib.contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Have Ctrl-C end the process at once during the block.

    Python's own handler would wait for a decoder or a graph, which may never end. Nothing is left to put in order.
    """
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
