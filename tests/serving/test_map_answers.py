"""Maps and regions that are served, and the page that moves their threshold."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_od.backbone.model import Backbone
from lit_od.bundle.folder import Bundle
from lit_od.images.sources import Source
from lit_od.scoring.regions import find_regions
from lit_od.scoring.scorer import Scorer
from lit_od.serving.map_answers import MAP, PREPARED, RAW, REGIONS, large_bytes, map_outputs
from lit_od.serving.models import Model
from tests.support.browser import Browser
from tests.support.graphs import bundle_at, graph_of, patch_bundle
from tests.support.site import Answer, Site, binary, png, running


@pytest.fixture(scope="module")
def bundle(digits: list[Source], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return patch_bundle(tmp_path_factory.mktemp("served") / "patches", digits)


@pytest.fixture(scope="module")
def errors(digits: list[Source], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_at(tmp_path_factory.mktemp("served") / "grey", digits, graph_of(["errors", "reconstruction"]))


@pytest.fixture(scope="module")
def site(bundle: Bundle, errors: Bundle) -> Iterator[Site]:
    with running([Model.load("patches", bundle, threads=1), Model.load("errors", errors, threads=1)]) as site:
        yield site


@pytest.fixture(scope="module")
def files(garments: list[Source]) -> list[bytes]:
    """Three garments, two of which stand out."""
    return [png(garments[row]) for row in (0, 1, 8)]


def ask(site: Site, files: list[bytes], *names: str, model: str = "patches") -> Answer:
    outputs = [{"name": name, "parameters": {"binary_data": name in (RAW, PREPARED)}} for name in names]
    body, headers = binary(files, outputs=outputs)
    return site.ask(f"/v2/models/{model}/infer", body, headers=headers)


def test_regions_are_json_in_the_images_own_pixels(site: Site, bundle: Bundle, files: list[bytes]) -> None:
    given = [*files, b"nothing"]
    wanted = Scorer.of(bundle, threads=1).score(given, maps=True)
    found = [json.loads(text) for text in ask(site, given, REGIONS, "error").output(REGIONS)]
    assert found[3] is None
    assert any(found)
    assert wanted.regions is not None
    for own, regions in zip(found[:3], wanted.regions, strict=False):
        assert [(tuple(each["box"]), each["area"], tuple(each["at"])) for each in own] == [
            (each.box, each.area, each.at) for each in regions
        ]
        np.testing.assert_allclose([each["peak"] for each in own], [each.peak for each in regions], rtol=1e-6)


def test_raw_maps_are_the_scorers_and_lie_on_the_prepared_image(site: Site, bundle: Bundle, files: list[bytes]) -> None:
    answer = ask(site, [*files, b"nothing"], RAW, PREPARED, "error")
    length = int(answer.headers["inference-header-content-length"])
    head, data = json.loads(answer.body[:length]), answer.body[length:]
    raw = head["outputs"][0]
    assert (raw["datatype"], raw["shape"]) == ("FP32", [4, 28, 28])
    size = raw["parameters"]["binary_data_size"]
    maps = np.frombuffer(data[:size], "<f4").reshape(4, 28, 28)
    scorer = Scorer.of(bundle, threads=1)
    np.testing.assert_allclose(maps[:3], scorer.score(files, maps=True).maps, rtol=1e-6)
    assert np.isnan(maps[3]).all()
    wide = int.from_bytes(data[size : size + 4], "little")
    image = np.asarray(Image.open(io.BytesIO(data[size + 4 : size + 4 + wide])))
    np.testing.assert_array_equal(image[..., 0], np.asarray(Image.open(io.BytesIO(files[0]))))


def test_a_reconstruction_lies_beside_the_prepared_image(site: Site, files: list[bytes]) -> None:
    answer = ask(site, files[:1], PREPARED, model="errors")
    data = answer.body[int(answer.headers["inference-header-content-length"]) + 4 :]
    image = np.asarray(Image.open(io.BytesIO(data)))
    assert image.shape == (28, 56, 3)
    assert set(np.unique(image[:, 28:])) <= {127, 128}


def test_raw_maps_in_json_are_refused_and_other_models_have_none(site: Site, model: Model, files: list[bytes]) -> None:
    body, headers = binary(files, outputs=[{"name": RAW}])
    refused = site.ask("/v2/models/patches/infer", body, headers=headers)
    assert (refused.status, "raw is given in binary form alone" in refused.error) == (400, True)
    assert list(map_outputs(model.whole)) == [MAP]
    assert model.card()["maps"] is None


def test_one_run_of_the_graph_gives_all(
    bundle: Bundle, garments: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model.load("patches", bundle, threads=1)
    runs, call = [], Backbone.__call__
    monkeypatch.setattr(Backbone, "__call__", lambda self, images: runs.append(len(images)) or call(self, images))
    answers = model.answer(garments[:1], frozenset({MAP, RAW, REGIONS, PREPARED}), alone=True)
    assert runs == [1, 7]  # the golden images set the scale of colours, once
    pictures = len(answers[MAP][0]) + len(answers[PREPARED][0])
    assert large_bytes(answers) == pictures + 28 * 28 * 4


def test_the_card_says_the_scale_and_whose_threshold_it_is(bundle: Bundle, errors: Bundle) -> None:
    card = Model.load("patches", bundle, threads=1).card()["maps"]
    assert (card["threshold"], card["one_threshold"]) == (bundle.calibration.threshold, True)
    assert card["marks"][1] == (0.5, bundle.calibration.threshold, "threshold")
    other = Model.load("errors", errors, threads=1).card()["maps"]
    assert (other["threshold"], other["one_threshold"]) == (errors.manifest.calibration.pixel_threshold, False)


DONE = "items.length && items.every(item => item.raw)"
TOLD = "items.map(item => [item.outlier, item.regions.map(each => [each.area, each.peak])])"


def test_the_threshold_of_the_page_moves_verdicts_and_regions(
    browser: Browser, site: Site, bundle: Bundle, garments: list[Source], tmp_path: Path
) -> None:
    images = [tmp_path / f"{row}.png" for row in range(4)]
    for file, source in zip(images, garments, strict=False):
        file.write_bytes(png(source))
    scorer = Scorer.of(bundle, threads=1)
    result = scorer.score(images, maps=True)
    assert result.maps is not None
    page = browser.page(width=1280)
    page.open(site.url)
    page.wait("model")
    page.choose("#files", images)
    page.wait(DONE)
    own = bundle.calibration.threshold
    for threshold in (own, float(np.median(result.maps)), float(result.maps.max()), own):
        page.evaluate(
            f"(field => {{ field.value = '{threshold!r}'; field.dispatchEvent(new Event('input')); }})(by('limit'))"
        )
        page.wait(f"!waiting && items.every(item => item.outlined === {threshold!r})")
        for (outlier, regions), score, one in zip(page.evaluate(TOLD), result.score, result.maps, strict=True):
            assert outlier == (score > threshold)
            wanted = find_regions(one, threshold)
            np.testing.assert_allclose(
                sorted(regions), sorted([each.area, each.peak] for each in wanted), rtol=1e-5, err_msg=str(threshold)
            )
    page.evaluate("by('slider').focus()")
    page.press("ArrowRight")
    page.wait("limit > model.threshold && !waiting")
    page.click("#own")
    page.wait("limit === model.threshold")
    cyan = page.evaluate("""items.map(({canvas}) => {
      const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      let count = 0;
      for (let at = 0; at < data.length; at += 4) count += data[at] < 9 && data[at + 1] > 246 && data[at + 2] > 246;
      return count;
    })""")
    assert [count > 0 for count in cyan] == result.is_outlier.tolist()
    assert "Verdicts, regions and the saved CSV follow" in page.evaluate("by('follows').textContent")
    page.evaluate("by('model').selectedIndex = 1, by('model').dispatchEvent(new Event('change'))")
    page.wait(f"model.name == 'errors' && {DONE}")
    assert "Pixels have a threshold of their own" in page.evaluate("by('follows').textContent")
    before = page.evaluate("items.map(item => item.told)")
    page.evaluate("setLimit(-1)")
    page.wait("!waiting && items.every(item => item.outlier)")
    assert page.evaluate("items.map(item => item.told)") == before
    page.resize(390)
    assert page.overflow() == 0
    assert page.unnamed() == []
    assert page.complaints == []


def test_maps_out_of_sight_are_dropped_and_asked_for_again(
    browser: Browser, site: Site, garments: list[Source], tmp_path: Path
) -> None:
    page = browser.page(width=390)
    page.open(site.url)
    page.wait("model")
    images = [tmp_path / f"{row:02}.png" for row in range(70)]
    for file, source in zip(images, garments, strict=False):
        file.write_bytes(png(source))
    page.choose("#files", images)
    page.wait("items.length == 70 && items.every(item => item.done)")
    page.evaluate("items.forEach(wantMap)")
    page.wait("items.every(item => item.raw || !item.asked) && !mapping")
    assert page.evaluate("kept.length === 64 && items.filter(item => item.raw).length === 64")
    page.evaluate("items.find(item => !item.raw).card.scrollIntoView()")
    page.wait("items.every(item => !item.inSight || item.raw)")
    assert page.complaints == []
