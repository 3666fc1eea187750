"""Cards of the report: images with explanations, regions and the truth, and what enlarges them."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lit_od.backbone.model import Backbone
from lit_od.errors import DataError
from lit_od.evaluation.image_sets import ImageSet, ImageSets, score_set, sets_of_category
from lit_od.evaluation.report import page, report
from lit_od.evaluation.report.cards import NEIGHBOURS, SHOWN, Galleries, Normals
from lit_od.images.find_local import find
from lit_od.scoring.drawing import overlay
from lit_od.scoring.maps import HeatMaps
from lit_od.scoring.regions import find_regions
from lit_od.scoring.scorer import Scorer
from lit_od.serving.normal_images import NormalImages, similar_images
from tests.support import categories
from tests.support.browser import Browser
from tests.support.graphs import bundle_at, graph_of, patch_bundle
from tests.support.images import GREY


@pytest.fixture(scope="module")
def category(tmp_path_factory):
    """A category of textures in MVTec AD's layout."""
    return categories.mvtec(tmp_path_factory.mktemp("categories") / "nut", train=200, good=5, defects=4)


@pytest.fixture(scope="module")
def textures(category, tmp_path_factory):
    """A bundle over patches of its training images."""
    return patch_bundle(tmp_path_factory.mktemp("cards") / "nut", find([category / "train"]))


@pytest.fixture(scope="module")
def sets(digits, garments):
    return ImageSets(ImageSet("inliers", digits[1200:1500], GREY), [ImageSet("garments", garments[:200], GREY)])


def test_a_gallery_holds_the_extremes_from_the_outside_inwards(made_bundle, sets, digits):
    scorer = Scorer.of(made_bundle, threads=1)
    scores = score_set(scorer, sets.inliers)
    normals = Normals(scorer, ImageSet("n", digits[:50], GREY))
    maps = HeatMaps.of(made_bundle, scorer)
    found = Galleries(scorer, maps, normals).gallery(sets.inliers, scores)
    ordered = np.sort(scores)
    assert [card.score for card in found.most] == ordered[::-1][:SHOWN].tolist()
    assert [card.score for card in found.least] == ordered[:SHOWN].tolist()
    for card in (*found.most, *found.least):
        row = [source.name for source in sets.inliers.sources].index(card.name)
        np.testing.assert_array_equal(card.image, sets.inliers.sources[row].prepare(GREY))
        assert card.p_value == made_bundle.calibration.p_values(np.array([card.score]))[0]
        assert len(card.neighbours) == NEIGHBOURS
    hottest = found.most[0]
    heats = maps.heats(hottest.image[None])
    np.testing.assert_array_equal(hottest.views["map"], overlay(hottest.image[None], heats)[0])
    assert {card.regions for card in (*found.most, *found.least)} == {None}
    assert found.least[0].views == {}


def test_small_sets_show_each_image_once(made_bundle, digits):
    scorer = Scorer.of(made_bundle, threads=1)
    images = ImageSet("few", digits[1200:1203], GREY)
    found = Galleries(scorer, HeatMaps.of(made_bundle, scorer)).gallery(images, score_set(scorer, images))
    names = [card.name for card in (*found.most, *found.least)]
    assert sorted(names) == sorted(source.name for source in images.sources)


def test_neighbours_are_the_nearest_by_distance_and_never_the_image_itself(made_bundle, digits):
    scorer = Scorer.of(made_bundle, threads=1)
    images = ImageSet("n", digits[:60], GREY)
    pixels = np.stack([source.prepare(GREY) for source in images.sources])
    features = scorer.backbone(pixels).astype(np.float64)
    apart = np.linalg.norm(features[:, None] - features, axis=2)
    np.fill_diagonal(apart, np.inf)
    names = [source.name for source in images.sources]
    found = Normals(scorer, images).nearest(pixels[:5], scorer.backbone(pixels[:5]), names[:5])
    for row, near in enumerate(found):
        wanted = np.argsort(apart[row], kind="stable")[:NEIGHBOURS]
        assert [name for name, _ in near] == [names[each] for each in wanted]
        np.testing.assert_array_equal(near[0][1], pixels[wanted[0]])


def test_neighbours_are_those_of_the_page_that_is_served(made_bundle, digits):
    scorer = Scorer.of(made_bundle, threads=1)
    sources = digits[:60]
    pixels = np.stack([source.prepare(GREY) for source in digits[100:104]])
    outputs = scorer.backbone(pixels)
    places, _ = similar_images(NormalImages(sources, []), scorer).nearest(pixels, outputs, NEIGHBOURS)
    found = Normals(scorer, ImageSet("n", sources, GREY)).nearest(pixels, outputs, ["", "", "", ""])
    assert [[name for name, _ in near] for near in found] == [[sources[each].name for each in row] for row in places]


def test_normals_must_be_there(made_bundle):
    with pytest.raises(DataError, match="got none"):
        Normals(Scorer.of(made_bundle, threads=1), ImageSet("none", [], GREY))


