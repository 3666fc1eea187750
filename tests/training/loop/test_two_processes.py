"""Outlier metrics of two processes are those of one."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from lit_od.evaluation.metrics import rates, summary
from tests.support.job_server import said

pytestmark = pytest.mark.torch

RNG = np.random.default_rng(0)
SCORES = np.round(RNG.normal(30, 4, size=37), 1) + np.repeat([0, 5], [20, 17])
IS_OUTLIER = np.repeat([False, True], [20, 17])
ORDER = RNG.permutation(37)


def figures_of_one_process():
    sets = SCORES[~IS_OUTLIER], SCORES[IS_OUTLIER]
    return summary(*sets) | asdict(rates(*sets, 33.0))


def test_two_processes_give_exactly_the_figures_of_one(ranks, tmp_path):
    shares = [18, 5, 37]  # of 37 rows, the first process's; in the last case the second one has none
    rows = {"scores": SCORES[ORDER].tolist(), "is_outlier": IS_OUTLIER[ORDER].tolist(), "shares": shares}
    assert ranks(2, tmp_path, call="tests.support.jobs:measure", out=str(tmp_path), **rows) == [0, 0], said(tmp_path)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [figures_of_one_process()] * 3
