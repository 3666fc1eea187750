"""The Open Inference Protocol as clients speak it, `tritonclient` before all."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from lit_od import Scorer, __version__
from lit_od.bundle.folder import Bundle
from lit_od.images.sources import Source
from lit_od.serving import page
from lit_od.serving.models import Model
from lit_od.serving.normal_images import NEAREST, NormalImages, similar_images
from tests.support.graphs import bundle_at, graph_of
from tests.support.images import ASSETS
from tests.support.site import Site, binary, png, running

EXACT = 1e-14
"""Relative: the last bit of a score hangs on how many images are scored at once, in `lit-od score` too."""


@pytest.fixture
def client(site: Site) -> triton.InferenceServerClient:
    return triton.InferenceServerClient("{}:{}".format(*site.place), concurrency=4)


def rows(path: Path, command: Any, bundle: Bundle) -> list[list[str]]:
    """What `lit-od score` says of the images in a folder, in the order of their names."""
    told = command("score", bundle.path, path)
    assert told.status in (0, 1)
    return [line.split(",") for line in told.out.splitlines()[1:]]


def tensor(name: str, values: np.ndarray, kind: str, *, binary_data: bool) -> Any:
    given = triton.InferInput(name, list(values.shape), kind)
    given.set_data_from_numpy(values, binary_data=binary_data)
    return given


def agree(found: Any, wanted: list[list[str]]) -> None:
    """An answer holds the values of rows of `lit-od score`."""
    for name, column in (("score", 1), ("p_value", 2)):
        np.testing.assert_allclose(found.as_numpy(name), [float(row[column]) for row in wanted], rtol=EXACT)
    assert found.as_numpy("is_outlier").tolist() == [row[3] == "true" for row in wanted]


@pytest.mark.parametrize("out", [True, False], ids=["binary out", "json out"])
@pytest.mark.parametrize("into", [True, False], ids=["binary in", "json in"])
def test_triton_scores_pixels(
    client: Any, digit_files: Path, command: Any, made_bundle: Bundle, into: bool, out: bool
) -> None:
    wanted = rows(digit_files, command, made_bundle)
    pixels = np.stack([np.asarray(Image.open(row[0]))[..., None] for row in wanted])
    outputs = [triton.InferRequestedOutput(name, binary_data=out) for name in ("score", "p_value", "is_outlier")]
    agree(client.infer("digits", [tensor("images", pixels, "UINT8", binary_data=into)], outputs=outputs), wanted)


@pytest.mark.parametrize("into", [True, False], ids=["binary in", "json in"])
def test_triton_scores_files(client: Any, digit_files: Path, command: Any, made_bundle: Bundle, into: bool) -> None:
    wanted = rows(digit_files, command, made_bundle)
    files = [Path(row[0]).read_bytes() for row in wanted]
    given = np.array(files if into else [base64.b64encode(file) for file in files], dtype=object)
    found = client.infer("digits", [tensor("encoded", given, "BYTES", binary_data=into)], request_id="mine")
    agree(found, wanted)
    assert found.as_numpy("error").tolist() == [b""] * len(files)
    assert found.get_response()["id"] == "mine"


def test_pixels_of_another_size_are_prepared_too(client: Any, made_bundle: Bundle, rng_pixels: np.ndarray) -> None:
    found = client.infer("digits", [tensor("images", rng_pixels, "UINT8", binary_data=True)])
    np.testing.assert_allclose(
        found.as_numpy("score"), Scorer.load(made_bundle.path).score(rng_pixels).score, rtol=EXACT
    )


@pytest.fixture
def rng_pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 40, 50, 3), dtype=np.uint8)


def test_triton_reads_what_the_server_and_its_models_are(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1")
    assert not client.is_model_ready("letters")
    assert not client.is_model_ready("digits", "2")
    about = client.get_server_metadata()
    assert (about["version"], about["extensions"]) == (__version__, ["binary_tensor_data"])
    told = client.get_model_metadata("digits", "1")
    assert (told["name"], told["versions"]) == ("digits", ["1"])
    assert [(each["name"], each["datatype"]) for each in told["inputs"]] == [("images", "UINT8"), ("encoded", "BYTES")]
    assert {each["name"]: each["datatype"] for each in told["outputs"]} == {
        "score": "FP64", "p_value": "FP64", "is_outlier": "BOOL", "error": "BYTES", "map": "BYTES",
    }  # fmt: skip


def test_triton_reads_refusals(client: Any, rng_pixels: np.ndarray) -> None:
    given = tensor("images", rng_pixels, "UINT8", binary_data=True)
    with pytest.raises(InferenceServerException, match="there is no model 'letters': here are digits"):
        client.infer("letters", [given])
    with pytest.raises(InferenceServerException, match="no output 'logits'"):
        client.infer("digits", [given], outputs=[triton.InferRequestedOutput("logits")])


def test_only_what_is_asked_for_is_given(site: Site, pictures: list[bytes]) -> None:
    body, headers = binary(pictures[:1], outputs=[{"name": "p_value"}])
    answer = site.ask("/v2/models/digits/versions/1/infer", body, headers=headers)
    assert [each["name"] for each in answer.json["outputs"]] == ["p_value"]
    assert answer.headers["content-type"] == "application/json"


def test_a_broken_image_is_a_row_with_an_error_and_the_others_are_scored(site: Site, pictures: list[bytes]) -> None:
    body, headers = binary([pictures[0], pictures[1][:60], pictures[2]])
    answer = site.ask("/v2/models/digits/infer", body, headers=headers)
    score, errors = answer.output("score"), answer.output("error")
    assert [value is None for value in score] == [False, True, False]
    assert answer.output("p_value")[1] is None
    assert answer.output("is_outlier")[1] is False
    assert [bool(error) for error in errors] == [False, True, False]


def test_who_does_not_ask_for_errors_is_refused_instead_of_given_nan(site: Site, pictures: list[bytes]) -> None:
    body, headers = binary([pictures[0], pictures[1][:60]], outputs=[{"name": "score"}])
    answer = site.ask("/v2/models/digits/infer", body, headers=headers)
    assert answer.status == 400
    assert "image 1: " in answer.error


def test_a_heat_map_is_a_picture(site: Site, pictures: list[bytes]) -> None:
    body, headers = binary([pictures[0], b"nothing"], outputs=[{"name": "map"}, {"name": "error"}])
    answer = site.ask("/v2/models/digits/infer", body, headers=headers)
    first, second = answer.output("map")
    image = Image.open(io.BytesIO(base64.b64decode(first)))
    assert (image.format, image.size[1], image.size[0] > 2 * 28 * 5) == ("PNG", 28 * 5, True)
    assert second == ""


def test_nearest_normal_images(made_bundle: Bundle, digits: list[Source], tmp_path: Path) -> None:
    for row, source in enumerate(digits[:12]):
        source.decode().save(tmp_path / f"{row:02}.png")
    (tmp_path / "00b.png").write_bytes(b"broken")
    normal = NormalImages.read([str(tmp_path)])
    assert len(normal.pictures) == 12
    with running([Model.load("digits", made_bundle, normal=normal, threads=1)], normal=normal) as site:
        body, headers = binary(
            [png(digits[5]), b"broken", png(digits[3])],
            outputs=[{"name": name} for name in ("nearest", "nearest_distance", "error")],
        )
        answer = site.ask("/v2/models/digits/infer", body, headers=headers)
        numbers = np.array(answer.output("nearest")).reshape(3, NEAREST)
        distances = np.array(answer.output("nearest_distance"), dtype=float).reshape(3, NEAREST)
        assert (numbers[0][0], distances[0][0]) == (5, 0)
        assert (numbers[2][0], distances[2][0]) == (3, 0)
        assert (np.diff(distances[[0, 2]]) >= 0).all()
        assert (numbers[1] == -1).all()
        assert np.isnan(distances[1]).all()
        shown = site.ask("/normal/5")
        assert Image.open(io.BytesIO(shown.body)).size == (96, 96)
        for number in ("12", "9" * 5000, "-1", ""):
            assert site.ask(f"/normal/{number}").status == 404


def test_nearest_images_are_those_of_an_exhaustive_search(model: Model, digits: list[Source], tmp_path: Path) -> None:
    normal = NormalImages.read([f"{ASSETS}/digits.npz:train_images:1,2"])
    nearest = similar_images(normal, model.whole)
    images = np.stack([np.asarray(source.decode()) for source in normal.sources])[..., None]
    features = model.whole.backbone(images).astype(float)
    image = np.asarray(digits[900].decode())[None, ..., None]
    query = model.whole.backbone(image)
    rows, distances = nearest.nearest(image, query, NEAREST)
    apart = np.sqrt(((features - query.astype(float)) ** 2).sum(axis=1))
    np.testing.assert_array_equal(rows[0], np.argsort(apart, kind="stable")[:NEAREST])
    np.testing.assert_allclose(distances[0], np.sort(apart)[:NEAREST], rtol=1e-6)


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/v2/",
        "/v2/models",
        "/v2/models/digits/stats",
        "/normal/0",
        "/normal/-1",
        "/normal/",
        f"/normal/{9:05000}",
    ],
)
def test_what_is_not_there(site: Site, path: str) -> None:
    answer = site.ask(path)
    assert answer.status == 404
    assert answer.error


def test_the_page_needs_no_file_once_the_server_runs(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be no descriptor left to open one."""
    page.read.cache_clear()
    with running([model]) as site:
        monkeypatch.setattr("lit_od.serving.page.files", lambda name: pytest.fail("it is opened"))
        assert site.ask("/").status == 200


