"""Print what `lit-od fit folder` says of ten folders as people have them.

    python scripts/bench/first_mile.py DATA [--names 1000000] [--only NAME ...]

DATA holds cats_dogs/ and defects/. Each folder is made anew in a temporary folder and fitted; printed are the lines on
standard error and output, the exit status and the seconds. The million names are empty files, of which the first is
refused when it is read: what counts is the time until then.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

Make = Callable[[Path, Path], None]


def photographs(data: Path, out: Path, count: int = 12, kind: str = "cats", ending: str = ".jpg") -> None:
    """Copy photographs, under their own ending or another.

    Args:
        data: Folder of the data.
        out: Folder of the copies.
        count: Number of photographs.
        kind: cats or dogs.
        ending: Ending of the copies.
    """
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted((data / "cats_dogs" / "validation" / kind).glob("*.jpg"))[:count]:
        if ending == ".jpg":
            shutil.copy(file, out)
        else:
            with Image.open(file) as image:
                image.save(out / f"{file.stem}{ending}")


def category(data: Path, out: Path) -> None:
    """Link a category in MVTec AD's layout."""
    out.symlink_to(data / "defects" / "bottle")


def its_test_folder(data: Path, out: Path) -> None:
    """Link the test images of a category, good and defective."""
    out.mkdir()
    for kind in ("good", "broken_large"):
        (out / "test").mkdir(exist_ok=True)
        (out / "test" / kind).symlink_to(data / "defects" / "bottle" / "test" / kind)
    photographs(data, out / "more")


def class_folders(data: Path, out: Path) -> None:
    """Copy two classes."""
    photographs(data, out / "cats")
    photographs(data, out / "dogs", kind="dogs")


def mixed_endings(data: Path, out: Path) -> None:
    """Copy photographs under several endings, with other files among them."""
    for ending in (".jpg", ".png", ".bmp", ".webp", ".TIF"):
        photographs(data, out, 4, ending=ending)
    for name in ("Thumbs.db", "labels.csv", "notes.txt", "README", "scan.nef"):
        (out / name).write_text("x")


def masks_among_images(data: Path, out: Path) -> None:
    """Copy defective images with their masks beside them."""
    out.mkdir()
    for kind in ("broken_large", "contamination"):
        for file in (data / "defects" / "bottle" / "test" / kind).iterdir():
            shutil.copy(file, out / f"{kind}_{file.name}")
            mask = data / "defects" / "bottle" / "ground_truth" / kind / f"{file.stem}_mask.png"
            shutil.copy(mask, out / f"{kind}_{file.stem}_mask.png")


def masks_by_ending(data: Path, out: Path) -> None:
    """Copy the same with masks that have the stems of their images."""
    masks_among_images(data, out)
    for mask in list(out.glob("*_mask.png")):
        mask.replace(out / mask.name.replace("_mask", ""))


def one_image(data: Path, out: Path) -> None:
    """Copy one photograph."""
    photographs(data, out, 1)


def no_image(data: Path, out: Path) -> None:
    """Write no image."""
    out.mkdir()
    for name in ("notes.txt", "frames.mp4", "more.mp4"):
        (out / name).write_text("x")


def heic_among_jpegs(data: Path, out: Path) -> None:
    """Copy photographs, and name some as a telephone does."""
    photographs(data, out)
    for number in range(5):
        (out / f"IMG_{number:04}.HEIC").write_text("x")


def links(data: Path, out: Path) -> None:
    """Link a folder twice, a folder to itself, and a file that is gone."""
    photographs(data, out / "own")
    (out / "again").symlink_to("own")
    (out / "round").symlink_to(".")
    (out / "gone.jpg").symlink_to("nowhere.jpg")


def unreadable(data: Path, out: Path) -> None:
    """Copy photographs, with one that is cut off, one empty and one that is text."""
    photographs(data, out)
    whole = next(out.glob("*.jpg"))
    (out / "cut.jpg").write_bytes(whole.read_bytes()[:900])
    (out / "empty.jpg").touch()
    (out / "text.png").write_text("no image")


FOLDERS: dict[str, Make] = {
    "MVTec tree": category,
    "test images": its_test_folder,
    "class folders": class_folders,
    "mixed endings": mixed_endings,
    "masks among images": masks_among_images,
    "masks by ending": masks_by_ending,
    "one image": one_image,
    "no image": no_image,
    "HEIC among JPEGs": heic_among_jpegs,
    "links": links,
    "unreadable ones": unreadable,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--only", nargs="+", default=[*FOLDERS], help="folders, by the names that are printed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        for name in args.only:
            FOLDERS[name](args.data.resolve(), Path("photos"))
            show(name)
            path = Path("photos")
            path.unlink() if path.is_symlink() else shutil.rmtree(path)
        for number in range(args.names):
            folder = Path("photos", f"{number // 10_000:03}")
            folder.mkdir(parents=True, exist_ok=True)
            os.close(os.open(folder / f"{number:07}.png", os.O_CREAT | os.O_WRONLY))
        show(f"{args.names:,} names")


def show(name: str) -> None:
    """Fit the folder and print what is said."""
    started = time.perf_counter()
    words = [sys.executable, "-m", "lit_od.cli", "fit", "folder", "--data.root", "photos", "--out", "bundle"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    print(f"\n{name}: status {done.returncode}, {time.perf_counter() - started:.1f} s")
    for line in (done.stderr + done.stdout).splitlines():
        print(f"    {line}")


if __name__ == "__main__":
    main()
