"""Score what arrives: new files, or frames of a video, a stream, a camera.

SOURCE is a folder; a video file; a stream, rtsp:// or http://; or a camera: /dev/video0, v4l2:/dev/video0,
avfoundation:0, dshow:video=NAME. Ctrl-C or SIGTERM ends it, with every finished row written; a second Ctrl-C at once.

  lit-od watch BUNDLE incoming/ --out rows.csv
  lit-od watch BUNDLE incoming/ --out rows.csv --move outliers=sorted-out/
  lit-od watch BUNDLE rtsp://camera/stream --every 1s --out rows.jsonl --post http://127.0.0.1:8000/rows
  lit-od watch BUNDLE film.mp4 --every 10 --out rows.csv --maps pictures/ --outliers-only

Rows are those of lit-od score; of frames with the columns frame, its number, and time: seconds into a video file, of
a stream the time at which the frame came, UTC. With --out they are appended, those of files on disk before the next
batch is begun, those of frames every second, and FILE.state beside them says what is done. So each file has its row
once, also after a restart, and a video file goes on where it was; a file that is replaced is scored again. To begin
anew remove both files. Without --out rows go to standard output, and nothing is remembered.

A file is taken when it has not changed for --settle seconds; one that cannot be read gets a second try before its row
says so. The system tells of new files where it can (watchfiles, of the extra "video"); network shares are polled,
and any folder with --poll SECONDS.

All frames of a video file are scored. A stream does not wait: frames that come while others are scored are dropped,
but for the latest, and counted. Where it breaks off, it is connected again, after 1 s to 30 s. Videos need the extra
"video".

--exec runs a command for each row, which reads the row as JSON from standard input; --post sends a JSON array of rows,
and again where the server fails. Neither makes scoring wait: at most 10,000 rows wait for each, more are dropped and
counted, and rows that wait when the process is killed are not sent.

Exit status: 0; 1 if some images could not be read.
"""

import argparse
import math
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from lit_od.backbone.extractor import BATCH_SIZE
from lit_od.bundle.folder import Bundle
from lit_od.bundle.plain_files import require_outside
from lit_od.commands._arguments import (
    add_row_arguments,
    add_session_arguments,
    no_overrides,
    positive,
    read_bundle,
    row_form,
    session_options,
)
from lit_od.commands._status import DONE, INCOMPLETE
from lit_od.errors import ConfigError, without_credentials
from lit_od.formats.text import printable
from lit_od.images.camera import LiveVideo, VideoFile
from lit_od.images.video_place import Every, VideoPlace
from lit_od.images.watch_folder import POLL, SETTLE, FolderWatch
from lit_od.operations.deliveries import ROWS_A_REQUEST, Deliveries, command, poster
from lit_od.operations.moves import Moves, require_apart
from lit_od.operations.row_log import PrintedRows, RowLog, rows_of
from lit_od.operations.watch import FRAME_COLUMNS, Arrival, Draw, Watch
from lit_od.scoring.map_folder import map_folder
from lit_od.scoring.maps import HeatMaps
from lit_od.scoring.result import COLUMNS
from lit_od.scoring.scorer import Scorer

FRAMES = 8
"""Frames of a batch, and of a stream those that are kept: more would be older and take more memory."""

LONGEST = 24 * 3600
"""Most seconds of an option: those of a day."""

MOST_PICTURES = 10**8
"""Pictures that file names have room for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("source", metavar="SOURCE", help="what to watch")
    add_row_arguments(parser)
    parser.add_argument("--every", metavar="N|SECONDS", help="take one frame of N, or one in so many seconds (0.5s)")
    parser.add_argument("--maps", metavar="DIR", help="draw heat maps there")
    parser.add_argument(
        "--move", metavar="KIND=DIR", action="append", default=[], help="move outliers (inliers, errors)"
    )
    parser.add_argument("--exec", metavar="COMMAND", help="run a command for each row")
    parser.add_argument("--post", metavar="URL", help="post the rows to a web server")
    parser.add_argument("--outliers-only", action="store_true", help="--maps, --exec and --post of outliers alone")
    parser.add_argument(
        "--settle", metavar="SECONDS", type=_seconds, help=f"a whole file has not changed for ({SETTLE:g})"
    )
    parser.add_argument(
        "--poll", metavar="SECONDS", type=_seconds, help=f"look at a folder so often ({POLL:g}, if at all)"
    )
    parser.add_argument(
        "--batch-size", metavar="N", type=positive, help=f"images a run ({BATCH_SIZE}; {FRAMES} frames)"
    )
    add_session_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Watch until the end, or until stopped; 1 if some image could not be read.

    Raises:
        ConfigError: On arguments that do not fit together.
    """
    no_overrides(overrides)
    source = Path(args.source)
    place = None if source.is_dir() else VideoPlace.of(args.source)
    moves = _moves(args, source, place)
    every, form = Every.parse(args.every) if args.every else Every(), row_form(args)
    sends = {"--exec": args.exec and command(args.exec), "--post": args.post and poster(args.post)}
    bundle = read_bundle(args.bundle, args)
    columns = COLUMNS if place is None else FRAME_COLUMNS
    batch_size = args.batch_size or (BATCH_SIZE if place is None else FRAMES)
    stop = threading.Event()
    with ExitStack() as stack:
        video: VideoFile | LiveVideo | None = None
        if place is not None and place.is_file:
            video = VideoFile(place, every, threads=args.threads)
        scorer = Scorer.of(bundle, **session_options(args))
        draw = stack.enter_context(_maps(args, bundle, scorer))
        if place is not None and not place.is_file:
            video = stack.enter_context(LiveVideo(place, every, most=batch_size, threads=args.threads))
        rows = stack.enter_context(rows_of(args.out, form, columns, frames=place is not None))
        folder = _folder(args, source, rows) if place is None else None
        stack.enter_context(_stopped_by_signals(stop))
        ways = [
            stack.enter_context(Deliveries(name, send, at_once=ROWS_A_REQUEST if name == "--post" else 1))
            for name, send in sends.items()
            if send
        ]
        arrivals = _arrivals(folder, video, rows, stop)
        watch = Watch(scorer, rows, columns, folder, moves, ways, draw, args.outliers_only)
        if folder is not None:
            for row in rows.latest:  # their writer may have been killed before it moved the files
                moves.move(row.kind, Path(row.key), row.version)
        _say(_beginning(args, folder))
        with tqdm(total=_expected(video, every), unit="img", disable=None, leave=False) as bar:
            watch.run(arrivals, stop, batch_size=batch_size, after=bar.update)
    _say(_summary(watch, video))
    for way in ways:
        _say(str(way))
    return INCOMPLETE if watch.unreadable else DONE


