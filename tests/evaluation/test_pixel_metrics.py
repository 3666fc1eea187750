"""Pixel metrics against plain loops over every threshold, scikit-learn and anomalib's form of AUPRO."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score

from lit_od.errors import ConfigError, DataError
from lit_od.evaluation.metrics import aupro, pixel_auroc
from lit_od.evaluation.pixel_counts import PixelCounts, PixelCurve, Regions
from lit_od.evaluation.pixel_metrics import LIMITS, figure_names, pixel_figures

SHAPE = (3, 5, 6)
LEVELS = arrays(np.int64, SHAPE, elements=st.integers(-3, 6))
MASKS = arrays(np.bool_, SHAPE).filter(lambda mask: mask.any() and not mask.all())


def regions_of(mask):
    """The 8-connected sets of a mask, by flooding from each pixel."""
    left, found = set(zip(*np.nonzero(mask), strict=True)), []
    while left:
        reached = [left.pop()]
        for row, column in reached:
            near = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            left -= near
            reached += near
        found.append(tuple(np.array(reached).T))
    return found


def area_by_loop(points, limit):
    """The area under straight pieces up to a limit, divided by it."""
    total = 0.0
    for (x, y), (right, above) in pairwise(points):
        if x >= limit:
            break
        if right > limit:
            above, right = y + (above - y) * (limit - x) / (right - x), limit
        total += (right - x) * (y + above) / 2
    return total / limit


def curve_by_loop(maps, masks, regions, saturations=None):
    """Points of false positives and mean overlap at every threshold."""
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel()), reverse=True):
        flagged = maps >= threshold
        overlaps = []
        for image, region, full in regions:
            share = full if saturations else len(region[0])
            overlaps.append(min(flagged[image][region].sum() / share, 1.0))
        points.append((flagged[~masks].mean(), float(np.mean(overlaps))))
    return points


def aupro_by_loop(maps, masks, limit):
    regions = [(image, region, None) for image, mask in enumerate(masks) for region in regions_of(mask)]
    return area_by_loop(curve_by_loop(maps, masks, regions), limit)


@given(LEVELS, MASKS, st.sampled_from([0.05, 0.3, 0.5, 1.0]), st.sampled_from([np.float32, np.float64]))
def test_aupro_is_that_of_a_loop_over_thresholds(levels, masks, limit, kind):
    maps = levels.astype(kind) * kind(1.7)
    assert aupro(maps, masks, limit) == pytest.approx(aupro_by_loop(maps, masks, limit), abs=1e-12)


@given(LEVELS, MASKS)
def test_pixel_auroc_is_that_of_scikit_learn(levels, masks):
    expected = roc_auc_score(masks.ravel(), levels.ravel())
    assert pixel_auroc(levels.astype(np.float32), masks) == pytest.approx(expected, abs=1e-12)


@given(LEVELS, MASKS)
def test_only_the_order_of_scores_matters(levels, masks):
    maps = levels.astype(np.float32)
    for other in (np.exp(maps), maps * 1e-30, maps.astype(np.float64) * 1e200, levels):
        assert aupro(other, masks) == pytest.approx(aupro(maps, masks), abs=1e-12)


def test_perfect_and_reversed_maps():
    masks = np.zeros((2, 8, 8), bool)
    masks[0, 1:3, 1:3] = masks[0, 5, 5] = True
    assert aupro(masks.astype(np.float32), masks) == pixel_auroc(masks.astype(np.float32), masks) == 1
    assert aupro(-masks.astype(np.float32), masks) == pixel_auroc(-masks.astype(np.float32), masks) == 0
    assert aupro(np.zeros((2, 8, 8)), masks, 0.3) == pytest.approx(0.15)  # one threshold: the diagonal
    assert aupro(np.where(masks, -0.0, 0.0), masks, 1.0) == 0.5  # both zeros are one score


def test_small_regions_weigh_as_much_as_large_ones():
    masks = np.zeros((1, 6, 6), bool)
    masks[0, :2] = masks[0, 5, 5] = True
    maps = np.zeros((1, 6, 6), np.float32)
    maps[0, :2] = 1
    assert aupro(maps, masks, 1.0) == pytest.approx(0.75)
    assert pixel_auroc(maps, masks) == pytest.approx(12.5 / 13)


@given(LEVELS, MASKS, MASKS, st.floats(0.05, 1), st.floats(0.05, 1))
def test_saturated_overlap_is_that_of_a_loop(levels, first, second, one, other):
    maps, masks = levels.astype(np.float32), first | second
    if masks.all():
        return
    counts, regions = [], []
    for image, channels in enumerate(zip(first, second, strict=True)):
        counts.append(PixelCounts.of(maps[image], Regions.of_channels(channels, [one, other])))
        for channel, share in zip(channels, (one, other), strict=True):
            if channel.any():
                regions.append((image, np.nonzero(channel), share * channel.sum()))
    points = curve_by_loop(maps, masks, regions, saturations=True)
    for limit in (0.05, 0.3):
        assert PixelCurve.of(counts).aupro(limit) == pytest.approx(area_by_loop(points, limit), abs=1e-9)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from([1.0, 1e-3, 30.0]))
def test_bins_differ_from_every_threshold_by_no_more_than_their_bound(seed, spread):
    rng = np.random.default_rng(seed)
    masks = rng.random((4, 16, 16)) < 0.2
    maps = (1 + spread * rng.gamma(2, 1, masks.shape) + masks * 1e-3).astype(np.float32)
    exact, binned = (
        PixelCurve.of(
            [PixelCounts.of(each, Regions.of_mask(mask), binned=way) for each, mask in zip(maps, masks, strict=True)]
        )
        for way in (False, True)
    )
    for limit in LIMITS:
        of_area, of_overlap = binned.bounds(limit)
        assert abs(binned.auroc() - exact.auroc()) <= of_area + 1e-12
        assert abs(binned.aupro(limit) - exact.aupro(limit)) <= of_overlap + 1e-12
    assert spread == 1e-3 or of_overlap < 0.02


def made(seed, count=24):
    """Counts of good and defective images, with their maps and masks."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, 24, 24), bool)
    for each in masks[count // 3 :]:
        for _ in range(rng.integers(1, 4)):
            row, column, size = *rng.integers(0, 18, 2), rng.integers(1, 6)
            each[row : row + size, column : column + size] = True
    maps = rng.normal(0, 1, masks.shape).astype(np.float32) + masks * rng.uniform(0, 4, (count, 1, 1)).astype(
        np.float32
    )
    counts = [PixelCounts.of(one, Regions.of_mask(mask)) for one, mask in zip(maps, masks, strict=True)]
    return maps, masks, counts[: count // 3], counts[count // 3 :]


def test_figures_of_many_images_are_those_of_the_functions():
    maps, masks, good, defective = made(0)
    found = pixel_figures(good, defective, rng=np.random.default_rng(1), resamples=50)
    assert list(found.figures) == figure_names(saturated=False) == ["pixel_auroc", "aupro_0.3", "aupro_0.05"]
    expected = [pixel_auroc(maps, masks), aupro(maps, masks), aupro(maps, masks, 0.05)]
    assert [each.value for each in found.figures.values()] == expected
    assert all(each.low < each.value < each.high for each in found.figures.values())
    assert found.regions == sum(len(regions_of(mask)) for mask in masks)
    assert set(found.bounds.values()) == {0.0}
    assert list(pixel_figures(good, defective, rng=np.random.default_rng(1), saturated=True, resamples=2).figures) == [
        "pixel_auroc",
        "spro_0.3",
        "spro_0.05",
    ]


def test_the_interval_is_that_of_resampled_images_counted_at_every_score():
    maps, masks, good, defective = made(2)
    found = pixel_figures(good, defective, rng=np.random.default_rng(3), resamples=100)
    rng, draws = np.random.default_rng(3), []
    times = np.hstack(
        [rng.multinomial(len(part), np.full(len(part), 1 / len(part)), 100) for part in (good, defective)]
    )
    for row in times:
        rows = np.repeat(np.arange(len(maps)), row)
        draws.append(
            [pixel_auroc(maps[rows], masks[rows]), *(aupro(maps[rows], masks[rows], limit) for limit in LIMITS)]
        )
    for interval, (low, high) in zip(found.figures.values(), np.quantile(draws, [0.025, 0.975], axis=0).T, strict=True):
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-3)


def test_one_image_has_no_interval():
    _, _, good, defective = made(4)
    for parts in ((good[:1], defective), (good, defective[:1]), ([], defective)):
        found = pixel_figures(*parts, rng=np.random.default_rng(0), resamples=10)
        assert all(np.isnan(each.low) and np.isfinite(each.value) for each in found.figures.values())


def test_images_whose_mask_vanished_are_good_pixels():
    _, _, good, defective = made(5)
    empty = PixelCounts.of(np.zeros((24, 24), np.float32), Regions.of_mask(np.zeros((24, 24), bool)))
    found = pixel_figures(good, [empty, empty, *defective[:1]], rng=np.random.default_rng(0), resamples=200)
    assert all(np.isfinite(each.low) for each in found.figures.values())


def test_bad_input_is_refused():
    maps, masks = np.zeros((2, 3, 3), np.float32), np.zeros((2, 3, 3), bool)
    with pytest.raises(DataError, match="at least one region of a mask"):
        aupro(maps, masks)
    with pytest.raises(DataError, match="pixels without a defect"):
        pixel_auroc(maps, ~masks)
    with pytest.raises(DataError, match="same shape"):
        aupro(maps, masks[:1])
    with pytest.raises(DataError, match="finite"):
        aupro(maps + np.nan, masks)
    with pytest.raises(ConfigError, match="limit must lie in"):
        aupro(maps, masks, 0.0)


def anomalib_aupro(maps, masks, limit):
    """AUPRO as anomalib 2.7 defines it: the ROC curve of each region, brought to common places, and their mean.

    Each region against the background has a curve of its own; up to the limit, where it is interpolated, its points are
    spread over as many places as the curve of all pixels has, and the curves are averaged place by place.
    """
    import torch
    from torchmetrics.functional.classification import binary_roc

    ranks = torch.tensor(np.unique(maps, return_inverse=True)[1].reshape(maps.shape) / (maps.size - 1.0))
    background = ~torch.tensor(masks)
    places = int((binary_roc(ranks, (~background).int())[0] <= limit).sum())
    sums, count = np.zeros((2, places)), 0
    for image, mask in enumerate(masks):
        for region in regions_of(mask):
            own = ranks[image][region]
            scores = torch.cat([own, ranks[background]])
            truth = torch.cat([torch.ones(len(own)), torch.zeros(int(background.sum()))]).int()
            false, found = (each.double().numpy() for each in binary_roc(scores, truth)[:2])
            last = int(np.searchsorted(false, limit, "right"))
            at = np.append(np.arange(last), last - 1 + (limit - false[last - 1]) / (false[last] - false[last - 1]))
            wanted = np.linspace(0, at[-1], places)
            sums += [np.interp(wanted, np.arange(len(each)), each) for each in (false, found)]
            count += 1
    false, overlap = sums / count
    return np.trapezoid(overlap, false) / false[-1]


@pytest.mark.slow
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("seed", range(2))
def test_aupro_is_anomalibs(seed, limit):
    rng = np.random.default_rng(seed)
    masks = np.zeros((12, 96, 96), bool)
    for each in masks[4:]:
        for _ in range(rng.integers(1, 4)):
            row, column, size = *rng.integers(0, 80, 2), rng.integers(2, 14)
            each[row : row + size, column : column + size] = True
    maps = rng.gamma(2, 10, masks.shape).astype(np.float32)
    maps += masks * rng.uniform(20, 90, (12, 1, 1)).astype(np.float32)
    assert aupro(maps, masks, limit) == pytest.approx(anomalib_aupro(maps, masks, limit), abs=1e-3)
