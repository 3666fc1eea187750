"""Make an int8 bundle of a bundle.

The backbone is brought to int8; everything else is fitted anew on what it computes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from lit_od.bundle.folder import ACCUMULATOR, BACKBONE, Bundle
from lit_od.deploy.int8_fitting import Int8Fitting
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError
from lit_od.fitting.fit import FitImages, GraphFile, Origin
from lit_od.fitting.process_group import EngineOptions, open_engine
from lit_od.images.identity import require_apart
from lit_od.images.sources import Source
from lit_od.images.split import fit_validation_calibration


def quantize(
    bundle: Bundle,
    images: Sequence[Source],
    out: Path,
    *,
    seed: int = 0,
    rule: Mapping[str, Any] | None = None,
    options: Int8Fitting | None = None,
    **engine: Unpack[EngineOptions],
) -> Bundle:
    """Bring a bundle's backbone to int8, and fit the rest anew.

    The images are divided 60 / 20 / 20 by the seed: ranges of activations and the detector's statistics come from the
    first part, the choice of the graph and the gate from the second, the threshold from the third.

    Args:
        bundle: The bundle, in float.
        images: Normal images, at least 50; labelled where the detector is class-conditional.
        out: Folder of the new bundle; free, empty, or a bundle to replace.
        seed: Seed of the division, of synthetic outliers and of resamples.
        rule: Threshold rule with its options; None takes the bundle's. Rule max_f1 takes the outliers of the options.
        options: Bits of the weights, outliers and the gate; None takes the defaults.
        engine: Threads and providers, as `open_engine` takes them.

    Raises:
        BackboneError: If the graph cannot be quantised, or int8 may lose too much AUROC.
        ConfigError: If the bundle is int8 already, its threshold was set by hand, or `out` is not free.
        DataError: If the images do not suffice, or one cannot be read.
        MissingExtra: If onnx is not installed.
    """
    old, options = bundle.manifest, options or Int8Fitting()
    if isinstance(old.model.weight_bits, int):
        raise ConfigError(f"{bundle.path} is int8 already: quantise the float bundle that it was made of")
    if rule is None:
        rule = {key: value for key, value in bundle.calibration.rule.items() if key != "outliers"}  # a number
    if rule["rule"] == "value":
        raise ConfigError("the bundle's threshold was set by hand and cannot be applied anew: refit the bundle first")
    fit, validation, calibration = fit_validation_calibration(images, seed=seed)
    require_apart(images, [each for sources in options.against.values() for each in sources], "inlier and outlier")
    outliers: list[Source] = []
    if rule["rule"] == "max_f1":
        outliers = [each for sources in options.against.values() for each in sources]
    return options.fit_bundle(
        Path(out),
        open_engine(bundle.files[BACKBONE], old.preparation, **engine),
        GraphFile.of(bundle),
        FitImages(fit, calibration, validation, outliers, augment=old.detector.augment or None),
        DetectorSpec(old.detector.kind, old.detector.options, (old.detector.kind,)),  # it is at hand, so it is trusted
        rule,
        Origin(
            name=Path(out).name,
            seed=seed,
            data={"quantized_of": old.name},
            keep_sums=ACCUMULATOR in old.files,
        ),
    )