def test_an_autoencoders_neighbours_are_the_nearest_by_pixels(digits, tmp_path):
    scorer = Scorer.of(bundle_at(tmp_path / "grey", digits, graph_of(["errors", "reconstruction"])), threads=1)
    images = ImageSet("n", digits[:60], GREY)
    pixels = np.stack([source.prepare(GREY) for source in images.sources])
    rows = pixels.reshape(60, -1) / 255
    apart = ((rows[:, None] - rows[None]) ** 2).sum(axis=2)
    np.fill_diagonal(apart, np.inf)
    names = [source.name for source in images.sources]
    found = Normals(scorer, images).nearest(pixels[:5], scorer.backbone(pixels[:5]), names[:5])
    for row, near in enumerate(found):
        wanted = np.argsort(apart[row], kind="stable")[:NEIGHBOURS]
        assert [name for name, _ in near] == [names[each] for each in wanted]


def test_cards_of_maps_show_heat_regions_and_truth_from_one_run(textures, category, monkeypatch):
    scorer = Scorer.of(textures, threads=1)
    maps, images = HeatMaps.of(textures, scorer), sets_of_category(category, GREY)
    holes = images.outliers[0]
    scores = score_set(scorer, holes)
    runs, call = [], Backbone.__call__
    monkeypatch.setattr(Backbone, "__call__", lambda self, images: runs.append(len(images)) or call(self, images))
    found = Galleries(scorer, maps, truth=images.truth).gallery(holes, scores)
    cards = {card.name: card for card in (*found.most, *found.least)}
    assert sum(runs) == len(cards) == len(holes.sources) == 4
    for source in holes.sources:
        card = cards[source.name]
        result = scorer.score(source.prepare(GREY), maps=True)
        assert list(card.views) == ["map", "truth"]
        np.testing.assert_array_equal(card.views["map"], overlay(card.image[None], maps.scale.heat(result.maps))[0])
        mask = np.asarray(Image.open(category / "ground_truth" / "hole" / f"{source.path.stem}_mask.png")) > 0
        np.testing.assert_array_equal(card.views["truth"], mask)
        assert card.regions.found == result.regions[0]
        assert card.regions.boxes == [each.box for each in find_regions(result.maps[0], scorer.pixel_threshold)]
        if card.regions.found:
            xs, ys = card.regions.outline[:, ::2], card.regions.outline[:, 1::2]
            left, top, right, bottom = np.array(card.regions.boxes).T
            assert (xs.min(), ys.min(), xs.max(), ys.max()) == (left.min(), top.min(), right.max(), bottom.max())
    assert any(card.regions.found for card in cards.values())
    good = Galleries(scorer, maps, truth=images.truth).gallery(images.inliers, score_set(scorer, images.inliers))
    assert {tuple(card.views) for card in (*good.most, *good.least)} == {("map",)}


def test_a_click_enlarges_a_card_and_escape_closes_it(textures, category, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "_pictures", lambda *figures: [])  # other tests draw them
    scorer, images = Scorer.of(textures, threads=1), replace(sets_of_category(category, GREY), layout=None)
    html = report(textures, scorer, images).html
    found = [json.loads(each) for each in re.findall(r"data-found='([^']*)'", html)]
    assert len(found) == 13
    assert any(len(each["regions"]) > 0 for each in found)
    assert html.count('alt="truth of ') == 8
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    with Browser.start() as browser:
        for dark, width in ((False, 1280), (True, 390)):
            tab = browser.page(width=width, dark=dark)
            tab.open((tmp_path / "page.html").as_uri())
            number = next(row for row, each in enumerate(found) if each["regions"])
            card = f"document.querySelectorAll('.views')[{number}]"
            tab.evaluate(f"{card}.id = 'mine'")
            tab.click("#mine")
            assert (
                tab.evaluate("document.getElementById('enlarged').open && document.activeElement.textContent")
                == "Close"
            )
            titles = tab.evaluate(
                "[...document.querySelectorAll('#enlarged-views figcaption')].map(e => e.textContent)"
            )
            assert titles[:3] == ["image", "map", "regions"]
            regions = found[number]["regions"]
            assert tab.evaluate("document.querySelectorAll('#enlarged-views rect').length") == len(regions)
            assert tab.evaluate("document.querySelector('#enlarged-views path').getAttribute('d')").startswith("M")
            areas = tab.evaluate(
                "[...document.querySelectorAll('#enlarged-regions td:nth-child(2)')].map(e => e.innerText)"
            )
            assert areas == [f"{each['area']:,}" for each in regions]
            assert tab.evaluate("document.getElementById('enlarged-facts').textContent").startswith("score ")
            assert tab.overflow() == 0
            assert tab.unnamed() == []
            tab.press("Escape")
            assert tab.evaluate("!document.getElementById('enlarged').open && document.activeElement.id") == "mine"
            tab.press("Enter")  # the keyboard opens it too
            assert tab.evaluate("document.getElementById('enlarged').open")
            assert tab.complaints == []
            assert all(request.startswith(("file:", "data:")) for request in tab.requests)