def test_methods(site: Site) -> None:
    wrong = site.ask("/v2/models/digits/infer")
    assert wrong.status == 405
    assert wrong.error == "/v2/models/digits/infer takes POST, not GET"
    assert site.ask("/v2", b"{}").error
    assert site.ask("/v2/health/live", method="HEAD").status == 200


@pytest.fixture(scope="module")
def autoencoder(digits: list[Source], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    maps = graph_of(["errors", "reconstruction"])
    return bundle_at(tmp_path_factory.mktemp("serve") / "grey", digits, maps)


def test_an_autoencoder_shows_its_reconstruction_too(
    autoencoder: Bundle, pictures: list[bytes], command: Any, tmp_path: Path
) -> None:
    """The picture is the one that `lit-od score --maps` writes."""
    (tmp_path / "one.png").write_bytes(pictures[0])
    assert command("score", autoencoder.path, tmp_path / "one.png", "--maps", tmp_path / "maps").status == 0
    _, drawn = sorted((tmp_path / "maps").glob("*.png"))  # before it the mask
    with running([Model.load("grey", autoencoder, threads=2)]) as site:
        body, headers = binary(pictures[:1], outputs=[{"name": "map"}])
        answer = site.ask("/v2/models/grey/infer", body, headers=headers)
        served = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.output("map")[0]))))
    np.testing.assert_array_equal(served, np.asarray(Image.open(drawn)))


def test_an_autoencoder_finds_normal_images_by_their_pixels(
    autoencoder: Bundle, digits: list[Source], tmp_path: Path
) -> None:
    for row, source in enumerate(digits[:12]):
        source.decode().save(tmp_path / f"{row:02}.png")
    normal = NormalImages.read([str(tmp_path)])
    pixels = np.stack([np.asarray(source.decode()) for source in digits[:12]]).reshape(12, -1) / 255
    asked = np.asarray(digits[40].decode()).reshape(1, -1) / 255
    apart = np.sqrt(((pixels - asked) ** 2).sum(axis=1))
    with running([Model.load("grey", autoencoder, normal=normal, threads=1)], normal=normal) as site:
        body, headers = binary([png(digits[40])], outputs=[{"name": "nearest"}, {"name": "nearest_distance"}])
        answer = site.ask("/v2/models/grey/infer", body, headers=headers)
    assert answer.output("nearest") == np.argsort(apart, kind="stable")[:NEAREST].tolist()
    np.testing.assert_allclose(answer.output("nearest_distance"), np.sort(apart)[:NEAREST], rtol=1e-5)
