"""The page of a comparison of two bundles: figures, scores, changed images."""

from collections.abc import Sequence

from lit_od.evaluation.paired import SHOWN, Change, PairedComparison, PairedScores
from lit_od.evaluation.plots.paired import score_pairs
from lit_od.evaluation.report.cards import small_picture
from lit_od.evaluation.report.elements import EXACT, packaged, svg_element, template
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Source
from lit_od.types import Images

WORDS = {"neither": "normal by both", "first": "outlier by A", "second": "outlier by B", "both": "outlier by both"}
"""Words for verdicts."""


def comparison_page(
    found: PairedComparison,
    scores: PairedScores,
    sources: Sequence[Source],
    preparation: Preparation,
    thresholds: tuple[float, float],
) -> str:
    """Return a page of HTML that opens offline.

    Args:
        found: The comparison.
        scores: The scores that it compares.
        sources: The compared images, in their order.
        preparation: Preparation of the images that are shown.
        thresholds: Thresholds of both bundles.
    """
    agreement = "-" if found.agreement is None else f"{found.agreement:.4f}"
    facts = [
        ("Images", f"{found.images:,}, {found.left_out:,} left out that one could not score"),
        ("Rank correlation", f"{agreement} (Spearman)"),
        *((words[0].upper() + words[1:], f"{found.verdicts[verdict]:,}") for verdict, words in WORDS.items()),
    ]

    def cards(changes: Sequence[Change]) -> list[tuple[Change, Images]]:
        return [(each, small_picture(sources[each.row], preparation)) for each in changes[:SHOWN]]

    figure = score_pairs(scores.first.score, scores.second.score, scores.sets, thresholds, found.bundles)
    page: str = template("comparison.html").render(
        found=found,
        facts=facts,
        style=packaged("page.css"),
        picture=svg_element(figure, 0, "Scores of both bundles"),
        galleries=[
            ("Largest changes of rank", cards(found.moved)),
            ("Verdicts that differ", cards(found.turned)),
        ],
        words=WORDS,
        exact=EXACT,
    )
    return page
