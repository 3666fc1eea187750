"""Golden images: what they hold, that they pass where they were made, and that they can fail."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import numpy_helper
from PIL import Image

from lit_od.backbone.model import Backbone
from lit_od.bundle.folder import BACKBONE, GOLDEN, Bundle, golden_arrays
from lit_od.bundle.golden import MAX_SIDE, differences, make, relative_difference
from lit_od.bundle.manifest import Tolerance
from lit_od.detectors import Mahalanobis
from lit_od.fitting.fit import Origin
from lit_od.images.preparation import Preparation
from lit_od.images.sources import ImageArray, ImageFile, OpenImage, Source
from lit_od.types import Arrays
from tests.support.bundles import make_bundle
from tests.support.images import GREY


def other_weights(model: bytes, factor: float) -> bytes:
    """The same graph, its weights multiplied."""
    graph = onnx.load_from_string(model)
    for each in graph.graph.initializer:
        if each.name == "weights":
            each.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(each) * np.float32(factor), "weights"))
    data: bytes = graph.SerializeToString()
    return data


def found(bundle: Bundle, golden: Arrays | None = None, model: bytes | None = None) -> list[str]:
    backbone = Backbone.load(model or bundle.files[BACKBONE], threads=1)
    arrays = golden_arrays(bundle) if golden is None else golden
    return differences(arrays, bundle.manifest.preparation, backbone, bundle.detector, Tolerance())


def test_they_are_files_of_other_sizes_modes_and_formats(made_bundle: Bundle) -> None:
    golden = golden_arrays(made_bundle)
    images = [Image.open(io.BytesIO(golden[f"file.{row}"].tobytes())) for row in range(7)]
    assert {image.format for image in images} == {"PNG", "JPEG"}
    assert {image.mode for image in images} >= {"RGB", "P", "RGBA", "I;16"}
    assert {image.size for image in images} >= {(28, 28), (57, 56)}
    assert [image.getexif().get(0x0112) for image in images][-1] == 6
    assert golden["scores"].dtype == np.float64


def test_they_pass_where_they_were_made(made_bundle: Bundle) -> None:
    assert found(made_bundle) == []


def test_other_weights_fail(made_bundle: Bundle) -> None:
    (line,) = found(made_bundle, model=other_weights(made_bundle.files[BACKBONE], 1.01))
    assert line.startswith("golden outputs differ by 0.0")
    assert line.endswith("relative, allowed 0.0001")
    assert found(made_bundle, model=other_weights(made_bundle.files[BACKBONE], 1 + 1e-6)) == []


def test_another_detector_fails(made_bundle: Bundle) -> None:
    golden = golden_arrays(made_bundle)
    other = Mahalanobis.fit(np.random.default_rng(0).normal(size=(99, 16)))
    backbone = Backbone.load(made_bundle.files[BACKBONE], threads=1)
    (line,) = differences(golden, GREY, backbone, other, Tolerance())
    assert line.startswith("golden scores differ by ")


def test_other_pixels_fail(made_bundle: Bundle) -> None:
    golden = golden_arrays(made_bundle)
    pixels = golden["pixels"].copy()
    pixels[3, 5, 5] ^= 2
    assert not [line for line in found(made_bundle, {**golden, "pixels": pixels}) if "golden image" in line]
    pixels[3, 5, 5] ^= 4
    lines = found(made_bundle, {**golden, "pixels": pixels})
    assert "golden image 3: pixels differ by 6 of 255, allowed 2" in lines


def test_another_preparation_fails(made_bundle: Bundle) -> None:
    backbone = Backbone.load(made_bundle.files[BACKBONE], threads=1)
    bicubic = Preparation(size=(28, 28), mode="grey", resize="bicubic")
    (line,) = differences(golden_arrays(made_bundle), bicubic, backbone, made_bundle.detector, Tolerance())
    assert line.startswith("golden image 2: pixels differ by ")


def test_a_file_that_cannot_be_read_is_a_line(made_bundle: Bundle) -> None:
    golden = {**golden_arrays(made_bundle), "file.1": np.zeros(9, np.uint8)}
    assert found(made_bundle, golden) == ["golden image 1 cannot be read: not an image that can be decoded"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["outputs", "scores"])
def test_values_that_are_not_finite_never_pass(made_bundle: Bundle, name: str, value: float) -> None:
    golden = golden_arrays(made_bundle)
    spoiled = golden[name].copy()
    spoiled.reshape(-1)[0] = value
    if name == "outputs":
        backbone = Backbone.load(made_bundle.files[BACKBONE], threads=1)
        assert not relative_difference(spoiled, backbone(golden["pixels"])) <= Tolerance().outputs
    else:
        assert any(line.startswith("golden scores differ") for line in found(made_bundle, {**golden, name: spoiled}))


def test_the_bundle_of_changed_golden_images_is_read_but_differs(own_bundle: Path, seal: Callable[..., None]) -> None:
    golden = golden_arrays(Bundle.read(own_bundle))
    (own_bundle / GOLDEN).write_bytes(safetensors.numpy.save({**golden, "scores": golden["scores"] * 1.001}))
    seal(own_bundle)
    (line,) = found(Bundle.read(own_bundle))
    assert line == "golden scores differ by 0.000999 relative, allowed 1e-06"


@pytest.mark.parametrize(
    ("a", "b", "gap"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0.0),
        ([1.0, -4.0], [1.5, -4.0], 0.125),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([1.0], [1.0, 1.0], np.inf),
        ([], [], 0.0),
    ],
)
def test_relative_difference(a: list[float], b: list[float], gap: float) -> None:
    assert relative_difference(np.array(a), np.array(b)) == gap


def test_anything_is_far_from_nothing() -> None:
    assert relative_difference(np.zeros(2), np.array([0.0, 1e-9])) > 1


# Sources of every kind


def odd_images(tmp_path: Path, digits: list[Source], white: int) -> list[Source]:
    """Real digits in the modes and sizes that a calibration part may hold."""
    digit = np.asarray(digits[0].decode())
    made = [
        Image.fromarray((digit / 255 * white).astype(np.uint16)),
        Image.fromarray((digit / 255 * white).astype(np.int32)),
        Image.fromarray(digit.astype(np.float32) / 255),
        Image.fromarray(np.stack([digit] * 3, axis=-1)).convert("LAB"),
        Image.fromarray(digit).convert("CMYK"),
        Image.fromarray(digit > 99),
    ]
    sources: list[Source] = [OpenImage(image, f"#{row}") for row, image in enumerate(made)]
    Image.fromarray(digit).resize((2000, 40)).save(tmp_path / "wide.png")
    return [*sources, ImageFile(tmp_path / "wide.png", "wide.png")]


@pytest.mark.parametrize(
    "preparation",
    [
        GREY,
        Preparation(size=(28, 28), mode="grey", crop=(35, 300)),
        Preparation(size=(28, 28), mode="grey", crop_fraction=0.8),
        Preparation(size=(28, 28), mode="grey", bits=12),
    ],
    ids=["whole", "crop", "crop_fraction", "bits"],
)
def test_any_calibration_image_can_be_golden(
    tmp_path: Path, small_graph: bytes, made_bundle: Bundle, digits: list[Source], preparation: Preparation
) -> None:
    backbone = Backbone.load(small_graph, threads=1)
    sources = odd_images(tmp_path, digits, preparation.white)
    if preparation.crop:
        sources = sources[-1:]
    golden = make(sources, preparation, backbone, made_bundle.detector)
    assert len(golden) == 10
    assert golden["pixels"].reshape(7, -1).std(axis=1).min() > 5  # no image was lost on its way through 8 bits
    assert differences(golden, preparation, backbone, made_bundle.detector, Tolerance()) == []
    with Image.open(io.BytesIO(golden["file.0"].tobytes())) as image:
        assert max(image.size) <= max(MAX_SIDE, 2000 * 35 // 40)


def test_large_originals_are_shrunk(small_graph: bytes, made_bundle: Bundle) -> None:
    large = np.random.default_rng(0).integers(0, 256, (600, 1200), dtype=np.uint8)
    golden = make([ImageArray(large, "large")], GREY, Backbone.load(small_graph, threads=1), made_bundle.detector)
    assert sum(array.nbytes for array in golden.values()) < 4_000_000
    with Image.open(io.BytesIO(golden["file.0"].tobytes())) as image:
        assert image.size == (512, 256)


def test_no_copy_exceeds_the_pixels_that_an_image_may_have(
    small_graph: bytes, made_bundle: Bundle, digits: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_od.bundle.golden.MAX_PIXELS", 57 * 56 - 1)
    golden = make(digits[:7], GREY, Backbone.load(small_graph, threads=1), made_bundle.detector)
    for row in range(7):
        with Image.open(io.BytesIO(golden[f"file.{row}"].tobytes())) as image:
            assert image.size == (28, 28)


def test_a_bundle_over_sixteen_bit_files(tmp_path: Path, small_graph: bytes, digits: list[Source]) -> None:
    sources: list[Source] = []
    for row, source in enumerate(digits[:60]):
        file = tmp_path / f"{row}.png"
        Image.fromarray(np.asarray(source.decode()).astype(np.uint16) * 257).save(file)
        sources.append(ImageFile(file, str(file)))
    made = [
        make_bundle(
            tmp_path / name,
            model=small_graph,
            preparation=GREY,
            fit=each[:40],
            calibration=each[40:],
            detector={"kind": "mahalanobis"},
            rule={"rule": "percentile"},
            origin=Origin(name=name),
            threads=1,
        )
        for name, each in (("sixteen", sources), ("eight", digits[:60]))
    ]
    np.testing.assert_array_equal(made[0].calibration.scores, made[1].calibration.scores)
