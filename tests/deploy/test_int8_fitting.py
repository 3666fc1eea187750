"""Bundles in int8: what is divided, fitted anew, judged, refused and recorded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lit_od import Bundle, Scorer
from lit_od.bundle.folder import BACKBONE
from lit_od.calibration.p_values import Calibration
from lit_od.deploy import Int8Fitting, Int8Report, int8_gate, quantize
from lit_od.deploy.int8_fitting import require_alone
from lit_od.deploy.int8_report import speed_ratios
from lit_od.errors import BackboneError, ConfigError, DataError, LitODWarning
from lit_od.evaluation.metrics import auroc
from lit_od.fitting.fit import Origin
from lit_od.images.sources import Source
from lit_od.images.split import fit_validation_calibration
from lit_od.scoring import scorer as scorers
from tests.support.bundles import make_bundle
from tests.support.images import ASSETS
from tests.support.layered_graph import layered_graph

pytestmark = pytest.mark.onnx  # which quantises

Command = Callable[..., Any]
NORMAL = f"{ASSETS}/digits.npz:train_images:0,1"
OUTLIERS = f"{ASSETS}/garments.npz"


@pytest.fixture(scope="module")
def in_float(digits: list[Source], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle over three layers, whose scores tell digits from garments."""
    return make_bundle(
        tmp_path_factory.mktemp("float") / "digits",
        model=layered_graph(),
        fit=digits[:200],
        calibration=digits[200:300],
        detector={"kind": "mahalanobis"},
        rule={"rule": "percentile", "q": 95},
        origin=Origin(name="digits", seed=0),
        opset=20,
        threads=1,
    )


@pytest.fixture(scope="module")
def reports() -> list[Int8Report]:
    return []


