"""The report page: facts, figures, pictures, galleries, and a movable threshold."""

import base64
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from lit_od.bundle.folder import Bundle
from lit_od.bundle.model_card import model_facts
from lit_od.evaluation import plots
from lit_od.evaluation.counts import FIGURES
from lit_od.evaluation.defects import DefectEvaluation, evaluate_defects
from lit_od.evaluation.evaluate import TITLES, Evaluation, evaluate
from lit_od.evaluation.image_sets import FITTED, ImageSet, ImageSets, score_set
from lit_od.evaluation.plots.style import COLOURS, ScoreAxis, drawing
from lit_od.evaluation.report.cards import SEARCHED, Galleries, Normals, ShownRegions
from lit_od.formats.text import one_line
from lit_od.scoring.colour_scale import STEPS
from lit_od.scoring.maps import HeatMaps
from lit_od.scoring.scorer import Scorer
from lit_od.types import Images, Scores

THUMBNAIL = 112
"""Longer side of a neighbour on the page in pixels; smaller ones keep their size and are enlarged in the browser."""

VIEW = 256
"""Longer side of an image, its map and its mask."""

QUALITY = 85
"""JPEG quality; images of at most `EXACT` pixels a side are kept as PNG, without loss."""

EXACT = 40

NORMAL_SETS = {FITTED: "of the fit"}
"""Words for normal images on the page, by the name of their set."""

