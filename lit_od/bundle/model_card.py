"""The model card: a Markdown page about a bundle.

`inspect` prints it, and the bundle's README.md holds it.
"""

from typing import Any

import msgspec

from lit_od.bundle.manifest import Manifest
from lit_od.calibration.method import TYPICAL
from lit_od.calibration.p_values import Calibration
from lit_od.formats.text import one_line
from lit_od.images.preparation import counted_pixels
from lit_od.import_paths import trust_option

USE = (
    "Use it for images of the kind that it was fitted and calibrated on. A p-value is {valid} for images that are "
    "exchangeable with the calibration inliers; another camera, crop or compression makes another kind."
)
LIMITS = (
    "It says how unlike those images another is, not what is wrong with it, and knows no kind of outlier by name. "
    "An image that is broken in a way that the backbone's features do not show gets an ordinary score. Measure it "
    "on outliers of your own before a decision depends on it: lit-od evaluate."
)


def model_card(manifest: Manifest, calibration: Calibration) -> str:
    """Write the model card from the manifest and the calibration."""
    name = _value(manifest.name)
    lines = [
        f"# {name}",
        "",
        "An outlier detector for images, made by lit_od. Higher scores are more outlying; "
        f"an image is called an outlier above {calibration.threshold:.6g}.",
        "",
        f"    lit-od score {name} IMAGES...{trust_option(_value(manifest.detector.kind))}",
        "",
        "| | |",
        "|---|---|",
        *(f"| {fact} | {text} |" for fact, text in model_facts(manifest, calibration)),
        "",
        USE.format(valid="valid" if calibration.folds is None and not since_accepted(manifest) else "approximate"),
        "",
        LIMITS,
        "",
    ]
    return "\n".join(lines)


def model_facts(manifest: Manifest, calibration: Calibration) -> list[tuple[str, str]]:
    """List facts about a bundle, each a name and a text."""
    since = since_accepted(manifest)
    preparation, model, provenance = manifest.preparation, manifest.model, manifest.provenance
    crop = f"centre crop {preparation.crop[0]}x{preparation.crop[1]}, then " if preparation.crop else ""
    if preparation.crop_fraction is not None:
        crop = f"centre crop of {preparation.crop_fraction:.0%}, then "
    counted = counted_pixels(preparation)
    region = "" if counted is None else f", of which {counted.mean():.0%} are in the region of interest and count"
    options = {key: value for key, value in manifest.detector.options.items() if key not in ("mask", "views")}
    depth = f", 16-bit grey of {preparation.bits} bits" if isinstance(preparation.bits, int) else ""
    rule = {key: value for key, value in calibration.rule.items() if key != "rule"}
    size = f"{preparation.size[0]}x{preparation.size[1]}"
    shown = f"{crop}{size} {preparation.mode}, {preparation.resize}"
    if preparation.has_tiles:
        shown = f"whole, in tiles of {size} {preparation.mode} that share {preparation.overlap} pixels"
        region = "" if preparation.region is None else ", of which those in the region of interest count"
    facts = [
        ("images", f"{shown}{depth}{region}"),
        (
            "backbone",
            f"{_shape(model.input_shape)} uint8 to {model.output} {_shape(model.output_shape)}"
            + (f", opset {model.opset}" if model.opset else "")
            + (f", int8 with weights of {model.weight_bits} bits" if isinstance(model.weight_bits, int) else ""),
        ),
        (
            "detector",
            f"{_value(manifest.detector.kind)}{_options(options)}, fitted on {manifest.detector.images:,} images"
            f"{_views(manifest)}",
        ),
        (
            "threshold",
            f"{calibration.threshold:.6g} by {_value(calibration.rule['rule'])}{_options(rule)}, "
            f"{false_positives(calibration)}{since}",
        ),
        (
            "calibration",
            f"{calibration.scores.size:,} inliers, {method(calibration)}, scores {calibration.scores[0]:.6g} to "
            f"{calibration.scores[-1]:.6g}, {calibration.flagged_share():.2%} above the threshold",
        ),
        ("rate", f"{supported_rate(calibration)}{since}"),
        ("made", _value(provenance.created) + (f", seed {provenance.seed}" if provenance.seed is not None else "")),
    ]
    pixels = manifest.calibration.pixel_threshold
    if pixels is not None:
        text = (
            f"a squared error above {pixels:.6g} stands out: 1 % of the inliers' pixels have one"
            if manifest.model.output != "patches"
            else f"the run that scores an image maps each place too; above {pixels:.6g} it stands out"
        )
        facts.insert(-1, ("pixels", text))
    if provenance.recipe and provenance.recipe.get("description"):
        facts.insert(0, ("made for", _value(provenance.recipe["description"], limit=400)))
    facts += [
        (name, _pairs(pairs))
        for name, pairs in (
            ("data", provenance.data),
            ("metrics", provenance.metrics),
            ("versions", provenance.versions),
        )
        if pairs
    ]
    return facts


