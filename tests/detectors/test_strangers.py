"""Statistics and indexes that come from strangers: what cannot be is refused before it is used."""

import resource
import struct
import time

import faiss
import numpy as np
import pytest

from lit_od.detectors import GMM, KNN, LOF, Mahalanobis, PCAResidual, Reconstruction
from lit_od.detectors.bank.coreset import parse_size
from lit_od.detectors.moments import Moments
from lit_od.errors import ConfigError, DataError

WIDTH = 6
INDEXES = ("HNSW8", "IVF2,Flat", "IVF2,PQ3x4", "IVF2,PQ3x4fs", "IVF2,SQ8", "NSG8", "PQ3x4", "SQ8", "IVF2_HNSW4,Flat",
           "PCA3,IVF2,Flat", "IVF2,Flat,RFlat", "HNSW8_SQ8")  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).normal(size=(300, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def fitted(rows):
    labels = np.arange(len(rows)) % 3
    return {
        "mahalanobis": Mahalanobis.fit(rows),
        "classes": Mahalanobis.fit(rows, labels=labels),
        "relative": Mahalanobis.fit(rows, labels=labels, relative=True),
        "knn": KNN.fit(rows, standardise=True),
        "half": KNN.fit(rows, precision="fp16"),
        "lof": LOF.fit(rows),
        "full": GMM.fit(rows),
        "tied": GMM.fit(rows, covariance="tied"),
        "diag": GMM.fit(rows, covariance="diag"),
        "spherical": GMM.fit(rows, covariance="spherical"),
        "pca": PCAResidual.fit(rows, components=2),
    }


def refused(detector, name, array, message):
    with pytest.raises(DataError, match=message):
        type(detector).from_state(detector.options(), detector.state() | {name: array})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_statistic_may_be_infinite_or_no_number(fitted, value):
    checked = 0
    for detector in fitted.values():
        for name, array in detector.state().items():
            if array.dtype.kind == "f":
                for place in (0, array.size // 2, array.size - 1):
                    broken = array.copy()
                    broken.flat[place] = value
                    refused(detector, name, broken, f"array '{name}' of the state must be finite")
                    checked += 1
    assert checked > 80


def test_no_statistic_may_be_too_large_to_be_squared(fitted):
    for detector in fitted.values():
        for name, array in detector.state().items():
            if array.dtype == np.float64:
                for value in (1.1e60, -1e300):
                    broken = array.copy()
                    broken.flat[0] = value
                    refused(detector, name, broken, rf"array '{name}' of the state must lie within 1e\+60, got ")


def test_a_bank_may_not_reach_beyond_what_faiss_can_add(fitted, rows):
    broken = rows.copy()
    broken[5, 2] = -2e15
    refused(fitted["knn"], "bank", broken, r"array 'bank' of the state must lie within 1e\+15, got -2e\+15 to ")


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("mahalanobis", "whitener", "the diagonal of array 'whitener' of the state must be positive"),
        (
            "relative",
            "background_whitener",
            "the diagonal of array 'background_whitener' of the state must be positive",
        ),
        ("full", "whiteners", "'weights' and 'whiteners' of the state must be positive"),
        ("tied", "whiteners", "'weights' and 'whiteners' of the state must be positive"),
        ("diag", "whiteners", "'weights' and 'whiteners' of the state must be positive"),
        ("spherical", "whiteners", "'weights' and 'whiteners' of the state must be positive"),
        ("knn", "scale", "'scale' of the state must be positive"),
        ("half", "scale", "'scale' of the state must be positive"),
        ("lof", "densities", "'k_distances' and 'densities' of the state must be positive"),
        ("pca", "scale", "'scale' and 'noise' of the state must be positive"),
        ("pca", "noise", "'scale' and 'noise' of the state must be positive"),
    ],
)
@pytest.mark.parametrize("value", [0.0, -1.0, 5e-324, -5e-324, 1e-100])
def test_scales_must_be_positive_and_worth_dividing_by(fitted, kind, name, message, value):
    broken = fitted[kind].state()[name].copy()
    broken.flat[0] = value
    refused(fitted[kind], name, broken, message)


@pytest.mark.parametrize(("kind", "name"), [("mahalanobis", "whitener"), ("full", "whiteners"), ("tied", "whiteners")])
def test_whiteners_must_be_triangular(fitted, kind, name):
    broken = fitted[kind].state()[name].copy()
    broken[..., 1, 4] = 1e-9
    refused(fitted[kind], name, broken, f"array '{name}' of the state must be lower triangular")


def test_classes_must_rise_even_where_their_differences_overflow(fitted):
    for classes in ([2**62, -(2**63), 5], [1, 1, 2], [3, 2, 1]):
        refused(fitted["classes"], "classes", np.array(classes), "'classes' of the state must rise strictly")


def test_relative_distances_need_two_classes(fitted):
    detector = fitted["relative"]
    state = detector.state() | {"means": detector.means[:1], "classes": detector.classes[:1]}
    with pytest.raises(DataError, match="relative=True needs the means of at least 2 classes, got 1"):
        Mahalanobis.from_state(detector.options(), state)


def test_components_must_be_of_length_1_and_leave_something(fitted):
    detector = fitted["pca"]
    refused(detector, "components", detector.components * 1.001, "must hold fewer than 6 rows, each of length 1")
    state = detector.state() | {"components": np.eye(WIDTH)}
    with pytest.raises(DataError, match="must hold fewer than 6 rows"):
        PCAResidual.from_state({"components": 0.9}, state)


@pytest.mark.parametrize("shape", [(0, 1, 1), (-1, -1, 1), (2**62, 2**62, 4), (2**20, 2**8, 2)])
def test_errors_must_have_a_size_that_can_be_held(shape):
    with pytest.raises(DataError, match="'shape' of the state must be positive, of at most 268,435,456 elements, got"):
        Reconstruction.from_state({}, {"shape": np.array(shape)})


def test_moments_of_large_features_come_back():
    """They are sums, not statistics that are scored with, and fourth powers are large."""
    moments = Moments(2)
    moments.update(np.array([[1e30, 0], [-1e30, 1]]))
    assert Moments.from_state(moments.state()).fourth_moments == moments.fourth_moments > 1e100


def test_sizes_of_many_digits_are_refused():
    with pytest.raises(ConfigError, match="a size must be a number and one of"):
        parse_size("9" * 400 + "GB")


# Indexes


@pytest.mark.parametrize("factory", INDEXES)
def test_every_kind_of_index_that_is_kept_comes_back(rows, factory):
    detector = KNN.fit(rows, index=factory)
    again = KNN.from_state(detector.options(), detector.state())
    np.testing.assert_array_equal(again.score(rows[:40]), detector.score(rows[:40]))


@pytest.mark.parametrize("factory", ["LSH", "IVF2,RaBitQ", "RQ3x4", "IMI2x2,Flat"])
def test_kinds_of_index_that_faiss_does_not_read_safely_are_refused(rows, factory):
    detector = KNN.fit(rows, index=factory)
    with pytest.raises(DataError, match=r"which is not read from a bundle: use flat, or HNSW, IVF, PQ or SQ"):
        KNN.from_state(detector.options(), detector.state())


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("IVF999999999,Flat", "is no index for a bank of 300 rows of 6 features"),
        ("IVF" + "9" * 5000 + ",Flat", "is no index for a bank of 300 rows"),
        ("IMI2x14,Flat", "is no index for a bank of 300 rows"),
        ("PQ3x24", "is no index for a bank of 300 rows"),
        ("HNSW2000", "is no index for a bank of 300 rows"),
        ("IVF2,Flat" + "," * 300, "is no index for a bank of 300 rows"),
    ],
)
def test_an_index_out_of_proportion_is_not_even_made(rows, factory, message):
    detector = KNN.fit(rows, index="IVF2,Flat")
    start = time.process_time()
    with pytest.raises(DataError, match=message):
        KNN.from_state(detector.options() | {"index": factory}, detector.state())
    assert time.process_time() - start < 1


