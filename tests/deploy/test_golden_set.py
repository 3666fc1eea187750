"""Golden sets: images as a model file takes them, with what it must give."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from lit_od import Bundle, Scorer
from lit_od.bundle.folder import golden_arrays
from lit_od.deploy import golden_set
from lit_od.deploy.golden_set import require_golden_folder, write_golden_set
from lit_od.errors import ConfigError
from lit_od.images.sources import Source
from tests.support.bundles import mapped_bundle

Command = Callable[..., Any]


def read(folder: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    contents = json.loads((folder / "golden.json").read_text())
    return contents, [np.load(folder / each["pixels"]) for each in contents["images"]]


def test_golden_images_and_their_negatives(made_bundle: Bundle, tmp_path: Path) -> None:
    golden = golden_arrays(made_bundle)
    count = write_golden_set(made_bundle, made_bundle.manifest.preparation, tmp_path / "golden")
    contents, pixels = read(tmp_path / "golden")
    assert count == len(pixels) == 2 * len(golden["pixels"])
    np.testing.assert_array_equal(pixels[:7], golden["pixels"])
    np.testing.assert_array_equal(pixels[7:], 255 - golden["pixels"])
    for each, array in zip(contents["images"], pixels, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "golden" / each["file"])), array[..., 0])
    wanted = Scorer.of(made_bundle, threads=1).score(np.stack(pixels))
    np.testing.assert_allclose([each["score"] for each in contents["images"]], wanted.score, rtol=1e-9)
    np.testing.assert_allclose([each["score"] for each in contents["images"]][:7], golden["scores"], rtol=1e-6)
    np.testing.assert_array_equal([each["p_value"] for each in contents["images"]], wanted.p_value)
    np.testing.assert_array_equal([each["is_outlier"] for each in contents["images"]], wanted.is_outlier)
    assert set(wanted.is_outlier.tolist()) == {True, False}
    assert all(each["p_value_least"] <= each["p_value"] <= each["p_value_most"] for each in contents["images"])
    assert contents["shape"] == [28, 28, 1]
    assert not (tmp_path / "golden" / "maps.npy").exists()


def test_a_verdict_at_the_threshold_is_not_sure(made_bundle: Bundle, monkeypatch: Any, tmp_path: Path) -> None:
    threshold = made_bundle.calibration.threshold
    scores = np.array([threshold, threshold * (1 + 5e-6), threshold * (1 + 1e-4), 0.5 * threshold])
    monkeypatch.setattr(golden_set, "_wanted", lambda bundle, pixels: (scores, None))
    write_golden_set(made_bundle, made_bundle.manifest.preparation, tmp_path / "golden")
    contents = json.loads((tmp_path / "golden" / "golden.json").read_text())
    assert [each["sure"] for each in contents["images"]] == [False, False, True, True]
    assert [each["is_outlier"] for each in contents["images"]] == [False, True, True, False]


@pytest.mark.parametrize("resize", [[], ["--resize", "graph"]], ids=["prepared", "frames"])
def test_a_compiled_file_gives_what_its_golden_set_says(
    resize: list[str], digits: list[Source], command: Command, tmp_path: Path
) -> None:
    bundle = mapped_bundle(tmp_path / "bundle", digits)
    out, folder = tmp_path / "model.onnx", tmp_path / "golden"
    done = command("compile", bundle.path, "--out", out, "--golden", folder, *resize)
    assert (done.status, f"{folder}: 14 golden images with what they must give" in done.out) == (0, True)
    contents, frames = read(folder)
    assert (len({frame.shape for frame in frames}) > 1) == bool(resize)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    found = [session.run(["score", "p_value", "is_outlier", "map"], {"image": frame[None]}) for frame in frames]
    room = contents["tolerance"] * max(abs(each["score"]) for each in contents["images"])
    maps = np.load(folder / "maps.npy")
    for (score, p_value, is_outlier, image_map), each, wanted in zip(found, contents["images"], maps, strict=True):
        assert abs(score[0] - each["score"]) <= room
        assert each["p_value_least"] <= p_value[0] <= each["p_value_most"]
        assert is_outlier[0] == each["is_outlier"] or not each["sure"]
        np.testing.assert_allclose(image_map[0], wanted, atol=room, rtol=0)


def test_only_a_golden_set_is_replaced(made_bundle: Bundle, command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "golden"
    folder.mkdir()
    for _ in range(2):  # empty, and an older set
        write_golden_set(made_bundle, made_bundle.manifest.preparation, folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    with pytest.raises(ConfigError, match="holds other files: name a folder that is free"):
        require_golden_folder(tmp_path / "other")
    out = tmp_path / "model.onnx"
    done = command("compile", made_bundle.path, "--out", out, "--golden", tmp_path / "other")
    assert (done.status, out.exists()) == (2, False)
    assert "holds other files" in done.err
    with pytest.raises(ConfigError, match="is a file"):
        require_golden_folder(tmp_path / "other" / "mine.txt")
