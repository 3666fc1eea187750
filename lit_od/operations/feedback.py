"""Accept false alarms: images that were called outliers and are normal.

What a detector was fitted on stays, and the images are added. Where that can only lower scores, the calibration scores
that exist are at least those that the new detector would give, so that they and the threshold stay.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from lit_od.bundle import folder as bundles
from lit_od.bundle.detector_state import restored_sums, sums_bytes
from lit_od.bundle.folder import ACCUMULATOR, GOLDEN, MADE, Bundle, golden_arrays, golden_bytes
from lit_od.bundle.golden import differences
from lit_od.bundle.history import Change
from lit_od.bundle.manifest import Manifest
from lit_od.calibration.p_values import Calibration
from lit_od.detectors.base import Accumulator, Detector
from lit_od.errors import ConfigError, DataError
from lit_od.fitting.engine import LocalEngine
from lit_od.fitting.pixels import maps_for_pixels, threshold_for_pixels, with_peaks
from lit_od.images.identity import content_digest, fingerprint, require_apart
from lit_od.images.sources import Source, tiled
from lit_od.images.split import CALIBRATION_SHARE, fit_and_calibration
from lit_od.images.views import Views
from lit_od.runtime.threads import limited
from lit_od.types import Outputs, Scores

ACCEPTED = "accepted"
"""Key of the provenance's data: number and hashes of the images, and whether the calibration still holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackImages:
    """The images of a feedback, by their use.

    Attributes:
        accepted: Images that are normal.
        calibration: Newer normal images, for a new threshold; none keeps the old one.
        normal: The images that the detector was fitted on, where the bundle lacks their sums.
        on: Images whose verdicts are compared.
    """

    accepted: Sequence[Source]
    calibration: Sequence[Source] = ()
    normal: Sequence[Source] = ()
    on: Sequence[Source] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """The change that accepting images makes.

    Attributes:
        images: The images that are new; others were accepted before, or given twice.
        before: Their scores before, shape (n,).
        after: Their scores after, shape (n,).
        on: Scores of the images to compare, before and after, shape (2, m).
        calibration: The calibration in force after.
        old: The calibration before.
        falls: True if no image's score can rise.
        holds: True if the calibration describes the new detector, or bounds it.
        other_normal: True if the normal images are not those that it was fitted on.
    """

    images: Sequence[Source]
    before: Scores
    after: Scores
    on: Scores
    calibration: Calibration
    old: Calibration
    falls: bool
    holds: bool
    other_normal: bool = False