INK = {"#000000": "currentColor"}
"""Replaced colours of the page's script: the ground may be dark. The page adapts the pictures itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """A finished report.

    Attributes:
        html: The page.
        evaluation: The page's figures.
        defects: Its figures on a category of defects, or None.
    """

    html: str
    evaluation: Evaluation
    defects: DefectEvaluation | None = None


def report(bundle: Bundle, scorer: Scorer, images: ImageSets, *, normals: ImageSet | None = None) -> Report:
    """Score sets of images and show all results on one page.

    Args:
        bundle: The bundle.
        scorer: The bundle's scorer.
        images: Inliers and sets of outliers, used for neither fitting nor calibration.
        normals: Normal images to search for the nearest; None takes the inliers.

    Raises:
        DataError: If an image cannot be read, or a set is empty.
    """
    sets = [images.inliers, *images.outliers]
    defects = evaluate_defects(scorer, images) if images.layout is not None else None
    scores = {each.name: score_set(scorer, each) for each in sets} if defects is None else defects.scores
    inliers = scores[images.inliers.name]
    outliers = {each.name: scores[each.name] for each in images.outliers}
    threshold = bundle.calibration.threshold
    found = evaluate(inliers, outliers, threshold=threshold) if defects is None else defects.images
    searched = Normals(scorer, normals or images.inliers)
    maps = HeatMaps.of(bundle, scorer)
    made = Galleries(scorer, maps, searched, images.truth)
    galleries = [made.gallery(each, scores[each.name]) for each in sets]
    page = _template().render(
        name=bundle.manifest.name,
        facts=model_facts(bundle.manifest, bundle.calibration),
        style=_packaged("page.css"),
        script=_packaged("page.js"),
        data=_data(scores, threshold),
        threshold=threshold,
        rule=bundle.calibration.rule["rule"],
        outliers=list(outliers),
        inliers=images.inliers.name,
        evaluation=found,
        titles=[TITLES[name] for name in FIGURES],
        figures=found.figure_rows(),
        defects=defects.figure_tables() if defects is not None else [],
        notes=defects.notes if defects is not None else [],
        summaries=[
            [*row, best] for row, best in zip(found.score_rows(images.inliers.name), ["", *_best(found)], strict=True)
        ],
        pictures=_pictures(bundle, scores, inliers, outliers, threshold),
        galleries=galleries,
        reads_errors=bundle.detector.reads == "errors",
        scale=maps.scale,
        steps=STEPS,
        pixel_threshold=scorer.pixel_threshold,
        has_truth=images.truth is not None,
        neighbours="given as inliers" if normals is None else NORMAL_SETS.get(normals.name, "given as normal"),
        searched=SEARCHED,
        exact=EXACT,
        view=VIEW,
    )
    return Report(page, found, defects)


def _template() -> Any:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_printable
    )
    environment.filters.update(uri=_uri, drawn=_drawn)
    return environment.from_string(_packaged("page.html"))


def _printable(value: Any) -> Any:
    """Make text printable; return other values unchanged.

    Names of files and sets need not be Unicode.
    """
    return one_line(value, len(value)) if isinstance(value, str) and not isinstance(value, Markup) else value


def _packaged(name: str) -> Markup:
    return Markup(files(__package__).joinpath(name).read_text(encoding="utf-8"))  # ships with the package


def _data(scores: Mapping[str, Scores], threshold: float) -> dict[str, Any]:
    """Return the data of the page's script, the inliers first.

    Scores are ascending float64, little endian, in base 64.
    """
    axis = ScoreAxis.of(list(scores.values()), threshold)
    return {
        "threshold": threshold,
        "axis": {"log": axis.log, "low": float(axis.low), "high": float(axis.high)},
        "colours": [INK.get(colour, colour) for colour in COLOURS],
        "sets": [
            {"name": _printable(name), "scores": base64.b64encode(np.sort(each).astype("<f8").tobytes()).decode()}
            for name, each in scores.items()
        ],
    }


def _best(found: Evaluation) -> list[str]:
    """Format the best balanced accuracy of each set of outliers, and its threshold."""
    best = [each.best_balanced_accuracy for each in found.outliers.values()]
    return [f"{100 * each.balanced_accuracy:.2f} above {each.threshold:#.4g}" for each in best]


def _pictures(
    bundle: Bundle, scores: Mapping[str, Scores], inliers: Scores, outliers: Mapping[str, Scores], threshold: float
) -> list[tuple[str, Markup]]:
    p_values = {name: bundle.calibration.p_values(each) for name, each in scores.items()}
    drawn = [
        ("Scores by set", plots.box_violin(scores, threshold)),
        ("Means with standard deviations", plots.means_with_sd(scores, threshold)),
        ("Receiver operating characteristic", plots.roc_curves(inliers, outliers, threshold)),
        ("Precision and recall", plots.precision_recall(inliers, outliers, threshold)),
        ("Scores in the order of the images", plots.score_against_index(scores, threshold)),
        ("Reliability of p-values", plots.p_value_reliability(p_values, calibration=bundle.calibration.scores.size)),
    ]
    return [(title, _svg(figure, number, title)) for number, (title, figure) in enumerate(drawn)]


def _svg(figure: Figure, number: int, title: str) -> Markup:
    """Convert a figure to an element of the page.

    Names within it get a prefix, since all figures share the page.
    """
    file = io.StringIO()
    with drawing():
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    prefix = f"f{number}-"
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'(xlink:href|href)="#', rf'\1="#{prefix}', text)
    text = re.sub(r"url\(#", f"url(#{prefix}", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    label = Markup.escape(title)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))  # Matplotlib escapes


def _drawn(regions: ShownRegions) -> dict[str, Any]:
    """Return regions as the page's script draws and lists them."""
    path = "".join(
        f"M{x} {y}" + (f"H{right}" if y == bottom else f"V{bottom}") for x, y, right, bottom in regions.outline
    )
    found = [{"area": each.area, "peak": each.peak, "at": each.at} for each in regions.found]
    return {"outline": path, "regions": [{"box": box, **each} for box, each in zip(regions.boxes, found, strict=True)]}


def _uri(pixels: Images | NDArray[np.bool_], limit: int = THUMBNAIL) -> str:
    """Encode a picture, or a mask, as a data URI; it is reduced to the limit."""
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    exact = max(picture.size) <= EXACT or picture.mode == "1"
    picture.thumbnail((limit, limit), Image.Resampling.NEAREST if picture.mode == "1" else Image.Resampling.BICUBIC)
    file = io.BytesIO()
    kind = "PNG" if exact else "JPEG"
    picture.save(file, kind, **({"optimize": True} if exact else {"quality": QUALITY}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
