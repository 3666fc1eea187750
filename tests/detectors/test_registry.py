import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest

from lit_od.detectors import KNN
from lit_od.detectors.registry import DETECTORS, accumulator, detector_from_state, find
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError
from tests.support.detectors import DEVIATION, MEAN_DISTANCE, Deviation, MeanDistance


def modules_after(statement):
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_the_detectors_imports_nothing_heavy():
    assert not modules_after("import lit_od.detectors") & {"faiss", "sklearn", "scipy", "torch", "tqdm"}


def test_the_probe_sees_what_is_imported():
    assert "faiss" in modules_after("import faiss")


def test_kinds_are_the_keys():
    assert all(detector.kind == kind for kind, detector in DETECTORS.items())


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'mahalanobi': did you mean 'mahalanobis'[?] Known: "):
        accumulator("mahalanobi", {})
    with pytest.raises(ConfigError, match="unknown detector 'x': Known: "):
        detector_from_state("x", {}, {})
    message = r"mahalanobis has no option 'shrinkag': did you mean 'shrinkage'[?] Known: class_conditional, "
    with pytest.raises(ConfigError, match=message):
        accumulator("mahalanobis", {"shrinkag": 0.1})


@pytest.mark.parametrize("kind", DETECTORS)
@pytest.mark.parametrize("value", [[1], (1,), 1j, b"1", {"a": []}], ids=str)
def test_every_option_refuses_every_wrong_type(kind, value):
    for option in fields(DETECTORS[kind].options_type):
        with pytest.raises(ConfigError, match=option.name):
            accumulator(kind, {option.name: value})


def test_a_detector_elsewhere_is_found_where_that_very_path_is_trusted():
    assert find(MEAN_DISTANCE, [MEAN_DISTANCE]) is MeanDistance
    for trust in ([], ["tests.support.detectors"], [DEVIATION], [MEAN_DISTANCE.replace(":", ".")]):
        with pytest.raises(ConfigError, match=f"add --trust {MEAN_DISTANCE}"):
            find(MEAN_DISTANCE, trust)


def test_a_text_is_no_list_of_trusted_paths():
    for trust in (MEAN_DISTANCE, f"a.longer.{MEAN_DISTANCE}s"):
        with pytest.raises(ConfigError, match=r"trust must be a list of import paths, got the text .*: write \["):
            find(MEAN_DISTANCE, trust)
        with pytest.raises(ConfigError, match="trust must be a list of import paths"):
            DetectorSpec.parse({"kind": MEAN_DISTANCE}, trust).check()


def test_nothing_is_imported_without_trust(tmp_path, monkeypatch):
    (tmp_path / "of_a_stranger.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="runs code from outside lit_od when it is imported"):
        find("of_a_stranger:Detector")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_package:Detector", "no_such_package:Detector cannot be imported: No module named 'no_such_package'"),
        ("tests.support.detectors:MeanDistances", "has no MeanDistances; did you mean MeanDistance[?]"),
        ("pathlib:Path", "pathlib:Path must be a class derived from lit_od.detectors.Detector"),
        ("os:system", "os:system must be a class derived from lit_od.detectors.Detector"),
        (
            "unfinished:Bare",
            "unfinished:Bare lacks from_state, input_shape, options, score, start, state, reads, options_",
        ),
        ("unfinished:Named", "unfinished:Named has the kind other: name it so, and leave `kind` out of the class"),
        ("unfinished:Mute", "unfinished:Mute must read one of features, errors"),
        ("unfinished:Thrice", "unfinished:Thrice must take 1 or 2 passes, got 3"),
        ("lit_od.detectors.knn:KNN", "lit_od.detectors.knn:KNN has the kind knn: name it so"),
        ("mine.MyDetector", "unknown detector 'mine.MyDetector': .* by its import path, package.module:Class$"),
        ("knn:", "unknown detector 'knn:': did you mean 'knn'"),
        ("knnn", "unknown detector 'knnn': did you mean 'knn'.*, feature_ensemble$"),
        (":KNN\n", r"unknown detector ':KNN\\n'"),
    ],
)
def test_what_a_path_does_not_lead_to_is_said(path, message, tmp_path, monkeypatch):
    (tmp_path / "unfinished.py").write_text(
        "from lit_od.detectors import Detector\n"
        "from tests.support.detectors import MeanDistance\n"
        "class Bare(Detector): ...\n"
        "class Named(MeanDistance):\n    kind = 'other'\n"
        "class Mute(MeanDistance):\n    reads = 'sounds'\n"
        "class Thrice(MeanDistance):\n    passes = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=message):
        find(path, [path])


def test_a_class_without_a_kind_goes_by_its_import_path():
    assert (MeanDistance.kind, Deviation.kind, KNN.kind) == (MEAN_DISTANCE, DEVIATION, "knn")


def test_a_second_pass_begins_with_what_the_first_has_gathered():
    rows = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
    first = accumulator(DEVIATION, {}, trust=[DEVIATION])
    first.update(rows)
    second = accumulator(DEVIATION, {}, trust=[DEVIATION], after=first)
    second.update(rows)
    assert second.finish().score(rows).mean() == pytest.approx(1.0)
    with pytest.raises(ConfigError, match="detector knn is fitted in one pass over the images, not two"):
        accumulator("knn", {}, after=first)