def accept(
    bundle: Bundle, engine: LocalEngine, images: FeedbackImages, *, dry_run: bool = False, note: str | None = None
) -> Feedback:
    """Accept images as normal, and write the bundle in its place.

    Images that were accepted before, or that are given twice, change nothing.

    Args:
        bundle: The bundle.
        engine: An engine over its backbone.
        images: The images.
        dry_run: Write nothing.
        note: Free text for the history.

    Raises:
        ConfigError: If the detector cannot take images, needs the normal images again, or the bundle cannot be written.
        DataError: If an image cannot be read, or serves twice.
    """
    detector, old = bundle.detector, bundle.calibration
    if not detector.accepts:
        raise ConfigError(
            f"{bundle.path}: detector {detector.kind} takes no further images as it is: fit it anew with lit-od refit"
        )
    if images.calibration and old.rule["rule"] == "max_f1":
        raise ConfigError("rule max_f1 needs labelled outliers: leave --calibration out, and refit with --outliers")
    new, digests = _unknown(bundle, images.accepted)
    for others in (images.calibration, images.normal):
        require_apart(new, others, "image to accept and other normal image")
    require_apart(images.normal, images.calibration, "fit and calibration image")
    _require_not_accepted(bundle, images.calibration)
    sums, instead = _sums(bundle, engine, images.normal) if new else (None, None)
    made = detector
    if new:
        with limited(engine.extractor.threads):
            views = _views(bundle, new, first=bundle.manifest.detector.images)
            made = detector.accept(lambda: _outputs(engine, views), sums, limit=old.threshold)
    calibration = old
    if images.calibration:
        scores = engine.score(made, images.calibration, task="calibrating")
        calibration = Calibration.from_inliers(scores, old.rule)
    found = Feedback(
        images=new,
        before=engine.score(detector, new, task="scoring"),
        after=engine.score(made, new, task="scoring"),
        on=np.stack([engine.score(each, images.on, task="comparing") for each in (detector, made)]),
        calibration=calibration,
        old=old,
        falls=detector.only_lowers,
        holds=bool(images.calibration) or (_holds(bundle) and (detector.only_lowers or not new)),
        other_normal=instead is not None,
    )
    if dry_run or not (new or images.calibration):
        return found
    for_pixels = bundle.manifest.calibration.pixel_threshold
    if images.calibration:
        kept = maps_for_pixels(engine, made, images.calibration)
        calibration = with_peaks(calibration, made, kept)
        for_pixels = threshold_for_pixels(made, calibration, kept)
    manifest = _manifest(bundle, found, for_pixels, digests)
    if instead is not None:
        manifest.provenance.data["fit"] = fingerprint(instead)
        entry = msgspec.structs.replace(manifest.detector, images=len(instead) + len(_accepted(bundle)) + len(digests))
        manifest = msgspec.structs.replace(manifest, detector=entry)
    used = {ACCEPTED: {"images": len(new), "sha256": digests}}
    if images.calibration:
        used["calibration"] = manifest.provenance.data["calibration"] = fingerprint(images.calibration)
    files = {name: bundle.content(name) for name in MADE & bundle.manifest.files.keys()}
    files[GOLDEN] = _golden(bundle, engine, made)
    if ACCUMULATOR in files and sums is not None:
        files[ACCUMULATOR] = sums_bytes(sums)
    change = Change(command="accept", images=used, note=note)
    bundles.write(bundle.path, manifest, made, calibration, files, after=bundle, change=change)
    return found


def _unknown(bundle: Bundle, images: Sequence[Source]) -> tuple[list[Source], list[str]]:
    """Return the images that were not accepted before, each once, and their hashes."""
    known = set(_accepted(bundle))
    new: dict[str, Source] = {}
    for image in images:
        digest = content_digest(image).hex()
        if digest not in known:
            new.setdefault(digest, image)
    return list(new.values()), list(new)


def _require_not_accepted(bundle: Bundle, calibration: Sequence[Source]) -> None:
    """Check that no image that is to calibrate was accepted before.

    Raises:
        DataError: If one was.
    """
    known = set(_accepted(bundle))
    again = [image for image in calibration if content_digest(image).hex() in known] if known else []
    if again:
        raise DataError(
            f"{len(again):,} images of --calibration were accepted before, such as {again[0].name}: the detector knows "
            "them. Leave them out"
        )


def _accepted(bundle: Bundle) -> list[str]:
    """Return the hashes of the images that were accepted before."""
    hashes = _entry(bundle).get("sha256", [])
    return [each for each in hashes if isinstance(each, str)] if isinstance(hashes, list) else []


def _holds(bundle: Bundle) -> bool:
    return _entry(bundle).get("rate_holds") is not False


def _entry(bundle: Bundle) -> dict[str, Any]:
    entry = bundle.manifest.provenance.data.get(ACCEPTED)
    return entry if isinstance(entry, dict) else {}


def _outputs(engine: LocalEngine, images: Sequence[Source]) -> Iterator[Outputs]:
    """Yield the outputs of images, or of their tiles, batch by batch."""
    for found in engine.extractor.outputs(tiled(images, engine.extractor.preparation)):
        found.require_sound()
        yield found.outputs


def _views(bundle: Bundle, images: Sequence[Source], *, first: int = 0) -> Sequence[Source]:
    """Return the views of images in which they fit a bundle's detector.

    Args:
        bundle: The bundle.
        images: Normal images.
        first: Number of the first among all that fit.
    """
    entry = bundle.manifest.detector
    if isinstance(entry.augment, msgspec.UnsetType):
        return images
    return Views.of(images, entry.augment, seed=bundle.manifest.provenance.seed or 0, first=first)


