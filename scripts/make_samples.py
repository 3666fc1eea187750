"""Make a small category of defects from textures of the documentation.

    python scripts/make_samples.py OUT

OUT gets the layout of MVTec AD: 100 normal photographs in train/good, new ones in test/good, others with a scratch, a
stain or a foreign object in test/KIND, and the masks of these in ground_truth/KIND. All are cut from one picture of a
brick wall, and the defects are drawn over them: they show what the commands do, not how well they do it elsewhere.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

TEXTURES = Path(__file__).resolve().parents[1] / "docs" / "images" / "textures"
SIDE = 128
TRAIN, TEST = 100, 8


def cut(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cut a square at random, mirrored or not."""
    x, y = (int(rng.integers(side - SIDE + 1)) for side in picture.size)
    square = picture.crop((x, y, x + SIDE, y + SIDE))
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else square


def scratch(rng: np.random.Generator) -> Image.Image:
    """Return the mask of a bent line."""
    mask = Image.new("L", (SIDE, SIDE))
    angle, middle = rng.uniform(0, np.pi), rng.uniform(48, 80, 2)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    points = [middle + reach * along + rng.normal(0, 2) * across for reach in range(-36, 37, 12)]
    ImageDraw.Draw(mask).line([(float(x), float(y)) for x, y in points], fill=255, width=3, joint="curve")
    return mask


def blob(rng: np.random.Generator) -> Image.Image:
    """Return the mask of a rounded, uneven spot."""
    mask = Image.new("L", (SIDE, SIDE))
    middle, angles = rng.uniform(40, 88, 2), np.linspace(0, 2 * np.pi, 12, endpoint=False)
    rays = rng.uniform(10, 20, angles.size)
    outline = [
        (float(middle[0] + r * np.cos(a)), float(middle[1] + r * np.sin(a))) for r, a in zip(rays, angles, strict=True)
    ]
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    return mask.filter(ImageFilter.GaussianBlur(3)).point(lambda value: 255 * (value > 127))


def defective(kind: str, photograph: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """Draw a defect over a photograph.

    Args:
        kind: "scratch", "stain" or "object".
        photograph: A normal one.
        rng: Draws place and shape.

    Returns:
        The photograph with the defect, and the mask of its pixels.
    """
    mask = scratch(rng) if kind == "scratch" else blob(rng)
    if kind == "scratch":
        defect = Image.new("L", photograph.size, 230)
    elif kind == "stain":
        defect = ImageChops.multiply(photograph, Image.new("L", photograph.size, 150))
    else:
        defect = cut(Image.open(TEXTURES / "gravel.png"), rng)
    return Image.composite(defect, photograph, mask.filter(ImageFilter.GaussianBlur(0.7))), mask


def make(out: Path, *, train: int = TRAIN, test: int = TEST, seed: int = 0) -> None:
    """Write the category into a folder.

    Args:
        out: The folder.
        train: Number of normal photographs to learn.
        test: Number of new ones, and of those of each kind of defect.
        seed: Seed of all draws.
    """
    rng = np.random.default_rng(seed)
    picture = Image.open(TEXTURES / "brick.png")
    tests = [("test", kind, test) for kind in ("good", "scratch", "stain", "object")]
    for part, kind, number in [("train", "good", train), *tests]:
        folder, masks = out / part / kind, out / "ground_truth" / kind
        folder.mkdir(parents=True, exist_ok=True)
        for row in range(number):
            photograph = cut(picture, rng)
            if kind != "good":
                masks.mkdir(parents=True, exist_ok=True)
                photograph, mask = defective(kind, photograph, rng)
                mask.save(masks / f"{row:03}_mask.png")
            photograph.save(folder / f"{row:03}.png")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/make_samples.py OUT")
    make(Path(sys.argv[1]))
    print(f"{sys.argv[1]}: {TRAIN} normal photographs to learn, {TEST} new ones, {TEST} of each of 3 kinds of defects")
