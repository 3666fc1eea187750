"""Runners refuse files that they cannot use in one clear line, with status 2."""

import json
from pathlib import Path

import onnx
import pytest
from PIL import Image

from tests.support.graphs import features_graph
from tests.support.runtimes import run_runner

pytestmark = pytest.mark.parametrize("words", ["c", "python", "node"], indirect=True)


def refused(words: list[str], *more: object) -> str:
    done = run_runner(words, *more)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    return line


@pytest.fixture
def model(mapped: Path) -> Path:
    return mapped / "model.onnx"


@pytest.fixture
def image(mapped: Path) -> Path:
    return mapped / "golden" / "0.png"


def test_models(words: list[str], model: Path, image: Path, tmp_path: Path) -> None:
    (tmp_path / "foreign.onnx").write_bytes(features_graph())
    (tmp_path / "truncated.onnx").write_bytes(model.read_bytes()[:-4000])
    (tmp_path / "text.onnx").write_text("no model at all, but some words\n" * 9)
    assert "foreign.onnx: is " in refused(words, tmp_path / "foreign.onnx", image)
    assert "that lit-od compiled" in refused(words, tmp_path / "foreign.onnx", image)
    assert "truncated.onnx: " in refused(words, tmp_path / "truncated.onnx", image)
    assert "text.onnx: " in refused(words, tmp_path / "text.onnx", image)
    assert "absent.onnx: " in refused(words, tmp_path / "absent.onnx", image)


def test_tiles_are_left_to_the_runner_in_python(words: list[str], model: Path, image: Path, tmp_path: Path) -> None:
    graph = onnx.load(model)
    (manifest,) = (each for each in graph.metadata_props if each.key == "lit_od")
    tree = json.loads(manifest.value)
    tree["preparation"]["overlap"] = 8
    manifest.value = json.dumps(tree, separators=(",", ":"))
    onnx.save(graph, tmp_path / "tiles.onnx")
    if not any("score.py" in str(word) for word in words):
        assert "runners/python" in refused(words, tmp_path / "tiles.onnx", image)


def test_images(words: list[str], model: Path, image: Path, tmp_path: Path) -> None:
    Image.new("RGB", (300, 200)).save(tmp_path / "wide.png")
    Image.new("L", (32, 32)).save(tmp_path / "grey.png")
    Image.effect_noise((90, 90), 99).save(tmp_path / "whole.jpg")
    (tmp_path / "truncated.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-900])
    (tmp_path / "truncated.png").write_bytes(image.read_bytes()[:-200])
    (tmp_path / "text.png").write_text("no image\n" * 9)
    (tmp_path / "empty.png").touch()
    wrong = ("wide.png", "grey.png", "truncated.jpg", "truncated.png", "text.png", "empty.png", "absent.png")
    done = run_runner(words, "--prepared", model, *(tmp_path / name for name in wrong), image)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    for line, name in zip(lines, wrong, strict=True):
        assert f"{name}: " in line
    assert all("32" in line for line in lines[:2])
    assert [row.split(",")[0] for row in done.stdout.splitlines()] == ["path", str(image)]  # the others are scored


def test_maps_that_cannot_be(words: list[str], model: Path, image: Path, flat: Path, tmp_path: Path) -> None:
    copied = tmp_path / image.name
    copied.write_bytes(image.read_bytes())
    assert "same name" in refused(words, "--maps", tmp_path, model, image, copied)
    assert "no maps" in refused(words, "--maps", tmp_path, flat / "model.onnx", image)
    assert image.name in refused(words, "--maps", tmp_path / "absent", model, image)


def test_paths_are_fields_of_csv(words: list[str], model: Path, image: Path, tmp_path: Path) -> None:
    odd = tmp_path / 'a, "b".png'
    odd.write_bytes(image.read_bytes())
    done = run_runner(words, model, odd)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].startswith(f'"{tmp_path}/a, ""b"".png",')