@pytest.mark.parametrize("search", [{"nprobe": 0.5}, {"nprobe": 1e18}, {"efSearch": 10**9}])
def test_a_search_out_of_proportion_is_refused(rows, search):
    detector = KNN.fit(rows, index="IVF2,Flat")
    with pytest.raises(DataError, match=r"search setting \w+ must lie in 1\.\.4096 for a bank of 300 rows, got"):
        KNN.from_state(detector.options() | {"search": search}, detector.state())


def changed(detector, change):
    """The detector's index after a change by FAISS' own interface."""
    index = faiss.deserialize_index(detector.state()["index"])
    change(index)
    return faiss.serialize_index(index)


@pytest.mark.parametrize(
    ("factory", "change", "message"),
    [
        ("NSG8", lambda index: setattr(index.nsg, "search_L", 2**27), "its search_L is 134217728, by 'NSG8' it is 16"),
        ("HNSW8", lambda index: setattr(index.hnsw, "efSearch", 2**30), "its efSearch is 1073741824, by 'HNSW8' it is"),
        ("IVF2,Flat", lambda index: setattr(index, "nprobe", 2**40), "its nprobe is 1099511627776"),
        ("IVF2,Flat,RFlat", lambda index: setattr(index, "k_factor", 900), "its k_factor is 900.0"),
        ("PQ3x4", lambda index: setattr(index, "search_type", 2), "its search_type is 2"),
    ],
)
def test_searches_that_would_not_end_are_refused(rows, factory, change, message):
    """FAISS takes these settings over from the bytes; the first makes it search for hours."""
    detector = KNN.fit(rows, index=factory)
    refused(detector, "index", changed(detector, change), rf"the FAISS index cannot be searched: {message}")


