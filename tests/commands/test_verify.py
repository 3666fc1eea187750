"""`lit-od verify`: 0 where all is well, 1 with a line for each difference, 2 where there is no bundle."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import numpy_helper

from lit_od.bundle.folder import BACKBONE, CARD, DETECTOR, GOLDEN, MANIFEST, Bundle

Command = Callable[..., Any]
Seal = Callable[..., None]


def test_a_good_bundle(made_bundle: Bundle, command: Command) -> None:
    status, out, err = command("verify", made_bundle.path, "--threads", "1", "--provider", "cpu")
    assert (status, err) == (0, "")
    assert out == (
        f"{made_bundle.path}: 4 files as their hashes say; 7 golden images score as they must "
        "(pixels within 2/255, outputs within 0.0001, scores within 1e-06)\n"
    )


@pytest.mark.parametrize("name", [BACKBONE, DETECTOR, GOLDEN, CARD])
def test_a_damaged_file(own_bundle: Path, command: Command, name: str) -> None:
    raw = bytearray((own_bundle / name).read_bytes())
    raw[len(raw) // 2] ^= 4
    (own_bundle / name).write_bytes(raw)
    assert command("verify", own_bundle) == (
        1,
        f"{own_bundle}: {name} does not match its sha256: it was changed or damaged\n",
        "",
    )


def test_a_missing_an_extra_and_an_unreadable_file(own_bundle: Path, command: Command) -> None:
    (own_bundle / "extra").touch()
    assert command("verify", own_bundle).out.startswith(f"{own_bundle}: extra file 'extra'")
    (own_bundle / GOLDEN).unlink()
    assert command("verify", own_bundle)[:2] == (1, f"{own_bundle}: {GOLDEN} is missing\n")
    (own_bundle / MANIFEST).write_text("{")
    status, out, err = command("verify", own_bundle)
    assert (status, err) == (1, "")
    assert out.startswith(f"{own_bundle}: manifest.json is damaged: ")


def test_a_backbone_of_other_weights_under_hashes_that_are_right(
    own_bundle: Path, seal: Seal, command: Command
) -> None:
    model = onnx.load_from_string((own_bundle / BACKBONE).read_bytes())
    weights = next(each for each in model.graph.initializer if each.name == "weights")
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.01), "weights"))
    (own_bundle / BACKBONE).write_bytes(model.SerializeToString())
    seal(own_bundle)
    status, out, err = command("verify", own_bundle)
    assert (status, err) == (1, "")
    assert out.startswith(f"{own_bundle}: golden outputs differ by ")
    assert out.count("\n") == 1


def test_pixels_and_scores_that_differ_are_a_line_each(own_bundle: Path, seal: Seal, command: Command) -> None:
    golden = safetensors.numpy.load((own_bundle / GOLDEN).read_bytes())
    pixels = golden["pixels"].copy()
    pixels[2] = 255 - pixels[2]
    pixels[4] = 255 - pixels[4]
    changed = {**golden, "pixels": pixels, "scores": golden["scores"] + 1}
    (own_bundle / GOLDEN).write_bytes(safetensors.numpy.save(changed))
    seal(own_bundle)
    status, out, _ = command("verify", own_bundle)
    assert status == 1
    lines = out.splitlines()
    assert len(lines) == 4
    for line, start in zip(
        lines, ("golden image 2: pixels", "golden image 4: ", "golden outputs", "golden scores"), strict=True
    ):
        assert line.startswith(f"{own_bundle}: {start}")


def test_a_detector_whose_statistics_differ(own_bundle: Path, seal: Seal, command: Command) -> None:
    arrays = safetensors.numpy.load((own_bundle / DETECTOR).read_bytes())
    arrays["detector.means"] = arrays["detector.means"] + 1e-3
    (own_bundle / DETECTOR).write_bytes(safetensors.numpy.save(arrays))
    seal(own_bundle)
    status, out, _ = command("verify", own_bundle)
    assert status == 1
    assert out.startswith(f"{own_bundle}: golden scores differ by ")


def test_golden_images_that_are_none(own_bundle: Path, seal: Seal, command: Command) -> None:
    (own_bundle / GOLDEN).write_bytes(safetensors.numpy.save({"pixels": np.zeros(1)}))
    seal(own_bundle)
    assert command("verify", own_bundle)[:2] == (1, f"{own_bundle}: golden.safetensors lacks the array 'outputs'\n")


def test_a_file_that_is_no_graph_is_a_difference(own_bundle: Path, seal: Seal, command: Command) -> None:
    (own_bundle / BACKBONE).write_bytes(b"no graph")
    seal(own_bundle)
    status, out, err = command("verify", own_bundle)
    assert (status, err) == (1, "")
    assert "the ONNX file is damaged near byte 1, or no ONNX file" in out


def test_what_is_no_bundle_is_refused(tmp_path: Path, command: Command) -> None:
    assert command("verify", tmp_path) == (2, "", f"lit-od: {tmp_path} is no bundle: it has no manifest.json\n")
    (tmp_path / "file").touch()
    assert command("verify", tmp_path / "file").status == 2
