import faiss
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from lit_od.detectors import KNN
from lit_od.detectors.bank.coreset import rank_agreement
from lit_od.errors import ConfigError, DataError


def rows(n, d=12, seed=0, offset=2.0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, d)) * np.linspace(0.3, 3, d) + offset).astype(np.float32)


@pytest.fixture
def inliers():
    return rows(300)


@pytest.fixture
def queries():
    return rows(50, seed=1)


def reference(inliers, queries, k, metric="euclidean"):
    found = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(inliers.astype(float))
    return found.kneighbors(queries.astype(float))[0]


@pytest.mark.parametrize(("metric", "name"), [("l2", "euclidean"), ("cosine", "cosine")])
@pytest.mark.parametrize("k", [1, 5, 300])
def test_distances_are_those_of_scikit_learn(inliers, queries, metric, name, k):
    expected = reference(inliers, queries, k, name)
    np.testing.assert_allclose(KNN.fit(inliers, k=k, metric=metric).score(queries), expected.mean(axis=1), rtol=1e-6)
    kth = KNN.fit(inliers, k=k, metric=metric, reduce="kth")
    np.testing.assert_allclose(kth.score(queries), expected[:, -1], rtol=1e-6)


def test_standardising_is_that_of_scikit_learn(inliers, queries):
    scaler = StandardScaler().fit(inliers.astype(float))
    expected = reference(scaler.transform(inliers), scaler.transform(queries), 5).mean(axis=1)
    np.testing.assert_allclose(KNN.fit(inliers, standardise=True).score(queries), expected, rtol=1e-6)


