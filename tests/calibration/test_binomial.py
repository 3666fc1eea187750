"""The exact interval against scipy's beta distribution, and against what makes it exact."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from lit_od.calibration.binomial import clopper_pearson
from lit_od.errors import ConfigError, DataError

TOTALS = (1, 2, 3, 15, 16, 17, 100, 1_000, 10_000, 100_000, 1_000_000)


def by_scipy(count: int, total: int, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, count, total - count + 1)) if count else 0.0
    high = float(beta.isf(tail, count + 1, total - count)) if count < total else 1.0
    return low, high


@pytest.mark.parametrize("confidence", [0.1, 0.5, 0.95, 0.999, 1 - 1e-9])
@pytest.mark.parametrize("total", TOTALS)
def test_it_is_scipys_to_nine_digits(total: int, confidence: float) -> None:
    counts = {0, 1, 2, total // 100, total // 3, total // 2, total - total // 100, total - 1, total}
    for count in sorted(counts & set(range(total + 1))):
        came = clopper_pearson(count, total, confidence=confidence)
        assert came == pytest.approx(by_scipy(count, total, confidence), rel=1e-9, abs=1e-300)


@given(total=st.integers(1, 5_000), share=st.floats(0, 1), confidence=st.floats(0.01, 0.999))
def test_it_is_scipys_everywhere(total: int, share: float, confidence: float) -> None:
    count = round(share * total)
    low, high = clopper_pearson(count, total, confidence=confidence)
    assert (low, high) == pytest.approx(by_scipy(count, total, confidence), rel=1e-9, abs=1e-300)
    assert 0 <= low <= count / total <= high <= 1
    mirrored = clopper_pearson(total - count, total, confidence=confidence)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-12)


@pytest.mark.parametrize(("total", "confidence"), [(7, 0.9), (40, 0.95)])
def test_it_covers_every_rate_with_its_confidence(total: int, confidence: float) -> None:
    """Literally: the probability of the counts whose interval holds the rate."""
    intervals = np.array([clopper_pearson(count, total, confidence=confidence) for count in range(total + 1)])
    for rate in np.linspace(0.001, 0.999, 333):
        holds = (intervals[:, 0] <= rate) & (rate <= intervals[:, 1])
        assert binom.pmf(np.arange(total + 1), total, rate)[holds].sum() >= confidence


def test_what_is_known_by_heart() -> None:
    assert clopper_pearson(0, 10)[1] == pytest.approx(1 - 0.025**0.1)
    assert clopper_pearson(0, 1_000_000)[1] == pytest.approx(-math.log(0.025) / 1e6, rel=1e-5)
    assert clopper_pearson(5, 5) == (pytest.approx(0.025**0.2), 1.0)
    widths = [high - low for low, high in itertools.starmap(clopper_pearson, [(1, 100), (10, 1_000), (100, 10_000)])]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize(("count", "total"), [(0, 0), (-1, 5), (6, 5), (0, -1)])
def test_counts_that_cannot_be_are_refused(count: int, total: int) -> None:
    with pytest.raises(DataError, match=f"0 <= count <= total and total >= 1, got {count} of {total}"):
        clopper_pearson(count, total)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, math.nan])
def test_confidences_that_cannot_be_are_refused(confidence: float) -> None:
    with pytest.raises(ConfigError, match=r"confidence must be a number in \(0, 1\)"):
        clopper_pearson(1, 2, confidence=confidence)
