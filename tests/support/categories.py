"""Small categories of defects in the layouts of known data sets: textures with darker squares."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 28
KINDS = ("hole", "scratch")


def texture(rng: np.random.Generator, side: int = SIDE) -> np.ndarray:
    """A grey texture, (h, w) uint8."""
    waves = np.sin(np.arange(side) / 2 + rng.uniform(0, 6))
    return np.clip(150 + 30 * np.add.outer(waves, waves) + rng.normal(0, 5, (side, side)), 0, 255).astype(np.uint8)


def with_defect(rng: np.random.Generator, kind: str, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """A texture with a defect, and its mask."""
    mask = np.zeros((side, side), bool)
    row, column = rng.integers(2, side - 10, 2)
    if kind == "hole":
        mask[row : row + 6, column : column + 6] = True
    else:
        mask[row, column : column + 8] = True
    return np.where(mask, 10, texture(rng, side)).astype(np.uint8), mask


def save(pixels: np.ndarray, file: Path) -> Path:
    """Write pixels as an image file; a mask as black and white."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels).save(file)
    return file


def mvtec(folder: Path, *, seed: int = 0, train: int = 12, good: int = 5, defects: int = 4, side: int = SIDE) -> Path:
    """A category in MVTec AD's layout; the stems of its kinds are the same, as there."""
    rng = np.random.default_rng(seed)
    for part, count in (("train", train), ("test", good)):
        for number in range(count):
            save(texture(rng, side), folder / part / "good" / f"{number:03}.png")
    for kind in KINDS:
        for number in range(defects):
            image, mask = with_defect(rng, kind, side)
            save(image, folder / "test" / kind / f"{number:03}.png")
            save(mask, folder / "ground_truth" / kind / f"{number:03}_mask.png")
    return folder


def loco(folder: Path) -> Path:
    """A category in LOCO's layout: two masks an image, with saturations in pixels and as a share."""
    rng = np.random.default_rng(1)
    for part, count in (("train", 6), ("validation", 3), ("test", 4)):
        for number in range(count):
            save(texture(rng), folder / part / "good" / f"{number:03}.png")
    for kind in ("logical_anomalies", "structural_anomalies"):
        for number in range(3):
            image, first = with_defect(rng, "hole")
            second = np.zeros_like(first)
            second[-2:, -4:] = True
            save(np.where(second, 10, image).astype(np.uint8), folder / "test" / kind / f"{number:03}.png")
            for channel, (mask, value) in enumerate([(first, 255), (second, 254)]):
                save(
                    (mask * value).astype(np.uint8),
                    folder / "ground_truth" / kind / f"{number:03}" / f"{channel:03}.png",
                )
    entries = [
        {"defect_name": "hole", "pixel_value": 255, "saturation_threshold": 9, "relative_saturation": False},
        {"defect_name": "edge", "pixel_value": 254, "saturation_threshold": 0.5, "relative_saturation": True},
    ]
    (folder / "defects_config.json").write_text(json.dumps(entries))
    return folder


def mvtec_2(folder: Path) -> Path:
    """A category in MVTec AD 2's layout."""
    rng = np.random.default_rng(2)
    for part, count in (("train/good", 6), ("validation/good", 3), ("test_public/good", 3), ("test_private", 2)):
        for number in range(count):
            save(texture(rng), folder / part / f"{number:03}_regular.png")
    for number in range(3):
        image, mask = with_defect(rng, "hole")
        save(image, folder / "test_public" / "bad" / f"{number:03}_regular.png")
        save(mask, folder / "test_public" / "ground_truth" / "bad" / f"{number:03}_regular_mask.png")
    return folder


def visa(root: Path, name: str = "candle") -> Path:
    """A category in VisA's layout below a root; masks hold numbers of defects."""
    rng = np.random.default_rng(3)
    rows = ["object,split,label,image,mask"]
    for number in range(9):
        place = f"{name}/Data/Images/Normal/{number:04}.JPG"
        save(texture(rng), root / place)
        rows.append(f"{name},{'train' if number < 6 else 'test'},normal,{place},")
    for number in range(3):
        place, masked = (f"{name}/Data/{part}/{number:03}" for part in ("Images/Anomaly", "Masks/Anomaly"))
        image, mask = with_defect(rng, "hole")
        save(image, root / f"{place}.JPG")
        save(mask.astype(np.uint8) * (number + 1), root / f"{masked}.png")
        rows.append(f"{name},test,anomaly,{place}.JPG,{masked}.png")
    table = root / "split_csv" / "1cls.csv"
    table.parent.mkdir(exist_ok=True)
    table.write_text("\n".join(rows) + "\n")
    return root / name
