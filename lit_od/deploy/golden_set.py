"""Write golden sets: images, and what a model file must give for them.

    golden.json         shape of prepared images, tolerance, and for each image its files, score, p-value and verdict
    0.png, 1.png ...    the images as the model file takes them, lossless
    0.npy, 1.npy ...    the same, uint8 (h, w, c)
    maps.npy            maps, float32 (n, h, w), where the model file has them

They prove the file in any runtime. The images are the bundle's golden images and their negatives, so that some are
outliers.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lit_od.bundle.folder import Bundle, golden_arrays
from lit_od.bundle.golden import golden_files
from lit_od.bundle.model_file import TOLERANCE, open_graph
from lit_od.bundle.plain_files import require_outside
from lit_od.detectors import PixelDetector
from lit_od.errors import ConfigError
from lit_od.formats.atomic import atomic_folder, require_writable
from lit_od.images.preparation import Preparation, frame, open_image, prepare
from lit_od.types import Images, Maps, Scores

CONTENTS = "golden.json"
MAPS = "maps.npy"


def require_golden_folder(folder: Path) -> None:
    """Raise ConfigError unless a folder is free, empty or an older golden set."""
    require_outside(folder)
    require_writable(folder)
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    if names and CONTENTS not in names:
        raise ConfigError(f"--golden {folder} holds other files: name a folder that is free, or an older golden set")


def write_golden_set(bundle: Bundle, preparation: Preparation, folder: Path) -> int:
    """Write the golden images of a bundle with what its model file must give.

    Args:
        bundle: The bundle.
        preparation: The model file's, which may resize in the graph where the bundle does not.
        folder: A folder that is free, empty or an older golden set, which is replaced.

    Returns:
        The number of images.

    Raises:
        ConfigError: If the folder holds anything else, or cannot be written.
    """
    images, pixels = _images(bundle, preparation)
    scores, maps = _wanted(bundle, pixels)
    try:
        with atomic_folder(folder, replaceable=require_golden_folder) as fresh:
            for row, image in enumerate(images):
                Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(fresh / f"{row}.png")
                np.save(fresh / f"{row}.npy", image)
            if maps is not None:
                np.save(fresh / MAPS, maps)
            text = json.dumps(_contents(bundle, scores), indent=2, allow_nan=False)
            (fresh / CONTENTS).write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the golden set {folder}: {error.strerror or error}") from error
    return len(images)


def _images(bundle: Bundle, preparation: Preparation) -> tuple[list[Images], Images]:
    """Return images as the model file takes them, and as they are prepared.

    Returns:
        A list of (h, w, c), and prepared images (n, h, w, c).
    """
    golden = golden_arrays(bundle)
    if not preparation.resizes_in_graph:
        pixels = np.concatenate([golden["pixels"], 255 - golden["pixels"]])
        return list(pixels), pixels
    frames = [frame(open_image(file), preparation) for file in golden_files(golden)]
    frames += [255 - each for each in frames]
    return frames, np.stack([prepare(each, preparation) for each in frames])


def _wanted(bundle: Bundle, pixels: Images) -> tuple[Scores, Maps | None]:
    """Return the bundle's own scores (n,) and maps (n, h, w).

    Maps are None where its model file has none.
    """
    outputs, detector = open_graph(bundle)(pixels), bundle.detector
    if isinstance(detector, PixelDetector) and bundle.manifest.calibration.pixel_threshold is not None:
        scores, maps = detector.score_map(outputs)
        return scores, maps.astype(np.float32)
    return detector.score(outputs), None


def _contents(bundle: Bundle, scores: Scores) -> dict[str, Any]:
    """Return what golden.json holds."""
    calibration, room = bundle.calibration, TOLERANCE * float(np.abs(scores).max())
    sure = np.abs(scores - calibration.threshold) > room
    columns = {
        "file": [f"{row}.png" for row in range(len(scores))],
        "pixels": [f"{row}.npy" for row in range(len(scores))],
        "score": scores.tolist(),
        "p_value": calibration.p_values(scores).tolist(),
        "p_value_least": calibration.p_values(scores + room).tolist(),  # of scores within the tolerance
        "p_value_most": calibration.p_values(scores - room).tolist(),
        "is_outlier": calibration.is_outlier(scores).tolist(),
        "sure": sure.tolist(),  # False within the tolerance of the threshold: either verdict is right
    }
    return {
        "model": bundle.manifest.name,
        "shape": list(bundle.manifest.preparation.shape),
        "threshold": calibration.threshold,
        "tolerance": TOLERANCE,
        "images": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
    }
