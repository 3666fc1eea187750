"""A worker's verdicts are those of the process that sends the work, of a bundle and of its model file."""

from pathlib import Path

import numpy as np
import pytest

from lit_od.bundle import manifest as manifests
from lit_od.bundle.folder import Bundle
from lit_od.bundle.model_file import open_bundle
from lit_od.cluster.scoring import VerdictWorker, decoded
from lit_od.cluster.work_items import items
from lit_od.deploy.one_file import compile_bundle
from lit_od.images.sources import Source
from lit_od.scoring.result import Result
from lit_od.scoring.scorer import Scorer


@pytest.mark.parametrize("compiled", [False, True], ids=["bundle", "model file"])
def test_a_worker_scores_as_this_process(
    made_bundle: Bundle, digits: list[Source], tmp_path: Path, compiled: bool
) -> None:
    path = made_bundle.path
    if compiled:
        path = tmp_path / "model.onnx"
        compile_bundle(made_bundle, path)
    bundle = open_bundle(path)
    work = VerdictWorker(manifests.encode(bundle.manifest), dict(bundle.files), 1, None, 8)
    found = [decoded(work(item)) for item in items(digits[:20], workers=1)]
    wanted = Result.joined(list(Scorer.of(bundle, threads=1).stream(digits[:20])))
    np.testing.assert_allclose(np.concatenate([each.score for each in found]), wanted.score, rtol=1e-6)
    np.testing.assert_array_equal(np.concatenate([each.is_outlier for each in found]), wanted.is_outlier)
