"""Plant duplicates among images, and measure which of them are found.

    python scripts/bench/duplicates.py DATA [--images 10000]

DATA holds cats_dogs/, cifar10.npz and defects/. Nine images of ten are taken from photographs of 128 pixels (train and
test), photographs of 32 (the test part) and photographs of aligned parts of 256 (the test parts); the tenth are copies:
of the same pixels in another format; resized by 0.5 to 2, recompressed (JPEG of quality 40 to 90, WebP), mirrored or
turned; and all three at once. The thresholds were chosen on other images: those of the validation folder, of CIFAR-10's
training part and of the parts' training folders.

Prints the recall by kind and by size, all other pairs that are found, which are to be looked at, and the time.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from lit_od.images.find_local import find
from lit_od.images.sources import Source

Transposed = Image.Transpose
RNG = np.random.default_rng(0)
KINDS = ("same pixels", "resized", "recompressed", "mirrored", "all three")


def compressed(image: Image.Image, least: int) -> Image.Image:
    """Compress as JPEG or WebP, of at least such a quality."""
    file = io.BytesIO()
    form = "JPEG" if RNG.random() < 0.75 else "WEBP"
    image.convert("RGB").save(file, form, quality=int(RNG.integers(least, 91)))
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def resized(image: Image.Image, least: float) -> Image.Image:
    """Resize by a factor from `least` to 2."""
    factor = least * (2 / least) ** RNG.random()
    size = (max(8, round(image.width * factor)), max(8, round(image.height * factor)))
    filters = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
    return image.convert("RGB").resize(size, filters[RNG.integers(3)])


def copy_of(image: Image.Image, kind: str) -> Image.Image:
    """Make a copy of a kind."""
    turned = image.transpose(list(Transposed)[RNG.integers(7)])
    match kind:
        case "same pixels":
            return image
        case "resized":
            return resized(image, 0.5)
        case "recompressed":
            return compressed(image, 40)
        case "mirrored":
            return turned
        case _:
            return compressed(resized(turned, 0.6), 60)


def sources(data: Path) -> dict[str, list[Source]]:
    """Find the images of each pool."""
    parts = [data / "defects" / name / "test" for name in ("bottle", "pill", "screw")]
    paths = {
        "photographs, 128": [data / "cats_dogs" / "train", data / "cats_dogs" / "test"],
        "parts, 256": parts,
        "photographs, 32": [f"{data}/cifar10.npz:test_images"],
    }
    return {name: find(each) for name, each in paths.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    args = parser.parse_args()
    taken, room = [], args.images * 9 // 10
    for pool, found in sources(args.data).items():
        chosen = RNG.permutation(len(found))[: room - len(taken)]
        taken += [(pool, found[row]) for row in chosen]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        origin: dict[str, int] = {}
        for row, (_, source) in enumerate(taken):
            source.decode().convert("RGB").save(folder / f"{row:06}.png", compress_level=1)
            origin[f"{row:06}.png"] = row
        planted = []
        for number, row in enumerate(RNG.permutation(len(taken))[: args.images - len(taken)].tolist()):
            kind = KINDS[number % len(KINDS)]
            image = copy_of(taken[row][1].decode().convert("RGB"), kind)
            name = f"copy{number:05}.{'bmp' if kind == 'same pixels' else 'png'}"
            image.save(folder / name)
            origin[name] = row
            planted.append((name, row, kind, taken[row][0]))
        started = time.perf_counter()
        words = [sys.executable, "-m", "lit_od.cli", "check", str(folder), "--duplicates", "--json"]
        answer = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        seconds = time.perf_counter() - started
        words.remove("--duplicates")
        started = time.perf_counter()
        subprocess.run(words, capture_output=True, check=True)
        reading = time.perf_counter() - started
    groups, kinds = defaultdict(list), {}
    for row in json.loads(answer)["duplicates"]:
        name = Path(row["path"]).name
        groups[row["group"]].append(name)
        kinds[name] = row["kind"]
    of_image = {name: number for number, names in groups.items() for name in names}
    wanted, got = Counter(), Counter()
    for name, row, kind, pool in planted:
        whole = of_image.get(name) is not None and of_image.get(name) == of_image.get(f"{row:06}.png")
        exact = kind != "same pixels" or kinds.get(name) == "exact" or kinds.get(f"{row:06}.png") == "exact"
        for key in (kind, pool, f"{kind}; {pool}", "all"):
            wanted[key] += 1
            got[key] += whole and exact
    others = [
        pair for names in groups.values() for pair in combinations(names, 2) if origin[pair[0]] != origin[pair[1]]
    ]
    print(
        f"{len(taken):,} images and {len(planted):,} copies; {reading:.1f} s to read, {seconds:.1f} s with duplicates"
    )
    for key in sorted(wanted, key=lambda key: (key.count(";"), key)):
        print(f"  {got[key]:4} of {wanted[key]:4}  {key}")
    print(f"{len(others)} other pairs, by the names of their originals:")
    names = {tuple(sorted(taken[origin[name]][1].name for name in pair)) for pair in others}
    for one, other in sorted(names):
        print(f"  {one}  {other}")


if __name__ == "__main__":
    main()
