"""Factory strings that end the process, which FAISS must never see."""

import numpy as np
import pytest

from lit_od.detectors import KNN
from lit_od.errors import ConfigError, DataError

ROWS = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)

CRASHING = (
    "HNSW0 HNSW1 HNSW0_SQ8 HNSW8_0+PQ4 HNSW1000000000 PQ4x0 IVF2,PQ4x0 IVF2_HNSW0,Flat IVF2_HNSW1,Flat IVF0,Flat "
    "IVF100000000,Flat RQ2x0 RQ0x4 ZnLattice0x0_0 PCA0,Flat L2norm,HNSW1 PCA8,HNSW1 PQ4x4,Refine(HNSW0) IVF00,Flat "
    "IVF2(HNSW1),Flat PQ4x24 RQ2x20"
).split()


@pytest.mark.parametrize("factory", CRASHING)
def test_counts_that_crash_faiss_are_refused(factory: str) -> None:
    with pytest.raises(ConfigError, match=r"^index"):
        KNN.fit(ROWS, k=1, index=factory)


def test_an_index_too_large_for_the_bank_is_refused_before_it_is_made() -> None:
    with pytest.raises(DataError, match="is no index for a bank of 40 rows"):
        KNN.fit(ROWS, k=1, index="IVF5000,Flat")


@pytest.mark.parametrize("factory", ["HNSW2", "HNSW8_SQ8", "IVF2,PQ4x4fs", "PCA8,IVF2,Flat", "SQ8", "PQ4x4"])
def test_sound_ones_are_made(factory: str) -> None:
    assert (KNN.fit(ROWS, k=1, index=factory).score(ROWS) >= 0).all()
