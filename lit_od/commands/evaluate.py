"""Measure how well a bundle tells inliers from outliers.

It prints AUROC, AUPR and FPR at 95 % TPR with confidence intervals.

On defects it prints AUROC, AUPR and F1-max of images by kind of defect, and AUROC and AUPRO of pixels where the bundle
has maps in one pass: --data.root CATEGORY in the layout of MVTec AD, LOCO, AD 2 or VisA; or --data.root FOLDER with
--masks DIR, where an image with an empty mask, or in a folder called good, is normal; or --masks DIR for the images of
--outliers. Maps and masks are compared at the prepared size.

Without --inliers and --outliers, the sets of the bundle's own recipe. PATHs as in lit-od score, and
torchvision's sets: mnist:test:8,9, fashion-mnist:test, cifar10:all (under --data.root or LIT_OD_DATA).

  lit-od evaluate BUNDLE --inliers good/ --outliers scratch=scratches/ --outliers dent=dents/
  lit-od evaluate BUNDLE --data.root mvtec/pill --out figures
"""

import argparse
import json
import math
import sys
from pathlib import Path

import msgspec

from lit_od.bundle.folder import Bundle, rewrite
from lit_od.commands._arguments import (
    add_json_argument,
    add_session_arguments,
    extra,
    print_json,
    read_bundle,
    session_options,
)
from lit_od.commands._evaluation_sets import AGAINST, add_set_arguments, chosen_sets
from lit_od.commands._status import DONE
from lit_od.evaluation.defects import DefectEvaluation, evaluate_defects
from lit_od.evaluation.evaluate import Evaluation, evaluate
from lit_od.evaluation.image_sets import score_set, tell_of_seen
from lit_od.formats.atomic import require_writable
from lit_od.formats.text import printable
from lit_od.scoring.scorer import Scorer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_set_arguments(parser)
    parser.add_argument("--out", metavar="DIR", help="write metrics.json, table.txt and histogram.png there")
    parser.add_argument(
        "--record", action="store_true", help="write the figures into the bundle, where its card and inspect show them"
    )
    add_json_argument(parser)
    add_session_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Score the sets and print the table."""
    with extra("evaluate,cpu"):
        from lit_od.evaluation import plots
    if args.out:
        require_writable(Path(args.out))
    bundle = read_bundle(args.bundle, args)
    scorer = Scorer.of(bundle, **session_options(args))
    images = chosen_sets(args, overrides, bundle)
    tell_of_seen(bundle, overrides, images)
    found: Evaluation | DefectEvaluation
    if images.layout is not None:
        found = evaluate_defects(scorer, images)
        scores, of_images = found.scores, found.images
    else:
        scores = {each.name: score_set(scorer, each) for each in (images.inliers, *images.outliers)}
        inliers, *names = scores
        outliers = {name: scores[name] for name in names}
        found = of_images = evaluate(scores[inliers], outliers, threshold=bundle.calibration.threshold)
    if args.json:
        print_json(found.to_json())
    else:
        print(printable(found.table(), keep="\n"))
    if args.out:
        out = Path(args.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "metrics.json").write_text(json.dumps(found.to_json(), indent=2) + "\n", encoding="utf-8")
        (out / "table.txt").write_text(found.table() + "\n", encoding="utf-8", errors="surrogateescape")
        figure = plots.score_histograms(scores, bundle.calibration.threshold)
        plots.save(figure, out / "histogram.png")
        print(f"{out}: metrics.json, table.txt, histogram.png", file=sys.stderr if args.json else sys.stdout)
    if args.record:
        _record(bundle, of_images)
        print(f"{args.bundle}: figures recorded", file=sys.stderr if args.json else sys.stdout)
    return DONE


def _record(bundle: Bundle, found: Evaluation) -> None:
    """Write figures that do not depend on the threshold into the manifest."""
    kept = {name: value for name, value in bundle.manifest.provenance.metrics.items() if not name.startswith(AGAINST)}
    for name, each in found.outliers.items():
        area = each.figures["auroc"]
        kept[f"{AGAINST}{name}"] = {
            "inliers": found.inliers.n,
            "outliers": each.scores.n,
            "auroc": area.value,
            **({} if math.isnan(area.low) else {"auroc_low": area.low, "auroc_high": area.high}),
            "fpr95": each.figures["fpr95"].value,
        }
    provenance = msgspec.structs.replace(bundle.manifest.provenance, metrics=kept)
    rewrite(bundle, msgspec.structs.replace(bundle.manifest, provenance=provenance), bundle.calibration)
