"""The scorer: every form of image, each way to the same verdicts, and the others scored where one is broken."""

import io
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lit_od import Result, Scorer
from lit_od.bundle.folder import BACKBONE, Bundle
from lit_od.errors import BundleError, ConfigError, DataError
from lit_od.fitting.fit import Origin
from lit_od.formats.onnx_writer import node
from lit_od.images.find_local import find
from lit_od.images.preparation import Preparation, prepare
from lit_od.images.sources import ImageArray, Source, Unreadable
from tests.support.bundles import make_bundle
from tests.support.graphs import FLOAT, model_bytes
from tests.support.images import GREY


@pytest.fixture(scope="module")
def scorer(made_bundle: Bundle) -> Scorer:
    return Scorer.load(made_bundle.path, threads=2)


@pytest.fixture(scope="module")
def files(digit_files: Path) -> list[str]:
    return [source.name for source in find([digit_files])]


@pytest.fixture(scope="module")
def stack(files: list[str]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(file)) for file in files])[..., None]


def same(one: Result, other: Result) -> None:
    """Equal in everything but the names."""
    np.testing.assert_array_equal(one.score, other.score)
    np.testing.assert_array_equal(one.p_value, other.p_value)
    np.testing.assert_array_equal(one.is_outlier, other.is_outlier)
    assert list(one.error) == list(other.error)


def joined(results: list[Result]) -> Result:
    return Result(
        [name for result in results for name in result.name],
        np.concatenate([result.score for result in results]),
        np.concatenate([result.p_value for result in results]),
        np.concatenate([result.is_outlier for result in results]),
        [error for result in results for error in result.error],
    )


# What is scored


def test_a_score_is_the_detectors_on_the_graphs_features(scorer: Scorer, made_bundle: Bundle, files: list[str]) -> None:
    pixels = np.stack([prepare(Image.open(file), GREY) for file in files])
    want = made_bundle.detector.score(scorer.backbone(pixels))
    came = scorer.score(files)
    np.testing.assert_allclose(came.score, want, rtol=1e-6)
    np.testing.assert_array_equal(came.p_value, made_bundle.calibration.p_values(came.score))
    np.testing.assert_array_equal(came.is_outlier, came.score > made_bundle.calibration.threshold)
    assert list(came.name) == files
    assert list(came.error) == [None] * len(files)
    assert (came.score.dtype, came.p_value.dtype, came.is_outlier.dtype) == (np.float64, np.float64, np.bool_)
    assert len(came) == len(files) == 40


def test_garments_lie_farther_than_digits(scorer: Scorer, garments: list[Source], files: list[str]) -> None:
    outliers = joined(list(scorer.stream(garments[:200])))
    assert np.median(outliers.score) > np.median(scorer.score(files).score)
    assert outliers.is_outlier.mean() > 0.15
    assert scorer.score(files).is_outlier.mean() < 0.1


# Forms of images


def test_every_form_gives_the_same_verdicts(scorer: Scorer, files: list[str], stack: np.ndarray) -> None:
    want = scorer.score(files)
    opened = [Image.open(file) for file in files]
    for form in (
        [Path(file) for file in files],
        tuple(files),
        opened,
        list(stack),
        list(stack[..., 0]),
        [np.repeat(each, 3, axis=-1) for each in stack],
        stack,
        [stack[:10], stack[10:]],
    ):
        same(scorer.score(form, batch_size=64), want)  # type: ignore[arg-type]  # a tuple is a sequence too
    for image in opened:
        image.close()


def test_a_mixed_list_keeps_its_order_and_names(scorer: Scorer, files: list[str], stack: np.ndarray) -> None:
    with Image.open(files[1]) as opened:
        came = scorer.score([files[0], opened, stack[2], Path(files[3]), stack[4:6]], batch_size=64)
    assert list(came.name) == [files[0], "#1", "#2", files[3], "#4.0", "#4.1"]
    same(came, scorer.score(files[:6]))


def test_one_image_is_a_list_of_one(scorer: Scorer, files: list[str], stack: np.ndarray) -> None:
    want = scorer.score(files[:1])
    with Image.open(files[0]) as opened:
        for form in (files[0], Path(files[0]), opened, stack[0], stack[0, ..., 0], stack[:1]):
            came = scorer.score(form)
            assert len(came) == 1
            np.testing.assert_array_equal(came.score, want.score)


def test_the_prepared_fast_path_equals_the_slow_path(scorer: Scorer, stack: np.ndarray) -> None:
    fast = scorer.score(stack, batch_size=16)
    slow = scorer.score(list(stack), batch_size=16)
    same(fast, slow)
    assert list(fast.name) == list(slow.name) == [f"#{row}" for row in range(40)]
    larger = np.repeat(np.repeat(stack, 2, axis=1), 2, axis=2)
    assert list(scorer.score(larger).name) == list(fast.name)
    same(scorer.score(larger, batch_size=16), scorer.score(list(larger), batch_size=16))