def _sums(
    bundle: Bundle, engine: LocalEngine, normal: Sequence[Source]
) -> tuple[Accumulator | None, Sequence[Source] | None]:
    """Return the sums of what the detector was fitted on, where it needs any.

    Returns:
        The sums; and the images that take the place of those that it was fitted on, if they are others.
    """
    detector = bundle.detector
    sums = detector.sums()
    if sums is None:
        if normal:
            raise ConfigError(f"detector {detector.kind} needs no normal images again: leave --normal out")
        return None, None
    if not normal:
        if ACCUMULATOR in bundle.manifest.files:
            return restored_sums(detector, bundle.content(ACCUMULATOR)), None
        raise ConfigError(
            f"{bundle.path} holds no {ACCUMULATOR}, without which {detector.kind} needs the normal images again: give "
            "--normal PATH, or fit with --keep-accumulator"
        )
    fitted, again, same = _fitted_part(bundle, normal)
    for outputs in _outputs(engine, _views(bundle, [*fitted, *again])):
        sums.update(outputs)
    return sums, None if same else fitted


def _fitted_part(bundle: Bundle, normal: Sequence[Source]) -> tuple[Sequence[Source], Sequence[Source], bool]:
    """Return those normal images that fitted the detector.

    Returns:
        All of them but the accepted ones, or the fit part of those; the accepted ones; and False where the first are
        other images, all of them.

    Raises:
        DataError: If images that were accepted before are not among them.
    """
    known = set(_accepted(bundle))
    places = {content_digest(image).hex(): image for image in normal} if known else {}
    if missing := len(known - places.keys()):
        raise DataError(f"{missing:,} images that were accepted before are not among --normal: add them")
    again = [places[digest] for digest in known]
    rest = [image for image in normal if not any(image is each for each in again)]
    provenance = bundle.manifest.provenance
    wanted, seed = provenance.data.get("fit"), provenance.seed or 0
    split = ((provenance.recipe or {}).get("data") or {}).get("split") or {}
    share = split.get("calibration", CALIBRATION_SHARE)
    divisions: list[Callable[[], Sequence[Source]]] = [
        lambda: rest,
        lambda: fit_and_calibration(rest, seed=seed, share=share)[0],
    ]
    for divided in divisions:
        if len(rest) >= 3 and fingerprint(fit := divided()) == wanted:
            return fit, again, True
    return rest, again, False


def _manifest(bundle: Bundle, found: Feedback, for_pixels: float | None, digests: Sequence[str]) -> Manifest:
    """Return the manifest of the bundle that has accepted the images."""
    old, change = bundle.manifest, msgspec.structs.replace
    hashes = [*_accepted(bundle), *digests]
    accepted = {"images": len(hashes), "sha256": hashes, "rate_holds": found.holds}
    held_out = found.calibration.folds is None  # whatever the old images were
    entry = change(
        old.calibration,
        threshold=found.calibration.threshold,
        rule=found.calibration.rule,
        images=found.calibration.scores.size,
        pixel_threshold=for_pixels,
        method=msgspec.UNSET if held_out else old.calibration.method,
        folds=msgspec.UNSET if held_out else old.calibration.folds,
    )
    return change(
        old,
        detector=change(old.detector, images=old.detector.images + len(digests)),
        calibration=entry,
        provenance=change(old.provenance, data={**old.provenance.data, ACCEPTED: accepted}),
    )


def _golden(bundle: Bundle, engine: LocalEngine, detector: Detector) -> bytes:
    """Return the golden images with the scores of the new detector, proven.

    Raises:
        DataError: If the detector does not give them again.
    """
    golden, extractor = golden_arrays(bundle), engine.extractor
    golden["scores"] = detector.score(golden["outputs"])
    if differ := differences(golden, extractor.preparation, extractor.backbone, detector, bundle.manifest.tolerance):
        raise DataError(f"the bundle does not score its own golden images as it must: {differ[0]}")
    return golden_bytes(golden)
