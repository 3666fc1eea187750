"""The specification of the bundle: its examples run and score as the scorer does, and it names all keys and kinds."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_od import Scorer
from lit_od.bundle import manifest as manifests
from lit_od.bundle.folder import Bundle
from lit_od.deploy.one_file import compile_bundle
from lit_od.detectors.registry import DETECTORS
from lit_od.images.preparation import Preparation

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "bundle-format.md").read_text(encoding="utf-8")
STRUCTS: list[Any] = [
    manifests.Manifest,
    manifests.ModelEntry,
    manifests.DetectorEntry,
    manifests.CalibrationEntry,
    manifests.Tolerance,
    manifests.Provenance,
    manifests.FileEntry,
    Preparation,
]


def test_the_examples_score_as_the_scorer_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exported").symlink_to(ROOT / "exported")
    bundle = Bundle.read(ROOT / "exported" / "mnist-digits")
    compile_bundle(bundle, tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    examples = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "docs/bundle-format.md", "exec"), names)
    wanted = Scorer.of(bundle, threads=1).score(names["golden"]["pixels"])
    np.testing.assert_allclose(names["scores"], wanted.score, rtol=1e-6)
    np.testing.assert_allclose(names["scores"], names["golden"]["scores"], rtol=1e-4)
    np.testing.assert_array_equal(names["p_values"], wanted.p_value)
    np.testing.assert_array_equal(names["outliers"], wanted.is_outlier)
    verdicts = names["verdicts"]
    assert list(verdicts) == ["score", "p_value", "is_outlier"]
    np.testing.assert_allclose(verdicts["score"], wanted.score, rtol=1e-6)
    np.testing.assert_array_equal(verdicts["p_value"], wanted.p_value)
    np.testing.assert_array_equal(verdicts["is_outlier"], wanted.is_outlier)


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda each: each.__name__)
def test_every_key_is_described(struct: Any) -> None:
    missing = [name for name in struct.__struct_fields__ if f"`{name}`" not in TEXT]
    assert not missing


def test_the_version_and_every_kind_are_described() -> None:
    assert f"Version of the format: {manifests.SCHEMA_VERSION}." in TEXT
    assert not [kind for kind in DETECTORS if f"`{kind}`" not in TEXT]
