"""Measure scoring of large images in tiles: memory, time, defects found, seams.

    python scripts/bench/tiles.py CATEGORY [--images 20] [--normal 10] [--size 4096x3000] [--tile 448] [--overlap 0.25]
                                  [--recipe defects] [--set KEY=VALUE ...] [--threads 2] [--keep DIR]

CATEGORY is laid out as MVTec AD's are. Large images are woven of the textures in train/good; into half of those that
are scored, defects of test/KIND are pasted by their masks, at known places. Other large images, without defects, fit
and calibrate the recipe. Printed are the peak memory of a process that scores all images; their time, and that of their
tiles alone, which are in memory already and whose maps are not joined; the pasted defects of at least 20 x 20 pixels in
which some pixel is above the threshold; the mean step of normal maps across tile borders, and within the overlaps, as
multiples of that elsewhere; and a JSON line.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from lit_od import Scorer
from lit_od.detectors.joined_map import TileDetector
from lit_od.images.sources import Frame, ImageArray, ImageFile
from lit_od.images.tiles import starts
from lit_od.runtime.threads import available_threads
from lit_od.types import Maps

LEAST = 20
"""Pixels of the shorter side of a defect that must be found."""

DEFECTS = 3
"""Defects pasted into an image."""

FEATHER = 32
"""Pixels over which neighbouring pieces of a woven image pass into each other."""

MEASURED = """
import resource, sys
from lit_od.cli import main
status = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
sys.exit(status)
"""


@dataclass(frozen=True)
class Pasted:
    """A pasted defect: its kind and its box, right and bottom excluded."""

    kind: str
    box: tuple[int, int, int, int]

    @property
    def counts(self) -> bool:
        """True if it is large enough to have to be found."""
        left, top, right, bottom = self.box
        return min(right - left, bottom - top) >= LEAST


def main() -> None:
    args = _arguments()
    wide, high = (int(side) for side in args.size.split("x"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.keep or temporary)
        rng = np.random.default_rng(args.seed)
        normal, scored = folder / "normal", folder / "scored"
        pasted = make_images(Path(args.category), normal, scored, (args.normal, args.images), (wide, high), rng)
        bundle = folder / "bundle"
        words = ["fit", args.recipe, "--data.root", normal, "--data.tile", args.tile, "--data.overlap", args.overlap]
        words += [word for each in args.set for word in (f"--{each.split('=', 1)[0]}", each.split("=", 1)[1])]
        fit = _megabytes([*words, "--threads", args.threads, "--out", bundle])
        peak = _megabytes(["score", bundle, scored, "--threads", args.threads, "--out", folder / "rows.csv"])
        scorer = Scorer.load(bundle, threads=args.threads)
        figures = {"peak_mb": peak, "fit_mb": fit, **measured(scorer, scored, pasted)}
    print(f"{args.images} images of {wide} x {high} in tiles of {args.tile}, {args.threads} threads")
    print(f"memory       {peak:.0f} MB to score, {fit:.0f} MB to fit")
    print(f"time         {figures['seconds']:.2f} s an image, {figures['time_ratio']:.3f} of its tiles' own", end=" ")
    print(f"({figures['processor_ratio']:.3f} by processor time)")
    print(f"defects      {figures['found']} of {figures['defects']} of {LEAST} x {LEAST} or more found, ", end="")
    print(f"{figures['small_found']} of {figures['small']} smaller; {figures['false']} false alarms")
    print(f"seams        {figures['border']:.3f} at tile borders, {figures['overlaps']:.3f} within overlaps")
    print(json.dumps({"images": args.images, "tile": args.tile, "overlap": args.overlap, **figures}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("category")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--normal", type=int, default=10)
    parser.add_argument("--size", default="4096x3000")
    parser.add_argument("--tile", type=int, default=448)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--recipe", default="defects")
    parser.add_argument("--set", nargs="*", default=[], help="overrides of the recipe, as detector.coreset=500")
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", help="folder for images and bundle")
    return parser.parse_args()


def make_images(
    category: Path,
    normal: Path,
    scored: Path,
    counts: tuple[int, int],
    size: tuple[int, int],
    rng: np.random.Generator,
) -> dict[str, list[Pasted]]:
    """Write large images, and return the pasted defects by file name.

    Args:
        category: Folder in MVTec AD's layout.
        normal: New folder for images that fit.
        scored: New folder for images to score; every other one has defects.
        counts: Numbers of both.
        size: Width and height.
        rng: Source of all choices.
    """
    pieces = [Image.open(file).convert("RGB") for file in sorted((category / "train" / "good").iterdir())]
    pieces = [pieces[row] for row in rng.permutation(len(pieces))]
    apart = len(pieces) // 2  # no piece is fitted and scored
    defects = _cut_defects(category)
    found: dict[str, list[Pasted]] = {}
    for folder, count, own in ((normal, counts[0], pieces[:apart]), (scored, counts[1], pieces[apart:])):
        folder.mkdir(parents=True)
        for row in range(count):
            image, name = woven(own, size, rng), f"{row:03}.png"
            if folder == scored:
                found[name] = [_paste(image, defects, rng, part) for part in range(DEFECTS)] if row % 2 else []
            image.save(folder / name, compress_level=1)
    return found


def woven(pieces: Sequence[Image.Image], size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return an image woven of pieces that pass into each other.

    Args:
        pieces: Square images of one size, which are turned or mirrored at random.
        size: Width and height.
        rng: Source of all choices.
    """
    side = pieces[0].width
    soft = Image.new("L", (side, side))
    soft.paste(255, (FEATHER // 2, FEATHER // 2, side - FEATHER // 2, side - FEATHER // 2))
    soft = soft.filter(ImageFilter.BoxBlur(FEATHER // 2))
    image = Image.new("RGB", size)
    image.paste(pieces[0].resize(size))  # nothing of it is left but where four pieces meet
    for top in range(-int(rng.integers(FEATHER, side)), size[1], side - FEATHER):
        for left in range(-int(rng.integers(FEATHER, side)), size[0], side - FEATHER):
            piece = pieces[rng.integers(len(pieces))].transpose(Image.Transpose(rng.integers(7)))
            image.paste(piece, (left, top), soft)
    return image


def _cut_defects(category: Path) -> list[tuple[str, Image.Image, Image.Image]]:
    """Return kind, pixels and mask of all defects, cut out."""
    found = []
    for file in sorted((category / "test").glob("*/*")):
        mask = category / "ground_truth" / file.parent.name / f"{file.stem}_mask.png"
        if mask.is_file() and (box := Image.open(mask).convert("L").getbbox()):
            found.append(
                (file.parent.name, Image.open(file).convert("RGB").crop(box), Image.open(mask).convert("L").crop(box))
            )
    return found


def _paste(
    image: Image.Image, defects: list[tuple[str, Image.Image, Image.Image]], rng: np.random.Generator, part: int
) -> Pasted:
    """Paste a defect at random into one of `DEFECTS` strips of an image."""
    kind, pixels, mask = defects[rng.integers(len(defects))]
    strip = image.width // DEFECTS
    left = part * strip + int(rng.integers(max(1, strip - pixels.width)))
    top = int(rng.integers(image.height - pixels.height))
    image.paste(pixels, (left, top), mask)
    return Pasted(kind, (left, top, left + pixels.width, top + pixels.height))


def _megabytes(words: Sequence[object]) -> float:
    """Return the peak resident megabytes of a command."""
    done = subprocess.run([sys.executable, "-c", MEASURED, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


def measured(scorer: Scorer, folder: Path, pasted: dict[str, list[Pasted]]) -> dict[str, float]:
    """Score all images one by one, interleaved with their tiles alone.

    Args:
        scorer: The loaded bundle.
        folder: The images.
        pasted: Pasted defects by file name.
    """
    taken, alone, steps = [], [], []
    figures = {"found": 0, "defects": 0, "small_found": 0, "small": 0, "false": 0}
    for file in sorted(folder.iterdir()):
        source = ImageFile(file, file.name)
        start = _clocks()
        result = scorer.score([file], maps=True)
        taken.append(_clocks() - start)
        alone.append(_of_tiles(scorer, source))
        assert result.maps is not None
        assert scorer.pixel_threshold is not None
        for each in pasted[file.name]:
            left, top, right, bottom = each.box
            size = "" if each.counts else "small_"
            figures["small" if size else "defects"] += 1
            figures[f"{size}found"] += bool((result.maps[0][top:bottom, left:right] > scorer.pixel_threshold).any())
        if not pasted[file.name]:
            figures["false"] += bool(result.is_outlier[0])
            steps.append(seam_steps(scorer, result.maps[0]))
    border, overlaps, elsewhere = np.mean(steps, axis=0)
    ratios = np.median(np.array(taken) / np.array(alone), axis=0)
    return {
        **figures,
        "seconds": float(np.median(taken, axis=0)[0]),
        "time_ratio": float(ratios[0]),
        "processor_ratio": float(ratios[1]),
        "border": float(border / elsewhere),
        "overlaps": float(overlaps / elsewhere),
    }


def _clocks() -> NDArray[np.float64]:
    return np.array([time.perf_counter(), time.process_time()])


def _of_tiles(scorer: Scorer, source: ImageFile) -> NDArray[np.float64]:
    """Return the seconds of an image's tiles alone, by clock and processor."""
    frame, extractor, detector = Frame(source, scorer.preparation), scorer.extractor, scorer.detector
    pixels = frame.pixels()
    tiles = [ImageArray(pixels[each.rows, each.columns].copy(), "") for each in frame.places]
    assert isinstance(detector, TileDetector)
    start = _clocks()
    for _ in extractor.run(tiles, lambda outputs: (detector.cells_of_tiles(outputs),)):
        pass
    return _clocks() - start


def seam_steps(scorer: Scorer, one: Maps) -> NDArray[np.float64]:
    """Return the mean step of a map at tile borders, within overlaps, and elsewhere."""
    sums, counts = np.zeros(3), np.zeros(3)
    for axis in (0, 1):
        length, tile, overlap = one.shape[axis], scorer.preparation.size[axis], scorer.preparation.overlap
        assert isinstance(overlap, int)
        kind = np.full(length - 1, 2)
        first = starts(length, tile, overlap)
        for start, before in zip(first[1:], first[:-1] + tile, strict=True):
            kind[start - 1 : before] = 1  # the steps from start - 1 to before
        for start, before in zip(first[1:], first[:-1] + tile, strict=True):
            kind[[start - 1, before - 1]] = 0
        step = np.abs(np.diff(one, axis=axis)).mean(axis=1 - axis)
        sums += np.bincount(kind, weights=step, minlength=3)
        counts += np.bincount(kind, minlength=3)
    return np.asarray(sums / np.maximum(counts, 1))


if __name__ == "__main__":
    main()
