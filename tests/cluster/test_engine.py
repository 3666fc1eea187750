"""Fitting by workers that are called here. No Ray is started."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_od.backbone.model import Backbone
from lit_od.bundle.folder import Bundle
from lit_od.cluster.engine import RayEngine
from lit_od.detectors.spec import DetectorSpec
from lit_od.fitting.fit import FitImages, GraphFile, Origin, fit_bundle
from lit_od.images import parquet as packed
from lit_od.images.find_remote import ImageList
from lit_od.images.sources import Source
from tests.support.bundles import local_engine, make_bundle
from tests.support.graphs import graph_of
from tests.support.images import GREY
from tests.support.pools import Inline
from tests.support.tables import write_table

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    yield
    while packed._open:
        packed._open.pop().close()


def test_the_gpus_are_the_workers_own(
    own_bundle: Path, digit_files: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers are given the pool's provider; the driver of a refit, which runs golden images alone, the CPU."""
    asked: list[Any] = []
    load = Backbone.load

    def spied_on(model: bytes, *, providers: Sequence[str], **options: Any) -> Backbone:
        asked.append(tuple(providers))
        return load(model, **options, providers=["cpu"])

    monkeypatch.setattr(Backbone, "load", spied_on)
    for name in ("score", "refit"):
        pool = Inline(2, 1, 1, ("cuda",))
        monkeypatch.setattr(f"lit_od.commands.{name}.open_cluster", lambda args, pool=pool: nullcontext(pool))
    words = ["--engine", "ray", "--provider", "cuda"]
    for method, workers in (("split", 4), ("cross", 2)):  # two that fit, two that calibrate; or two for the outputs
        calibration = ["--calibration.method", method, "--out", tmp_path / "new"]
        assert command("refit", own_bundle, digit_files, *calibration, *words).status == 0
        assert asked == [("cpu",), *[("cuda",)] * workers]
        asked.clear()
    assert command("score", own_bundle, digit_files, *words).status == 0
    assert asked == [("cuda",)] * 2


@pytest.mark.parametrize(("method", "images"), [("split", 32), ("cross", 40)])
def test_a_refit_of_a_table_is_that_of_the_same_files_and_makes_no_list_of_them(
    own_bundle: Path,
    digit_files: Path,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    images: int,
) -> None:
    files, given = sorted(digit_files.rglob("*.png")), {}

    def spied_on(out: Path, engine: RayEngine, graph: GraphFile, images: FitImages, *rest: Any) -> Bundle:
        given.update(fit=images.fit, calibration=images.calibration)
        return fit_bundle(out, engine, graph, images, *rest)

    monkeypatch.setattr("lit_od.commands.refit.open_cluster", lambda args: nullcontext(Inline(2, 1)))
    table = write_table(tmp_path / "t.parquet", {"bytes": [file.read_bytes() for file in files]}, 7)
    calibration = ["--calibration.method", method]
    assert command("refit", own_bundle, *files, "--out", tmp_path / "one", "--threads", 1, *calibration).status == 0
    monkeypatch.setattr("lit_od.commands.refit.fit_bundle", spied_on)
    words = ["--out", tmp_path / "many", "--engine", "ray", *calibration]
    assert command("refit", own_bundle, table, *words).status == 0
    for part in ("fit", "calibration"):
        assert isinstance(given[part].whole if method == "split" else given[part], ImageList)
    one, many = Bundle.read(tmp_path / "one"), Bundle.read(tmp_path / "many")
    np.testing.assert_allclose(many.calibration.scores, one.calibration.scores, rtol=1e-9)
    assert many.manifest.detector.images == one.manifest.detector.images == images


DETECTORS: list[dict[str, Any]] = [
    {"kind": "mahalanobis"},
    {"kind": "mahalanobis", "class_conditional": True},
    {"kind": "knn", "k": 3},
    {"kind": "knn", "coreset": 100, "coreset_method": "sample"},
    {"kind": "lof", "k": 5},
    {"kind": "gmm"},
    {"kind": "gmm", "components": 2, "reservoir": 300},
    {"kind": "pca_residual", "components": 4},
    {"kind": "reconstruction", "outlier_perc": 20},
]


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda each: "-".join(map(str, each.values())))
def test_what_workers_gather_and_score_is_what_one_process_does(
    small_graph: bytes, digits: list[Source], tmp_path: Path, detector: dict[str, Any]
) -> None:
    """The work of four workers, done here."""
    fit, calibration = digits[:700], digits[700:900]
    model = graph_of(["errors"], (28, 28, 1)) if detector["kind"] == "reconstruction" else small_graph
    given: dict[str, Any] = {"model": model, "preparation": GREY, "detector": detector, "fit": fit}
    given |= {"calibration": calibration}
    same: dict[str, Any] = {"rule": {"rule": "percentile", "q": 90}, "origin": Origin(name="x", seed=0), "threads": 1}
    one = make_bundle(tmp_path / "one", **given, **same)
    engine = RayEngine(local_engine(model).extractor, Inline(4, 1))
    spec, rule, images = DetectorSpec.parse(detector), same["rule"], FitImages(fit, calibration)
    many = fit_bundle(tmp_path / "many", engine, GraphFile(model), images, spec, rule, same["origin"])
    exact = detector["kind"] in ("knn", "lof", "reconstruction") or "reservoir" in detector
    for name, array in one.detector.state().items():
        tolerance = 0 if exact else 1e-12
        got = many.detector.state()[name]
        np.testing.assert_allclose(got, array, rtol=tolerance, atol=tolerance * np.abs(array).max())
    np.testing.assert_allclose(many.calibration.scores, one.calibration.scores, rtol=0 if exact else 1e-11)
    assert many.calibration.threshold == pytest.approx(one.calibration.threshold, rel=1e-11)
