"""The page: what the bundle is, the figures, the pictures, the galleries, and a threshold to be moved."""

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
from PIL import Image

from lit_od.bundle.folder import Bundle
from lit_od.bundle.model_card import model_facts
from lit_od.evaluation import plots
from lit_od.evaluation.counts import FIGURES
from lit_od.evaluation.evaluate import TITLES, Evaluation, SetFigures, SetSummary, evaluate, percent
from lit_od.evaluation.image_sets import FITTED, ImageSet, ImageSets, score_set
from lit_od.evaluation.plots.style import COLOURS, ScoreAxis, drawing
from lit_od.evaluation.report.cards import SEARCHED, Card, Gallery, Normals, gallery
from lit_od.formats.text import one_line
from lit_od.scoring.maps import HeatMaps
from lit_od.scoring.scorer import Scorer
from lit_od.types import Images, Scores

THUMBNAIL = 112
"""Longer side of an image on the page in pixels; smaller ones stay as they are, and are enlarged in the browser."""

QUALITY = 85
"""Of JPEG; images of at most `EXACT` pixels a side are kept as PNG, without loss."""

EXACT = 40

WHOSE = {FITTED: "of the fit"}
"""What normal images are called on the page, by the name of their set."""

INK = {"#000000": "currentColor"}
"""What colours of the pictures are on the page, whose ground may be dark; it turns the pictures itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """A finished report.

    Attributes:
        html: The page.
        evaluation: Its figures.
    """

    html: str
    evaluation: Evaluation


def report(bundle: Bundle, scorer: Scorer, images: ImageSets, *, normals: ImageSet | None = None) -> Report:
    """Score sets of images and put all that there is to see on one page.

    Args:
        bundle: What the scorer was made of.
        scorer: Scores.
        images: Inliers and sets of outliers, used for neither fitting nor calibration.
        normals: Normal images to look for the nearest among; None takes the inliers themselves.

    Raises:
        DataError: If an image cannot be read, or a set is empty.
    """
    sets = [images.inliers, *images.outliers]
    scores = {each.name: score_set(scorer, each) for each in sets}
    inliers = scores[images.inliers.name]
    outliers = {each.name: scores[each.name] for each in images.outliers}
    threshold = bundle.calibration.threshold
    found = evaluate(inliers, outliers, threshold=threshold)
    searched = Normals(scorer, normals or images.inliers)
    maps = HeatMaps.of(bundle, scorer=scorer)
    galleries = [gallery(scorer, each, scores[each.name], maps=maps, normals=searched) for each in sets]
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
        figures=[
            (name, [percent(values[key]) for key in FIGURES])
            for name, values in (
                *((name, each.figures) for name, each in found.outliers.items()),
                ("mean", found.macro),
            )
        ],
        summaries=_summaries(images.inliers.name, found.inliers, found.outliers),
        pictures=_pictures(bundle, scores, inliers, outliers, threshold),
        galleries=[_shown(each, threshold) for each in galleries],
        reads_errors=bundle.detector.reads == "errors",
        neighbours="given as inliers" if normals is None else WHOSE.get(normals.name, "given as normal"),
        searched=SEARCHED,
        percent=lambda share: f"{100 * share:.2f}",
    )
    return Report(page, found)


def _template() -> Any:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_printable
    )
    return environment.from_string(_packaged("page.html"))


def _printable(value: Any) -> Any:
    """Text such that a page can hold it: names of files and sets need not be Unicode. The rest as it is."""
    return one_line(value, len(value)) if isinstance(value, str) and not isinstance(value, Markup) else value


def _packaged(name: str) -> Markup:
    return Markup(files(__package__).joinpath(name).read_text(encoding="utf-8"))  # our own file


def _data(scores: Mapping[str, Scores], threshold: float) -> dict[str, Any]:
    """What the script counts with: ascending float64 scores, little endian, in base 64; the inliers first."""
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


def _summaries(
    name: str, inliers: SetSummary, outliers: Mapping[str, SetFigures]
) -> list[tuple[str, str, str, str, str, str]]:
    rows = [(name, inliers, None), *((key, each.scores, each.best_balanced_accuracy) for key, each in outliers.items())]
    return [
        (
            key,
            f"{each.n:,}",
            f"{each.mean:#.4g}",
            f"{each.sd:#.4g}",
            percent(each.flagged),
            f"{100 * best.balanced_accuracy:.2f} above {best.threshold:#.4g}" if best else "",
        )
        for key, each, best in rows
    ]


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
    """A figure as an element of the page; names within it are made its own, since all share the page."""
    file = io.StringIO()
    with drawing():
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    own = f"f{number}-"
    text = re.sub(r'\bid="', f'id="{own}', text)
    text = re.sub(r'(xlink:href|href)="#', rf'\1="#{own}', text)
    text = re.sub(r"url\(#", f"url(#{own}", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    label = Markup.escape(title)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))  # Matplotlib escapes


def _shown(each: Gallery, threshold: float) -> dict[str, Any]:
    return {
        "name": each.name,
        "halves": [
            ("Most outlying", [_card(card, threshold) for card in each.most]),
            ("Least outlying", [_card(card, threshold) for card in each.least]),
        ],
    }


def _card(card: Card, threshold: float) -> dict[str, Any]:
    return {
        "name": card.name,
        "score": card.score,
        "p_value": card.p_value,
        "is_outlier": card.score > threshold,
        "image": _uri(_picture(card.image)),
        "pixelated": max(card.image.shape[:2]) <= EXACT,
        "heat": None if card.heat is None else _uri(_picture(card.heat)),
        "neighbours": [(name, _uri(_picture(pixels))) for name, pixels in card.neighbours],
        "explained": None if card.explained is None else _uri(card.explained, limit=3 * THUMBNAIL),
    }


def _picture(pixels: Images) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _uri(picture: Image.Image, *, limit: int = THUMBNAIL) -> str:
    """A picture, reduced where it is larger than the limit, within the page's own text."""
    exact = max(picture.size) <= EXACT
    picture.thumbnail((limit, limit))
    file = io.BytesIO()
    kind = "PNG" if exact else "JPEG"
    picture.save(file, kind, **({"optimize": True} if exact else {"quality": QUALITY}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
