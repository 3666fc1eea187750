"""Answers that hold maps: pictures, raw values, regions, prepared images."""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from lit_od.backbone.extractor import Extracted
from lit_od.detectors import PixelDetector
from lit_od.scoring.colour_scale import STEPS, TOP
from lit_od.scoring.drawing import OPAQUE, OUTLINE, in_colour
from lit_od.scoring.maps import HeatMaps
from lit_od.scoring.result import Result
from lit_od.scoring.scorer import Scorer
from lit_od.serving.tensors import Column
from lit_od.types import Images

MAP, RAW, REGIONS, PREPARED = "map", "raw", "regions", "prepared"
"""Outputs that are computed only on request; all but the first need a detector that has maps.

They are a picture; the map's values, float32 (h, w); regions as JSON; and a picture of the prepared image, with its
reconstruction on its right where there is one.
"""

LARGE = frozenset({MAP, RAW, PREPARED})
"""Outputs that hold a picture or a map: a worker takes one image at a time."""

MAPPED = frozenset({MAP, RAW, REGIONS})
"""Outputs that need maps."""


def has_maps(scorer: Scorer) -> bool:
    """Return True if scores come with maps and regions."""
    return isinstance(scorer.detector, PixelDetector) and scorer.pixel_threshold is not None


def map_outputs(scorer: Scorer) -> dict[str, tuple[str, list[int]]]:
    """List type and shape of a model's outputs of maps; -1 is the number of images."""
    found = {MAP: ("BYTES", [-1])}
    if has_maps(scorer):
        sides = [-1, -1] if scorer.preparation.has_tiles else list(scorer.preparation.size)
        found |= {RAW: ("FP32", [-1, *sides]), REGIONS: ("BYTES", [-1]), PREPARED: ("BYTES", [-1])}
    return found


def map_answers(maps: HeatMaps, wanted: frozenset[str], result: Result, found: Extracted) -> dict[str, Column]:
    """Return the wanted outputs of maps.

    Args:
        maps: Heat maps of the model.
        wanted: Names of outputs.
        result: Verdicts on the images, with maps and regions if the detector has them and they are needed.
        found: The batch that they come from.
    """
    answers: dict[str, Column] = {}
    batch, sound = found.batch, np.flatnonzero(found.finite)
    if MAP in wanted:
        drawn = maps.pictures(batch.images[sound], None if found.maps is None else found.maps[sound])
        pictures = dict(zip(batch.rows[sound].tolist(), (_png(each.picture) for each in drawn), strict=True))
        answers[MAP] = _spread(pictures, len(result))
    if PREPARED in wanted:
        shown = dict(zip(batch.rows.tolist(), map(_png, _below(maps, batch.images)), strict=True))
        answers[PREPARED] = _spread(shown, len(result))
    if RAW in wanted and result.maps is not None:
        answers[RAW] = np.stack(result.maps) if isinstance(result.maps, tuple) else result.maps
    if REGIONS in wanted and result.regions is not None:
        known = zip(result.regions, result.error, strict=True)
        answers[REGIONS] = [json.dumps(None if error else [asdict(each) for each in own]) for own, error in known]
    return answers


def map_card(maps: HeatMaps) -> dict[str, Any]:
    """Describe thresholds and colours of a model's maps for the page."""
    scorer, scale = maps.scorer, maps.scale
    assert isinstance(scorer.detector, PixelDetector)
    return {
        "threshold": scorer.pixel_threshold,
        "one_threshold": scorer.detector.score_is_peak,
        "normal": scale.normal,
        "height": scale.height,
        "top": TOP,
        "marks": scale.marks(),
        "colours": STEPS,
        "opaque": OPAQUE,
        "outline": OUTLINE,
    }


def large_bytes(answers: Mapping[str, Column]) -> int:
    """Count the bytes of pictures and maps among the answers; all else is small."""
    pictures = sum(len(each) for name in (MAP, PREPARED) for each in answers.get(name, ()))
    return pictures + np.asarray(answers.get(RAW, ())).nbytes


def _below(maps: HeatMaps, images: Images) -> list[Image.Image]:
    """Return the pictures on which maps are drawn, reconstructions on their right."""
    if not len(images):
        return []
    parts = [images, maps.reconstructed(images)]
    return [
        Image.fromarray(each) for each in np.concatenate([in_colour(part) for part in parts if part is not None], 2)
    ]


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _spread(pictures: Mapping[int, bytes], count: int) -> list[bytes]:
    """Return the pictures of all images, empty where there is none."""
    return [pictures.get(row, b"") for row in range(count)]
