"""Kind and options of a detector, taken apart once."""

from dataclasses import dataclass

import numpy as np
import pytest

from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError
from tests.support.detectors import DEVIATION, MEAN_DISTANCE, MeanDistance


def test_what_a_recipe_writes_is_taken_apart() -> None:
    tree = {"kind": "mahalanobis", "class_conditional": True}
    spec = DetectorSpec.parse(tree)
    assert (spec.kind, spec.options, spec.needs_labels) == ("mahalanobis", {"class_conditional": True}, True)
    assert tree["kind"] == "mahalanobis"
    assert not DetectorSpec.parse({"kind": "knn"}).needs_labels
    assert DetectorSpec.parse({"kind": "reconstruction"}).reads() == "errors"
    for kind in (None, 3):
        with pytest.raises(ConfigError, match=f"a detector needs a kind, one of mahalanobis, .*; got {kind}"):
            DetectorSpec.parse({"kind": kind, "k": 5})


@dataclass(frozen=True)
class ByClass:
    """Options of a detector that wants classes unless it is told otherwise."""

    class_conditional: bool = True


class OfClasses(MeanDistance):
    options_type = ByClass


def test_classes_are_wanted_by_default_where_an_option_says_so() -> None:
    for options, wanted in (({}, True), ({"class_conditional": False}, False)):
        assert DetectorSpec(OfClasses.kind, options, [OfClasses.kind]).needs_labels == wanted


def test_options_are_checked_before_any_image() -> None:
    DetectorSpec.parse({"kind": "knn", "k": 3}).check()
    with pytest.raises(ConfigError, match="k must be an integer of at least 1, got 0"):
        DetectorSpec.parse({"kind": "knn", "k": 0}).check()


def test_a_detector_is_fitted_and_restored() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    spec = DetectorSpec.parse({"kind": "lof", "k": 5})
    fitted = spec.fit(rows)
    np.testing.assert_array_equal(spec.restore(fitted.state()).score(rows), fitted.score(rows))


def test_a_fit_takes_two_passes_where_the_detector_does() -> None:
    rows = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
    assert DetectorSpec(DEVIATION, {}, [DEVIATION]).fit(rows).score(rows).mean() == pytest.approx(1.0)


def test_trust_travels_with_the_spec() -> None:
    spec = DetectorSpec.parse({"kind": DEVIATION, "order": 1}, trust=[DEVIATION])
    spec.check()
    assert (spec.passes, spec.reads()) == (2, "features")
    for use in (DetectorSpec.check, DetectorSpec.reads, DetectorSpec.accumulator):
        with pytest.raises(ConfigError, match=f"add --trust {MEAN_DISTANCE}"):
            use(DetectorSpec.parse({"kind": MEAN_DISTANCE}, trust=[DEVIATION]))