def test_arrays_are_not_changed(scorer: Scorer, stack: np.ndarray) -> None:
    before = stack.copy()
    scorer.score(stack)
    scorer.score(list(stack))
    np.testing.assert_array_equal(stack, before)


def test_a_crop_is_never_skipped(own_bundle: Path, seal: Callable[..., None], stack: np.ndarray) -> None:
    whole = Scorer.load(own_bundle, threads=2)
    seal(own_bundle, lambda tree: tree["preparation"].update(crop_fraction=0.5))
    cropping = Scorer.load(own_bundle, threads=2)
    same(cropping.score(stack), cropping.score(list(stack)))
    enlarged = [Image.fromarray(each[7:21, 7:21, 0]).resize((28, 28), Image.Resampling.BILINEAR) for each in stack]
    same(cropping.score(stack), whole.score(enlarged))


def test_no_image_at_all(scorer: Scorer) -> None:
    for nothing in ([], np.empty((0, 28, 28, 1), np.uint8)):
        came = scorer.score(nothing)
        assert len(came) == 0
        assert (came.score.shape, came.p_value.shape, came.is_outlier.shape) == ((0,), (0,), (0,))
        assert came.is_outlier.dtype == np.bool_
        assert list(came.error) == []
    assert list(scorer.stream([])) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (3, "a Pillow image or a uint8 array, got int"),
        (None, "got NoneType"),
        (io.StringIO("text"), "got StringIO"),
        ([["a.png"]], "got list"),
        (np.zeros((28, 28)), "must be uint8"),
        (np.zeros((28, 28, 2), np.uint8), r"must have shape \(h, w\)"),
    ],
)
def test_what_is_no_image_is_refused(scorer: Scorer, image: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        scorer.score([image])  # type: ignore[list-item]


# Images that cannot be read


def test_the_others_are_scored(scorer: Scorer, files: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("text")
    whole = Path(files[0]).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    broken = [str(tmp_path / name) for name in ("empty.png", "text.png", "cut.png", "missing.png")] + [str(tmp_path)]
    mixed = [file for pair in itertools.zip_longest(files[:8], broken) for file in pair if file is not None]
    want = scorer.score(files[:8])
    for batch_size in (1, 3, 64):
        came = scorer.score(mixed, batch_size=batch_size)
        assert list(came.name) == mixed
        bad = np.array([name in broken for name in mixed])
        np.testing.assert_allclose(came.score[~bad], want.score, rtol=1e-6)
        assert np.isnan(came.score[bad]).all()
        assert np.isnan(came.p_value[bad]).all()
        assert not came.is_outlier[bad].any()
        assert [error is not None for error in came.error] == bad.tolist()
        causes = dict(zip(came.name, came.error, strict=True))
        assert causes[broken[0]] == "empty file"
        assert causes[broken[1]] == "not an image that can be decoded"
        assert str(causes[broken[2]]).startswith("damaged image: ")
        assert causes[broken[3]] == "no such file"
        assert causes[broken[4]] == "is a folder, wanted an image file"


# Streams and batches


def test_a_stream_equals_a_score(scorer: Scorer, digit_files: Path, files: list[str]) -> None:
    want = scorer.score(files, batch_size=7)
    for images in (files, [digit_files], find([digit_files]), (Path(file) for file in files)):
        results = list(scorer.stream(images, batch_size=7))
        assert [len(result) for result in results] == [7, 7, 7, 7, 7, 5]
        same(joined(results), want)
        assert joined(results).name == files


def test_a_stream_of_one_path_is_of_its_images(scorer: Scorer, digit_files: Path, files: list[str]) -> None:
    for path in (digit_files, str(digit_files), files[0]):
        [result] = scorer.stream(path)
        same(result, scorer.score(files if path != files[0] else files[0]))


def test_encoded_images_score_as_their_files(scorer: Scorer, files: list[str]) -> None:
    data = Path(files[0]).read_bytes()
    want = scorer.score(files[0]).score
    with Path(files[0]).open("rb") as opened:
        for image in (data, [data], io.BytesIO(data), [io.BytesIO(data)], opened):
            came = scorer.score(image)
            assert (came.score.tolist(), list(came.name)) == (want.tolist(), ["#0"])
    assert scorer.score([data[:100], data]).score.tolist()[1:] == want.tolist()


def test_a_stream_has_no_end_and_bounded_batches(scorer: Scorer, stack: np.ndarray) -> None:
    taken = itertools.count()

    def endless() -> Iterator[Source]:
        for row in taken:
            yield ImageArray(stack[row % 40], f"#{row}") if row % 5 else Unreadable(f"#{row}", "broken")

    came = scorer.stream(endless(), batch_size=10)
    for step in range(6):
        result = next(came)
        assert list(result.name) == [f"#{row}" for row in range(10 * step, 10 * step + 10)]
        assert np.flatnonzero(np.isnan(result.score)).tolist() == [0, 5]
    assert next(taken) <= 100


@pytest.mark.parametrize("batch_size", [1, 2, 3, 17, 64])
def test_the_batch_size_does_not_matter(scorer: Scorer, stack: np.ndarray, batch_size: int) -> None:
    want = scorer.score(stack, batch_size=40).score
    for images in (stack, list(stack)):
        np.testing.assert_allclose(scorer.score(images, batch_size=batch_size).score, want, rtol=1e-6)


def test_batches_of_no_image_are_refused(scorer: Scorer, stack: np.ndarray) -> None:
    for images in (stack, list(stack)):
        with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
            scorer.score(images, batch_size=0)


def test_threads_may_share_a_scorer(scorer: Scorer, files: list[str], stack: np.ndarray) -> None:
    want = scorer.score(stack).score
    came: list[np.ndarray] = []
    pool = [threading.Thread(target=lambda: came.append(scorer.score(files).score)) for _ in range(4)]
    for each in pool:
        each.start()
    for each in pool:
        each.join()
    assert len(came) == 4
    for scores in came:
        np.testing.assert_allclose(scores, want, rtol=1e-6)


# Bundles that do not fit themselves


def test_a_detector_of_another_output_is_refused(made_bundle: Bundle) -> None:
    errors = [node("Cast", ["images"], ["errors"], to=FLOAT)]
    model = model_bytes(errors, (28, 28, 1), {"errors": (28, 28, 1)}, {})
    other = Bundle(
        made_bundle.path,
        made_bundle.manifest,
        made_bundle.detector,
        made_bundle.calibration,
        {**made_bundle.files, BACKBONE: model},
    )
    with pytest.raises(BundleError, match="the graph gives errors, its mahalanobis detector reads features"):
        Scorer.of(other)


def test_an_image_of_which_the_graph_makes_no_number_is_a_row(tmp_path: Path) -> None:
    """A graph that divides by the mean pixel: a black image gives NaN, the others are scored."""
    nodes = [
        node("Cast", ["images"], ["pixels"], to=FLOAT),
        node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=1),
        node("Div", ["pixels", "mean"], ["scaled"]),
        node("Flatten", ["scaled"], ["features"]),
    ]
    model = model_bytes(nodes, (2, 2, 1), {"features": (4,)}, {"axes": np.array([1, 2, 3])})
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (40, 2, 2, 1), dtype=np.uint8)
    sources = [ImageArray(image, f"#{row}") for row, image in enumerate(images)]
    how = Preparation(size=(2, 2), mode="grey")
    options: dict[str, Any] = {"detector": {"kind": "knn"}, "rule": {"rule": "percentile"}, "origin": Origin(name="b")}
    bundle = make_bundle(
        tmp_path / "b", model=model, preparation=how, fit=sources[:30], calibration=sources[30:], **options
    )
    scorer = Scorer.of(bundle)
    images = images.copy()
    images[[3, 35]] = 0
    for result in (scorer.score(images), scorer.score(list(images)), scorer.score(images, batch_size=5)):
        assert [row for row, error in enumerate(result.error) if error] == [3, 35]
        assert result.error[3] == "the backbone gives NaN or infinity for this image"
        assert np.flatnonzero(np.isnan(result.score)).tolist() == [3, 35]
        assert np.flatnonzero(np.isnan(result.p_value)).tolist() == [3, 35]
        assert not result.is_outlier[[3, 35]].any()
    black = [*sources[:10], ImageArray(images[3], "black")]
    with pytest.raises(DataError, match="black: the backbone gives NaN or infinity for this image"):
        make_bundle(tmp_path / "c", model=model, preparation=how, fit=black, calibration=sources[30:], **options)
    assert not (tmp_path / "c").exists()


def test_a_path_that_does_not_exist_is_a_row_among_others(scorer: Scorer, files: list[str]) -> None:
    [result] = scorer.stream(["/nowhere/a.png", files[0]])
    assert list(result.error) == ["no such file", None]


def test_images_without_names_are_numbered(scorer: Scorer, stack: np.ndarray) -> None:
    names = scorer.score(stack).name
    assert (len(names), names[0], names[-1]) == (len(stack), "#0", f"#{len(stack) - 1}")
    assert list(names[1:3]) == ["#1", "#2"]


def test_a_provider_that_is_absent_is_refused(made_bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="provider CUDAExecutionProvider is not in this ONNX Runtime"):
        Scorer.load(made_bundle.path, providers=["cuda"])
