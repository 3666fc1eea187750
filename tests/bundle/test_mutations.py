"""Ten thousand tampered bundles: each is read and scores, or is refused in one line, and nothing else happens."""

import time
from collections import Counter
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from lit_od.detectors.registry import DETECTORS
from tests.support import mutations
from tests.support.mutations import ACCEPTED, REFUSED, Material, material, outcome, tamper

CASES = 10_000
KINDS = mutations.detectors()
SLOW = 5.0
"""Seconds of the processor that no case takes: one or two thousandths are usual."""


@pytest.fixture(scope="module")
def made() -> dict[str, Material]:
    return {kind: material(kind, detector) for kind, detector in KINDS.items()}


def test_every_kind_of_detector_is_tampered_with() -> None:
    assert {detector.kind for detector in KINDS.values()} == DETECTORS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_tampered_bundle_is_refused_in_one_line_or_scores(made: dict[str, Material], kind: str) -> None:
    seen: Counter[str] = Counter()

    @settings(
        max_examples=-(-CASES // len(KINDS)),
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(random=st.randoms(use_true_random=True))
    def check(random: Random) -> None:
        tampered = tamper(random, made[kind])
        note(tampered.what)
        start = time.process_time()
        seen[outcome(made[kind], tampered.manifest, tampered.files)] += 1
        assert time.process_time() - start < SLOW

    check()
    assert seen[REFUSED] > 100, "changes that do no harm prove nothing"
    assert seen[ACCEPTED] > 10, "changes that are all refused prove nothing of scores"


def test_the_check_can_fail(made: dict[str, Material], monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that lets NaN through, raises what it likes or speaks in two lines is found out."""
    sound = made["pca residual"]

    def broken(error: Exception) -> None:
        def read(*_: object) -> None:
            raise error

        monkeypatch.setattr(mutations.Bundle, "of_files", read)
        with pytest.raises((AssertionError, KeyError)):
            outcome(sound, sound.manifest, sound.files)

    with monkeypatch.context() as patch:
        patch.setattr(mutations.PCAResidual, "score", lambda self, features: features[:, 0] * float("nan"))
        with pytest.raises(AssertionError):
            outcome(sound, sound.manifest, sound.files)
    assert outcome(sound, sound.manifest, sound.files) == ACCEPTED
    broken(KeyError("x"))
    broken(mutations.DataError("not of a bundle"))
    broken(mutations.BundleError("two\nlines"))