def false_positives(calibration: Calibration) -> str:
    """Describe the threshold's false-positive rate, with its 95 % interval."""
    if calibration.folds is not None and calibration.folds.count == 1:
        return "false-positive rate unknown"
    low, high = calibration.fpr_interval()
    chosen = calibration.rule["rule"] == "max_f1"
    caution = "; max_f1 chose it by these inliers too, so expect more" if chosen else ""
    about = "" if calibration.folds is None else ", approximate"
    return f"false-positive rate {low:.2%} to {high:.2%} (95 % interval{about}{caution})"


def method(calibration: Calibration) -> str:
    """Describe the method of a calibration."""
    if calibration.folds is None:
        return "held out"
    folds = calibration.folds.count
    if folds == 1:
        return "1 image, scored by its own other views"
    return "cross, each left out" if folds == calibration.scores.size else f"cross in {folds} folds"


def supported_rate(calibration: Calibration) -> str:
    """Describe a calibration's rates of false positives: promised, proven, typical."""
    count, promised = calibration.scores.size, calibration.promised()
    least = f"{count:,} calibration inliers support {1 / (count + 1):.2%} at the least"
    if calibration.folds is not None and calibration.folds.count == 1:
        return "1 image supports no rate of false positives"
    if promised is None:
        return f"{least}; rule {_value(calibration.rule['rule'])} promises none"
    if calibration.folds is None:
        return f"{least}; promised and proven at most {promised:.2%}"
    proven = calibration.folds.proven(promised, count)
    shown = "nothing of this detector" if proven is None else f"at most {proven:.2%}"
    low, high = (share * promised for share in TYPICAL)
    return f"{least}; promised {promised:.2%}, proven {shown}, typical {low:.2%} to {high:.2%}"


def since_accepted(manifest: Manifest) -> str:
    """Say that accepted images have outdated the calibration, where they have."""
    accepted = manifest.provenance.data.get("accepted")
    outdated = isinstance(accepted, dict) and accepted.get("rate_holds") is False
    return " before images were accepted, and not guaranteed since (lit-od refit)" if outdated else ""


def _views(manifest: Manifest) -> str:
    """Say in how many views images fitted the detector, where they did."""
    augment = manifest.detector.augment
    if isinstance(augment, msgspec.UnsetType):
        return ""
    changes = {key: value for key, value in msgspec.to_builtins(augment).items() if key != "views"}
    plain = msgspec.to_builtins(type(augment)())
    return f" in {augment.count} views each{_options({k: v for k, v in changes.items() if v != plain[k]})}"


def _shape(shape: list[int | None]) -> str:
    return "(" + ", ".join("n" if side is None else str(side) for side in shape) + ")"


def _options(options: dict[str, Any]) -> str:
    return f" ({_pairs(options)})" if options else ""


def _pairs(pairs: dict[str, Any]) -> str:
    return ", ".join(f"{_value(key)} {_value(value)}" for key, value in pairs.items())


def _value(value: Any, *, limit: int = 80) -> str:
    """Format a name or value of an untrusted manifest for a Markdown table."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return f"({_pairs(value)})"
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        return "; ".join(_value(each) for each in value)
    return one_line(str(value).replace("\n", " "), limit).replace("|", "/")