def test_lists_must_name_rows_of_the_bank_and_none_twice(rows):
    detector = KNN.fit(rows, index="IVF2,Flat")

    def rename(value):
        def change(index):
            faiss.rev_swig_ptr(index.invlists.get_ids(0), index.invlists.list_size(0))[3] = value

        return changed(detector, change)

    for value in (300, -1, 2**62):
        refused(detector, "index", rename(value), "the FAISS index names rows that the bank does not hold")
    index = faiss.deserialize_index(detector.state()["index"])
    first = int(faiss.rev_swig_ptr(index.invlists.get_ids(0), 1)[0])
    refused(detector, "index", rename(first), "wanted each row once")


def test_an_index_may_not_hide_another(rows):
    """The outer kind and the sizes are right; what lies within is not."""
    detector = KNN.fit(rows, index="IVF2,Flat")
    other = KNN.fit(rows, index="IVF2_HNSW4,Flat").state()["index"]
    refused(detector, "index", other, "must be as 'IVF2,Flat' makes it: wanted a IndexFlat.*, got a IndexHNSWFlat")
    wide = faiss.index_factory(WIDTH, "PCA4,IVF2,Flat")
    wide.train(rows)
    wide.add(rows)
    detector = KNN.fit(rows, index="PCA3,IVF2,Flat")
    refused(detector, "index", faiss.serialize_index(wide), r"must be as 'PCA3,IVF2,Flat' makes it: wanted transforms")


def test_no_more_memory_than_the_bytes_can_fill(rows):
    """A few bytes that name a gigabyte are refused at once; FAISS alone would fill it first."""
    detector = KNN.fit(rows, index="IVF2,Flat")
    raw = bytes(detector.state()["index"])
    place = raw.index(struct.pack("<Q", 2 * WIDTH))  # the values of the lists' two centres
    hostile = np.frombuffer(raw[:place] + struct.pack("<Q", 2**29) + raw[place + 8 :], np.uint8)
    limits = (faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(detector, "index", hostile, "'index' of the state is no FAISS index: .*vector_byte_limit")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    assert (faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()) == limits


@pytest.mark.parametrize("factory", ["HNSW8", "IVF2,Flat"])
@pytest.mark.parametrize("kept", [0, 1, 3, 4, 40, 0.5, -1])
def test_an_index_that_ends_too_early_is_refused(rows, factory, kept):
    detector = KNN.fit(rows, index=factory)
    raw = detector.state()["index"]
    shorter = raw[: int(kept * len(raw)) if isinstance(kept, float) else kept]
    refused(detector, "index", shorter, r"'index' of the state (is no FAISS index|must have shape)")
