import datetime
import json
from dataclasses import asdict

import numpy as np
import torch
from torch import distributed

from lit_od.evaluation.metrics import rates, summary
from lit_od.training.loop.outlier_metrics import OutlierMetrics

RNG = np.random.default_rng(0)
SCORES = np.round(RNG.normal(30, 4, size=37), 1) + np.repeat([0, 5], [20, 17])
IS_OUTLIER = np.repeat([False, True], [20, 17])
ORDER = RNG.permutation(37)


def figures_of_one_process():
    sets = SCORES[~IS_OUTLIER], SCORES[IS_OUTLIER]
    return summary(*sets) | asdict(rates(*sets, 33.0))


def one_rank(rank, folder, shares):
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )
    found = []
    for share in shares:
        mine = ORDER[:share] if rank == 0 else ORDER[share:]
        metric = OutlierMetrics(threshold=33.0)
        for start in range(0, len(mine), 4):
            rows = mine[start : start + 4]
            metric.update(torch.tensor(SCORES[rows]), torch.tensor(IS_OUTLIER[rows]))
        found.append({name: value.item() for name, value in metric.compute().items()})
    (folder / f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


def test_two_processes_give_exactly_the_figures_of_one(tmp_path):
    shares = [18, 5, 37]  # of 37 rows, the first process's; in the last case the second one has none
    torch.multiprocessing.spawn(one_rank, (tmp_path, shares), nprocs=2)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [figures_of_one_process()] * 3