def _moves(args: argparse.Namespace, source: Path, place: VideoPlace | None) -> Moves:
    """Return what is moved where, once the options are seen to fit the source."""
    if place is None and args.every:
        raise ConfigError("--every chooses among frames, and a folder has none: leave it out")
    for option in ("move", "poll", "settle"):
        if place is not None and getattr(args, option) not in (None, []):
            raise ConfigError(f"--{option} goes with a folder, and {place.name} is none: leave it out")
    if args.outliers_only and not (args.maps or args.exec or args.post):
        raise ConfigError("--outliers-only goes with --maps, --exec or --post: give one of them, or leave it out")
    if place is None and args.maps:
        require_apart("--maps", Path(args.maps), source)
    moves = Moves(source)
    for word in args.move:
        moves.add(word)
    for folder in moves.folders.values():
        require_outside(folder / "file")
    return moves


@contextmanager
def _maps(args: argparse.Namespace, bundle: Bundle, scorer: Scorer) -> Iterator[Draw | None]:
    """Make maps ready for the block, if they are wanted."""
    if not args.maps:
        yield None
        return
    with map_folder(Path(args.maps), HeatMaps.of(bundle, scorer), total=MOST_PICTURES, goes_on=True) as draw:
        yield draw


def _folder(args: argparse.Namespace, source: Path, rows: PrintedRows | RowLog) -> FolderWatch:
    settle = SETTLE if args.settle is None else args.settle
    return FolderWatch(source, rows.known, settle=settle, poll=args.poll)


def _arrivals(
    folder: FolderWatch | None, video: VideoFile | LiveVideo | None, rows: PrintedRows | RowLog, stop: threading.Event
) -> Iterable[Iterable[Arrival]]:
    """Return the images that arrive, those together that are there at once."""
    if isinstance(video, LiveVideo):
        return video.arrivals(stop)
    if video is not None:
        return [video.frames(stop, rows.known)]
    assert folder is not None
    return folder.arrivals(stop)


def _expected(video: VideoFile | LiveVideo | None, every: Every) -> int | None:
    """Return the number of rows to come, if it is known."""
    if not isinstance(video, VideoFile) or video.expected is None or every.seconds is not None:
        return None
    return -(-video.expected // every.frames)


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Have SIGINT and SIGTERM set the event in the block; a second one interrupts."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _beginning(args: argparse.Namespace, folder: FolderWatch | None) -> str:
    if folder is None:
        return f"watching {without_credentials(args.source)}; Ctrl-C ends it"
    looks = "as the system tells of new files" if folder.poll is None else f"every {folder.poll:g} s"
    return f"watching {args.source}, {looks}; Ctrl-C ends it"


def _summary(watch: Watch, video: VideoFile | LiveVideo | None) -> str:
    """Describe in a line what was scored, and what was not."""
    words = [f"{watch.scored:,} {'images' if video is None else 'frames'} scored, {watch.outliers:,} outliers"]
    if watch.unreadable:
        words.append(f"{watch.unreadable:,} could not be read; their rows say why")
    if isinstance(video, LiveVideo):
        words.append(f"{video.dropped:,} dropped, since scoring was slower; broke off {video.breaks:,} times")
    if video is not None and video.decoded.damaged:
        words.append(f"{video.decoded.damaged:,} damaged packets left out")
    if watch.moves is not None and watch.moves.failed:
        words.append(f"{watch.moves.failed:,} files could not be moved")
    return "; ".join(words)


def _say(words: str) -> None:
    print(printable(f"lit-od: {words}"), file=sys.stderr, flush=True)


def _seconds(text: str) -> float:
    """Parse a number of seconds, at most those of a day, from the command line.

    Raises:
        argparse.ArgumentTypeError: If it is none.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= LONGEST:
        raise argparse.ArgumentTypeError(f"must be a number of seconds from 0 to {LONGEST}, got {text!r}")
    return seconds