def test_far_from_the_origin_the_nearest_rows_are_found():
    """Squares of 1e4 leave float32 no digits for differences of 1."""
    inliers, queries = rows(2000, offset=1e4), rows(100, seed=1, offset=1e4)
    expected = np.sort(cdist(queries.astype(float), inliers.astype(float)), axis=1)[:, :5].mean(axis=1)
    np.testing.assert_allclose(KNN.fit(inliers).score(queries), expected, rtol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_rows_near_each_other_and_far_from_the_rest_are_told_apart(precision):
    """Within a tight group far out, expanded squares in float32 are all error."""
    rng = np.random.default_rng(0)
    group = 1000 + rng.standard_normal((500, 16)) * 0.5
    inliers = np.concatenate([rng.standard_normal((500, 16)), group, -group]).astype(np.float32)
    detector = KNN.fit(inliers, k=3, precision=precision)
    queries = group[:200].astype(np.float32) + np.float32(0.1)
    bank = detector.bank
    expected = np.sort(cdist(bank.prepare(queries).astype(float), bank.rows.astype(float)), axis=1)[:, :3]
    np.testing.assert_allclose(detector.score(queries), expected.mean(axis=1), rtol=1e-12)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_a_row_of_the_bank_is_at_distance_zero(metric, offset):
    inliers = rows(300, offset=offset)
    detector = KNN.fit(inliers, k=1, metric=metric)
    np.testing.assert_allclose(detector.score(inliers), 0.0, atol=1e-15)


def test_ties_go_to_the_lower_row():
    inliers = np.repeat(rows(20), 5, axis=0)
    bank = KNN.fit(inliers).bank
    _, ids = bank.nearest(bank.prepare(inliers), 5)
    np.testing.assert_array_equal(ids, np.arange(100).reshape(20, 5).repeat(5, axis=0))


def test_a_zero_vector_has_no_direction(inliers):
    assert KNN.fit(inliers, metric="cosine").score(np.zeros((1, 12), np.float32)) == 1.0


def test_half_precision_keeps_half_the_bytes_and_nearly_the_scores(inliers, queries):
    whole, half = KNN.fit(inliers), KNN.fit(inliers, precision="fp16")
    assert half.state()["bank"].nbytes * 2 == whole.state()["bank"].nbytes
    np.testing.assert_allclose(half.score(queries), whole.score(queries), rtol=2e-3)
    one_by_one = np.concatenate([half.score(query[None]) for query in queries])
    np.testing.assert_allclose(one_by_one, half.score(queries), rtol=1e-12)


def test_half_precision_rows_outlive_their_detector(inliers):
    state = KNN.fit(inliers, precision="fp16").state()
    bank = state["bank"]
    copy = bank.copy()
    del state
    filler = [np.full(bank.shape, 7, np.float16) for _ in range(50)]
    np.testing.assert_array_equal(bank, copy)
    assert len(filler) == 50


def test_half_precision_refuses_what_it_cannot_hold(inliers):
    far = inliers * 1e5
    with pytest.raises(DataError, match=r"beyond 65,504, which fp16 holds\. Pass standardise=True"):
        KNN.fit(far, precision="fp16")
    assert np.isfinite(KNN.fit(far, precision="fp16", standardise=True).score(far)).all()


@pytest.mark.parametrize(
    ("index", "search"),
    [("HNSW16", {"efSearch": 300}), ("IVF8,Flat", {"nprobe": 8}), ("PQ6x4", None), ("PCA8,IVF4,Flat", {"nprobe": 4})],
)
def test_an_index_proposes_and_the_distances_stay_exact(index, search):
    inliers, queries = rows(1500), rows(60, seed=1)
    detector = KNN.fit(inliers, k=1, reduce="kth", index=index, search=search)
    nearest = cdist(queries.astype(float), inliers.astype(float))
    scores = detector.score(queries)
    recalled = np.isclose(scores, nearest.min(axis=1), rtol=1e-6)
    assert recalled.mean() > (0.98 if search and "PCA" not in index else 0.7)
    # what is not the nearest row is at least a row, with its exact distance
    assert np.isclose(scores[:, None], nearest, rtol=1e-6).any(axis=1).all()
    again = KNN.from_state(detector.options(), detector.state())
    np.testing.assert_array_equal(again.score(queries), scores)
    assert detector.state()["index"].dtype == np.uint8


def test_the_same_rows_give_the_same_graph(inliers):
    first, second = (KNN.fit(inliers, index="HNSW16").state()["index"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_lists_that_hold_too_few_rows_are_made_up_for(queries):
    inliers = rows(400)
    detector = KNN.fit(inliers, k=60, index="IVF32,Flat", search={"nprobe": 1})
    exact = KNN.fit(inliers, k=60).score(queries)
    np.testing.assert_allclose(detector.score(queries), exact, rtol=1e-9)


@pytest.mark.parametrize("method", ["k-centre", "sample"])
def test_coresets_have_the_size_asked_for(inliers, method):
    assert len(KNN.fit(inliers, coreset=40, coreset_method=method).bank.rows) == 40
    assert len(KNN.fit(inliers, coreset=4000, coreset_method=method).bank.rows) == 300
    assert len(KNN.fit(inliers, memory_budget="2.4kB", coreset_method=method).bank.rows) == 50
    half = KNN.fit(inliers, memory_budget="2.4kB", coreset_method=method, precision="fp16")
    assert len(half.bank.rows) == 100
    share = len(KNN.fit(inliers, coreset=0.25, coreset_method=method).bank.rows)
    assert share == 75 if method == "k-centre" else 45 < share < 105


def test_the_cost_of_a_budget_is_its_rank_agreement(inliers, queries):
    gathered = KNN.accumulator(memory_budget="2.4kB")
    gathered.update(inliers)
    detector = gathered.finish()
    cost = gathered.cost(detector, queries)
    assert (cost.rows, cost.of_rows, cost.size) == (50, 300, 2400)
    whole = KNN.fit(inliers).score(queries)
    assert cost.agreement == rank_agreement(detector.score(queries), whole)
    assert 0.3 < cost.agreement < 1
    sampled = KNN.accumulator(coreset=50, coreset_method="sample")
    sampled.update(inliers)
    with pytest.raises(DataError, match="rows outside the sample are gone"):
        sampled.cost(sampled.finish(), queries)


def test_options_are_strict(inliers):
    for options, message in [
        ({"k": 0}, "k must be an integer of at least 1, got 0"),
        ({"k": True}, "k must be an integer of at least 1, got True"),
        ({"reduce": "max"}, "reduce must be one of mean, kth, got 'max'"),
        ({"metric": "l1"}, "metric must be one of l2, cosine, got 'l1'"),
        ({"precision": "int4"}, "precision must be one of fp32, fp16, int8, got 'int4'"),
        ({"coreset": 1.0}, r"coreset, unless a number of rows, must be a number in \(0, 1\), got 1.0"),
        ({"coreset": 0}, "coreset must be an integer of at least 1, got 0"),
        ({"coreset_method": "random"}, "coreset_method must be one of k-centre, sample"),
        ({"memory_budget": "20"}, "a size must be a number and one of kB, MB, .* as in 20MB, got '20'"),
        ({"memory_budget": "20MB", "coreset": 5}, "coreset and memory_budget both set the bank's size"),
        ({"memory_budget": "20MB", "index": "HNSW32"}, "memory_budget counts the rows of a flat bank"),
        ({"search": {"nprobe": 3}}, "needs an index such as HNSW32; 'flat' has no settings"),
        ({"search": {"nprobe": 0}, "index": "IVF4,Flat"}, r"search setting nprobe must be a number in \(0, inf"),
        ({"search": {"nprobe": "3"}, "index": "IVF4,Flat"}, "search setting nprobe must be a number"),
        ({"index": ""}, "index must be 'flat' or a FAISS factory string, got ''"),
        ({"index": "HNSW8\ud800"}, r"index must be 'flat' or a FAISS factory string, got 'HNSW8\\ud800'"),
        ({"search": {"\ud800": 3}, "index": "IVF4,Flat"}, "search must be settings by name, as efSearch: 64"),
    ]:
        with pytest.raises(ConfigError, match=message):
            KNN.accumulator(**options)


def test_what_only_the_features_tell_is_refused_at_the_first_batch(inliers):
    for options, message in [
        ({"index": "HNSV32"}, "index='HNSV32' is no FAISS factory string for 12 features: could not parse"),
        ({"index": "PQ5"}, "index='PQ5' is no FAISS factory string for 12 features: The dimension"),
        ({"index": "HNSW8", "search": {"nprobe": 4}}, "index='HNSW8' has no search setting 'nprobe'"),
        ({"memory_budget": "40 kB"}, None),
        ({"memory_budget": "0.04kB"}, "memory_budget=0.04kB is less than one row of 48 bytes"),
    ]:
        gathered = KNN.accumulator(**options)
        if message is None:
            gathered.update(inliers)
            continue
        with pytest.raises(ConfigError, match=message):
            gathered.update(inliers)


def test_too_few_rows_are_refused(inliers):
    with pytest.raises(DataError, match="KNN needs at least 5 rows of features, got 4 of 4"):
        KNN.fit(inliers[:4])
    with pytest.raises(DataError, match="KNN needs at least 5 rows of features, got 3 of 300"):
        KNN.fit(inliers, coreset=3, coreset_method="sample")
    with pytest.raises(DataError, match="KNN needs a bank of at least 5 rows, got one of 3"):
        KNN.fit(inliers, coreset=3)
    with pytest.raises(DataError, match=r"index='IVF400,Flat' cannot be trained on 300 rows: Number of training"):
        KNN.fit(inliers, index="IVF400,Flat")


def test_features_far_beyond_the_bank_are_measured_and_those_beyond_float32_refused(inliers):
    detector = KNN.fit(inliers)
    for n in (1, 40):
        np.testing.assert_allclose(detector.score(np.full((n, 12), 1e30)), 1e30 * 12**0.5, rtol=1e-6)
        with pytest.raises(DataError, match="too far from the bank"):
            detector.score(np.full((n, 12), 1e300))


def test_a_foreign_index_is_refused(inliers):
    detector = KNN.fit(inliers, index="HNSW8")
    options, state = detector.options(), detector.state()
    other = KNN.fit(inliers[:200], index="HNSW8").state()["index"]
    lists = KNN.fit(inliers, index="IVF2,Flat").state()["index"]
    for index, message in [
        (state["index"][:-100], "'index' of the state is no FAISS index"),
        (np.frombuffer(b"no index at all", np.uint8), "'index' of the state is no FAISS index"),
        (other, "must hold 300 rows of 12 features, as the bank does, got 200 of 12"),
        (lists, r"must be a IndexHNSWFlat \(HNSW8\), got a IndexIVFFlat"),
    ]:
        with pytest.raises(DataError, match=message):
            KNN.from_state(options, state | {"index": index})
    with pytest.raises(ConfigError, match="no FAISS factory string"):
        KNN.from_state(options | {"index": "nonsense"}, state)


@pytest.mark.parametrize(("field", "value"), [("neighbors", 10**6), ("neighbors", -5), ("levels", 100)])
def test_a_graph_that_leads_out_of_the_bank_is_refused(inliers, field, value):
    detector = KNN.fit(inliers, index="HNSW8")
    index = faiss.deserialize_index(detector.state()["index"])
    vector = getattr(index.hnsw, field)
    faiss.rev_swig_ptr(vector.data(), vector.size())[:200] = value
    with pytest.raises(DataError, match=f"is no FAISS index: HNSW {field}.* out of range"):
        KNN.from_state(detector.options(), detector.state() | {"index": faiss.serialize_index(index)})


def test_no_flipped_bit_of_an_index_goes_unnoticed_into_a_crash(inliers, queries):
    """Each is refused, or harms recall alone: distances come from the bank."""
    detector = KNN.fit(inliers, index="IVF4,Flat")
    state, rng = detector.state(), np.random.default_rng(0)
    refused = 0
    for place in [*range(60), *rng.integers(0, len(state["index"]), 40)]:
        damaged = state["index"].copy()
        damaged[place] ^= 1 << rng.integers(8)
        try:
            scores = KNN.from_state(detector.options(), state | {"index": damaged}).score(queries)
        except DataError:
            refused += 1
        else:
            assert (scores >= KNN.fit(inliers).score(queries) - 1e-6).all()
    assert refused >= 20


def test_an_index_that_cannot_be_searched_is_refused(inliers, queries):
    detector = KNN.fit(inliers, index="IVF4,Flat")
    index = faiss.deserialize_index(detector.state()["index"])
    index.nprobe = 0
    state = detector.state() | {"index": faiss.serialize_index(index)}
    with pytest.raises(DataError, match=r"the FAISS index cannot be searched: .*nprobe.*; fit it anew"):
        KNN.from_state(detector.options(), state).score(queries)


def test_scoring_leaves_the_switches_of_faiss_alone(inliers, queries):
    names = [f"distance_compute_blas_{name}" for name in ("threshold", "database_bs", "query_bs")]
    before = [getattr(faiss.cvar, name) for name in names]
    KNN.fit(inliers).score(queries)
    assert [getattr(faiss.cvar, name) for name in names] == before


def test_a_bank_that_does_not_suit_is_refused(inliers):
    detector = KNN.fit(inliers)
    with pytest.raises(DataError, match="'scale' of the state must be positive"):
        KNN.from_state(detector.options(), detector.state() | {"scale": np.zeros(12)})
    with pytest.raises(DataError, match="k=500 needs a bank of as many rows, got 300"):
        KNN.from_state(detector.options() | {"k": 500}, detector.state())
    with pytest.raises(DataError, match="'bank' of the state must be float16, got float32"):
        KNN.from_state(detector.options() | {"precision": "fp16"}, detector.state())


def test_int8_rows_lie_within_half_a_step(inliers) -> None:
    whole, coarse = KNN.fit(inliers, k=1), KNN.fit(inliers, k=1, precision="int8")
    state = coarse.state()
    assert (state["bank"].dtype, state["steps"].shape) == (np.int8, (len(inliers),))
    assert (np.abs(state["bank"].astype(int)).max(axis=1) == 127).all()
    steps = state["steps"][:, None]
    np.testing.assert_array_equal(coarse.bank.rows, state["bank"].astype(np.float32) * steps)
    assert (np.abs(coarse.bank.rows - whole.bank.rows) <= 0.5001 * steps).all()
    room = steps.max() / 2 * np.sqrt(inliers.shape[1])
    assert np.abs(coarse.score(inliers[:50] + 0.1) - whole.score(inliers[:50] + 0.1)).max() <= 1.001 * room
    again = KNN.from_state(coarse.options(), state)
    np.testing.assert_array_equal(again.bank.rows, coarse.bank.rows)
    with pytest.raises(DataError, match="'steps' of the state must be positive"):
        KNN.from_state(coarse.options(), state | {"steps": np.zeros_like(state["steps"])})


@pytest.mark.parametrize("scale", [1, 100])
def test_an_int8_bank_takes_any_row_and_keeps_its_own(inliers, scale: int) -> None:
    coarse, new = KNN.fit(inliers, k=1, precision="int8"), inliers[:3] * np.float32(scale) + np.float32(1)
    taken = coarse.accept(lambda: [new], limit=0.0)
    np.testing.assert_array_equal(taken.bank.rows[: len(inliers)], coarse.bank.rows)
    assert (taken.score(inliers + 1) <= coarse.score(inliers + 1)).all()
    room = taken.bank.steps[-3:].max() / 2 * np.sqrt(inliers.shape[1])
    assert taken.score(new).max() <= 1.001 * room
    again = KNN.from_state(taken.options(), taken.state())
    np.testing.assert_array_equal(again.bank.rows, taken.bank.rows)