@pytest.fixture(scope="module")
def in_int8(
    in_float: Bundle,
    digits: list[Source],
    garments: list[Source],
    reports: list[Int8Report],
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    options = Int8Fitting(against={"garments": garments[:100]}, tell=reports.append, force=True)
    out = tmp_path_factory.mktemp("int8") / "digits"
    return quantize(in_float, digits[:300], out, seed=1, options=options, threads=1)


def test_statistics_threshold_and_golden_images_are_those_of_the_int8_graph(
    in_int8: Bundle, in_float: Bundle, digits: list[Source]
) -> None:
    assert in_int8.files[BACKBONE] != in_float.files[BACKBONE]
    fit, _, calibration = fit_validation_calibration(digits[:300], seed=1)
    assert (len(fit), len(calibration)) == (180, 60)
    assert in_int8.manifest.detector.images == 180
    assert in_int8.calibration.scores.size == 60
    scores = np.concatenate([each.score for each in Scorer.of(in_int8, threads=1).stream(calibration)])
    wanted = Calibration.from_inliers(scores, {"rule": "percentile", "q": 95})
    assert in_int8.calibration.threshold == pytest.approx(wanted.threshold)
    assert in_int8.manifest.model.weight_bits == 7
    assert isinstance(in_float.manifest.model.weight_bits, msgspec.UnsetType)
    assert in_int8.manifest.tolerance.outputs >= 1e-4
    assert in_int8.manifest.provenance.data["quantized_of"] == "digits"


def test_the_gate_compares_auroc_on_the_same_images(
    in_int8: Bundle, reports: list[Int8Report], digits: list[Source], garments: list[Source]
) -> None:
    report = reports[0]
    _, validation, _ = fit_validation_calibration(digits[:300], seed=1)
    scorer = Scorer.of(in_int8, threads=1)
    normal, odd = (np.concatenate([r.score for r in scorer.stream(each)]) for each in (validation, garments[:100]))
    assert report.gate.areas["garments"][1] == pytest.approx(auroc(normal, odd))
    assert set(report.gate.areas) == {"synthetic", "garments"}
    for name, (of_float, of_int8) in report.gate.areas.items():
        change = report.gate.change[name]
        assert change.value == pytest.approx(of_int8 - of_float)
        assert change.low <= change.value <= change.high
    assert report.flagged.value == pytest.approx((normal > in_int8.calibration.threshold).mean())
    assert report.agreement is not None
    assert report.agreement > 0.9
    figures = in_int8.manifest.provenance.metrics["int8"]
    assert figures["auroc garments"]["int8"] == report.gate.areas["garments"][1]
    assert figures["feature_error"] == report.choice.feature_error < 0.5


def test_the_report_tells_layers_methods_and_speed(reports: list[Int8Report]) -> None:
    text = reports[0].text()
    for words in ("second", "min-max", "entropy", "percentile", "AUROC against garments", "Spearman", "at batch 32"):
        assert words in text
    assert reports[0].choice.kept[0] == "first"  # the first layer stays in float


def test_what_may_lose_too_much_is_refused_and_leaves_nothing(
    in_float: Bundle, digits: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_gate, "MOST_LOST", -1.0)
    told: list[Int8Report] = []
    with pytest.raises(BackboneError, match=r"int8 may lose -?\d+\.\d\d points of AUROC, .* or --force$"):
        quantize(in_float, digits[:100], tmp_path / "out", options=Int8Fitting(tell=told.append), threads=1)
    assert len(told) == 1
    assert list(tmp_path.iterdir()) == []


def test_few_images_and_int8_bundles_are_refused(
    in_float: Bundle, in_int8: Bundle, digits: list[Source], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="wanted at least 10, got 4"):
        quantize(in_float, digits[:20], tmp_path / "out", threads=1)
    with pytest.raises(DataError, match="wanted at least 4 normal images"):
        quantize(in_float, digits[:3], tmp_path / "out", threads=1)
    with pytest.raises(ConfigError, match="is int8 already"):
        quantize(in_int8, digits[:100], tmp_path / "out", threads=1)
    with pytest.raises(ConfigError, match="threshold was set by hand"):
        quantize(in_float, digits[:100], tmp_path / "out", rule={"rule": "value"}, threads=1)
    options = Int8Fitting(against={"same": digits[50:60]})
    with pytest.raises(DataError, match="serves as both inlier and outlier"):
        quantize(in_float, digits[:100], tmp_path / "out", options=options, threads=1)


def test_the_command_writes_a_bundle_that_verifies(
    in_float: Bundle, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorers, "lacks_vnni", lambda: False)  # whatever processor this is
    out = tmp_path / "new"
    words = ["quantize", in_float.path, NORMAL, "--out", out, "--outliers", f"garments={OUTLIERS}", "--force"]
    status, said, _ = command(*words, "--target", "vnni", "--threads", 1)
    assert status == 0
    assert "AUROC against garments" in said
    assert Bundle.read(out).manifest.model.weight_bits == 8
    assert command("verify", out).status == 0
    assert "int8 with weights of 8 bits" in command("inspect", out).out


def test_a_refit_stays_int8(in_int8: Bundle, tmp_path: Path, command: Command) -> None:
    assert command("refit", in_int8.path, NORMAL, "--out", tmp_path / "new").status == 0
    new = Bundle.read(tmp_path / "new").manifest
    assert new.model == in_int8.manifest.model
    assert 1e-4 <= new.tolerance.outputs < 0.2


def test_several_processes_are_refused() -> None:
    require_alone(1)
    with pytest.raises(ConfigError, match="int8 is made by one process: fit in float, and then run lit-od quantize"):
        require_alone(2)


def test_a_recipe_asks_for_int8(tmp_path: Path, command: Command) -> None:
    model = tmp_path / "layered.onnx"
    model.write_bytes(layered_graph())
    (tmp_path / "mine.yaml").write_text(
        f"name: mine\nbackbone: {model}\nexport: {{precision: int8}}\n"
        f"data: {{train: 'digits.npz:train_images:0', root: {ASSETS}, prepare: {{size: [28, 28], mode: grey}}}}\n"
        "calibration: {rule: mean_std, n: 2}\n"
    )
    status, _, err = command("fit", tmp_path / "mine.yaml", "--out", tmp_path / "out", "--threads", 1)
    if status:  # the gate may refuse so few images
        assert "int8 may lose" in err
    else:
        assert Bundle.read(tmp_path / "out").manifest.model.weight_bits == 7


def test_a_processor_without_vnni_is_told(in_int8: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorers, "lacks_vnni", lambda: True)
    Scorer.of(in_int8, threads=1)  # 7 bits: nothing to tell
    model = msgspec.structs.replace(in_int8.manifest.model, weight_bits=8)
    told = Bundle(
        in_int8.path,
        msgspec.structs.replace(in_int8.manifest, model=model),
        in_int8.detector,
        in_int8.calibration,
        in_int8.files,
    )
    with pytest.warns(LitODWarning, match="this processor has no VNNI"):
        scorer = Scorer.of(told, threads=1)
    options = scorer.backbone.session.get_session_options()
    assert options.get_session_config_entry("session.x64quantprecision") == "1"


def test_speed_is_measured_by_batch_and_slowness_is_told(in_float: Bundle, reports: list[Int8Report]) -> None:
    backbone = Scorer.of(in_float, threads=1).backbone
    ratios = speed_ratios(backbone, backbone, np.zeros((3, 28, 28, 1), np.uint8))
    assert set(ratios) == {1, 32}
    assert all(0.01 < each < 100 for each in ratios.values())
    report = reports[0]
    for speed, told in (({1: 0.5, 32: 2.0}, "0.50 times at batch 1 the speed"), ({1: 1.5, 32: 2.0}, None)):
        slow = Int8Report(report.choice, report.gate, None, None, report.flagged, speed).slow
        assert slow is None if told is None else told in str(slow)
