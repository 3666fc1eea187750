"""The model card: what a bundle is, for a person. `inspect` prints it, the bundle's README.md holds it."""

from typing import Any

from lit_od.calibration import Calibration
from lit_od.manifest import Manifest


def model_card(manifest: Manifest, calibration: Calibration) -> str:
    """A Markdown page from the manifest and the calibration."""
    how = manifest.preparation
    crop = f"centre crop {how.crop[0]}x{how.crop[1]}, then " if how.crop else ""
    if how.crop_fraction is not None:
        crop = f"centre crop of {how.crop_fraction:.0%}, then "
    model = manifest.model
    lines = [
        f"# {manifest.name}",
        "",
        "An outlier detector for images, made by lit_od. Higher scores are more outlying; "
        f"an image is called an outlier above {calibration.threshold:.6g}.",
        "",
        f"    lit-od score {manifest.name} IMAGES...",
        "",
        "| | |",
        "|---|---|",
        f"| images | {crop}{how.size[0]}x{how.size[1]} {how.mode}, {how.resize} |",
        f"| backbone | {_shape(model.input_shape)} uint8 to {model.output} {_shape(model.output_shape)}"
        + (f", opset {model.opset} |" if model.opset else " |"),
        f"| detector | {manifest.detector.kind}{_options(manifest.detector.options)}, "
        f"fitted on {manifest.detector.images:,} images |",
        f"| threshold | {calibration.threshold:.6g} by {calibration.rule['rule']}"
        f"{_options({key: value for key, value in calibration.rule.items() if key != 'rule'})}, "
        f"{false_positives(calibration)} |",
        f"| calibration | {calibration.scores.size:,} inliers, scores {calibration.scores[0]:.6g} to "
        f"{calibration.scores[-1]:.6g}, {calibration.flagged_share():.2%} above the threshold |",
        f"| made | {manifest.provenance.created}"
        + (f", seed {manifest.provenance.seed} |" if manifest.provenance.seed is not None else " |"),
    ]
    if manifest.provenance.data:
        lines.append(f"| data | {_pairs(manifest.provenance.data)} |")
    if manifest.provenance.metrics:
        lines.append(f"| metrics | {_pairs(manifest.provenance.metrics)} |")
    if manifest.provenance.versions:
        lines.append(f"| versions | {_pairs(manifest.provenance.versions)} |")
    lines += [
        "",
        "Use it for images of the kind that it was fitted and calibrated on. A p-value is valid for images "
        "that are exchangeable with the calibration inliers; another camera, crop or compression makes another "
        "kind.",
        "",
    ]
    return "\n".join(lines)


def false_positives(calibration: Calibration) -> str:
    """The threshold's false-positive rate in words, with its 95 % interval."""
    low, high = calibration.fpr_interval()
    chosen = calibration.rule["rule"] == "max_f1"
    caution = "; max_f1 chose it by these inliers too, so expect more" if chosen else ""
    return f"false-positive rate {low:.2%} to {high:.2%} (95 % interval{caution})"


def _shape(shape: list[int | None]) -> str:
    return "(" + ", ".join("n" if side is None else str(side) for side in shape) + ")"


def _options(options: dict[str, Any]) -> str:
    return f" ({_pairs(options)})" if options else ""


def _pairs(pairs: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_value(value)}" for key, value in pairs.items())


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return f"({_pairs(value)})"
    return str(value)[:80].replace("|", "/").replace("\n", " ")
