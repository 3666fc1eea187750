"""The report: one file that holds all that it shows, and whose threshold can be moved."""

import dataclasses
import json
import os
import re
import shutil
import struct
from base64 import b64decode
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lit_od import cli
from lit_od.bundle.folder import Bundle
from lit_od.commands._evaluation_sets import torchvision_sets
from lit_od.evaluation.image_sets import ImageSet, ImageSets, fitted_images, score_set, tell_of_seen
from lit_od.evaluation.rates import rates
from lit_od.evaluation.report import report
from lit_od.evaluation.report.cards import NEIGHBOURS, SHOWN
from lit_od.fitting.from_recipe import fit_onnx
from lit_od.images.find_local import find
from lit_od.images.identity import fingerprint
from lit_od.recipes.load import override, read
from lit_od.scoring.scorer import Scorer
from tests.support.browser import Browser
from tests.support.graphs import bundle_at, graph_of
from tests.support.images import ASSETS, GREY


@pytest.fixture(scope="module")
def sets(digits, garments):
    return ImageSets(ImageSet("inliers", digits[1200:1500], GREY), [ImageSet("garments <&>", garments[:200], GREY)])


@pytest.fixture(scope="module")
def page(made_bundle, sets, digits):
    normals = ImageSet("normal", digits[:800], GREY)
    return report(made_bundle, Scorer.of(made_bundle, threads=1), sets, normals=normals)


@pytest.fixture(scope="module")
def file(page, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "report.html"
    out.write_text(page.html, encoding="utf-8")
    return out


def data_of(html):
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', html, re.DOTALL)[1])


def test_it_asks_no_network_for_anything(page):
    addresses = {
        each for each in re.findall(r'(?:src|href)="([^"]*)"', page.html) if not each.startswith(("#", "data:"))
    }
    assert addresses == set()
    assert "url(http" not in page.html
    assert "@import" not in page.html


def test_names_are_text_and_no_markup(page):
    assert "garments &lt;&amp;&gt;" in page.html
    assert "garments <&>" not in re.sub(r"<script.*?</script>", "", page.html, flags=re.DOTALL)
    assert data_of(page.html)["sets"][1]["name"] == "garments <&>"


def test_ids_are_the_pages_own(page):
    ids = re.findall(r'\bid="([^"]+)"', page.html)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", page.html)) | set(re.findall(r'xlink:href="#([^"]+)"', page.html))
    assert used
    assert used <= set(ids)


def test_the_scores_in_it_are_the_scorers_to_the_bit(page, made_bundle, sets):
    scorer = Scorer.of(made_bundle, threads=1)
    for each, held in zip([sets.inliers, *sets.outliers], data_of(page.html)["sets"], strict=True):
        raw = b64decode(held["scores"])
        assert list(struct.unpack(f"<{len(raw) // 8}d", raw)) == np.sort(score_set(scorer, each)).tolist()


OFFLINE = partial(torchvision_sets, download=False)
EXPORTED = Path(__file__).parents[3] / "exported" / "mnist-digits"


def test_a_bundle_without_a_recipe_knows_no_images(made_bundle):
    assert fitted_images(made_bundle, [], sets=OFFLINE) is None


def test_a_bundle_of_a_folder_knows_the_images_that_fitted_it(digits, tmp_path, caplog):
    images = tmp_path / "images"
    images.mkdir()
    for row, each in enumerate(digits[:20]):
        each.decode().save(images / f"{row:02}.png")
    own = [f"--data.root={images}"]
    bundle = fit_onnx(override(read("folder"), own), tmp_path / "bundle", threads=1)
    found = fitted_images(bundle, own, sets=OFFLINE)
    assert found is not None
    assert bundle.manifest.calibration.folds == 20  # too few to hold some out
    assert fingerprint(found.sources) == bundle.manifest.provenance.data["fit"]
    split = fit_onnx(override(read("folder"), [*own, "--calibration.method=split"]), tmp_path / "split", threads=1)
    held_out = fitted_images(split, own, sets=OFFLINE)
    assert held_out is not None
    assert len(held_out.sources) == 16
    assert fingerprint(held_out.sources) == split.manifest.provenance.data["fit"]
    (new := tmp_path / "new").mkdir()
    shutil.copy(found.sources[3].path, new / "a.png")
    digits[30].decode().save(new / "b.png")
    caplog.clear()
    seen = ImageSets(ImageSet("inliers", find([new]), GREY), [ImageSet("worn", found.sources[:2], GREY)])
    tell_of_seen(bundle, own, seen)
    assert [line.partition(":")[2].partition(":")[0] for line in caplog.messages] == [
        " copies of 1 images serve as both fit image and image to evaluate on (inliers)",
        " copies of 2 images serve as both fit image and image to evaluate on (worn)",
    ]
    (images / "00.png").unlink()
    assert fitted_images(bundle, own, sets=OFFLINE) is None


def test_an_autoencoders_images_show_what_it_makes_of_them(digits, garments, tmp_path):
    bundle = bundle_at(tmp_path / "grey", digits, graph_of(["errors", "reconstruction"]))
    sets = ImageSets(ImageSet("inliers", digits[200:240], GREY), [ImageSet("garments", garments[:30], GREY)])
    html = report(bundle, Scorer.of(bundle, threads=1), sets).html
    assert html.count('class="card wide"') == 4 * SHOWN
    assert html.count('alt="reconstruction of ') == html.count('alt="map of ') == 4 * SHOWN
    assert html.count("data-found='") == 4 * SHOWN
    assert "its reconstruction and its error as heat" in html
    assert "nearest to it by\ntheir pixels" in html
    assert html.count('alt="nearest normal image') == 4 * SHOWN * NEIGHBOURS


def test_nothing_is_downloaded_for_the_images_that_fitted_a_bundle(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.MNIST.download", lambda *given: pytest.fail("it downloads"))
    bundle = Bundle.read(EXPORTED)
    assert fitted_images(bundle, [f"--data.root={tmp_path}"], sets=OFFLINE) is None
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_the_page_and_prints_the_table(made_bundle, command, tmp_path):
    words = [
        "--inliers",
        f"{ASSETS}/digits.npz:test_images:0,1",
        "--outliers",
        f"garments={ASSETS}/garments.npz:images",
    ]
    out = tmp_path / "new" / "page.html"
    done = command("report", made_bundle.path, *words, "--out", out)
    assert done.status == 0
    assert "AUROC" in done.out
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_files_and_sets_whose_names_are_no_unicode_are_shown(made_bundle, capsysbinary, digits, tmp_path):
    odd = os.fsdecode(b"\xff")
    folder = tmp_path / odd
    folder.mkdir()
    for row, source in enumerate(digits[1200:1206]):
        source.decode().save(folder / f"{odd}{row}.png")
    words = ["--inliers", folder, "--outliers", f"{odd} $\\foo$={ASSETS}/garments.npz:images", "--normal", folder]
    words = ["report", made_bundle.path, *words, "--out", tmp_path / "page.html"]
    assert cli.main([str(word) for word in words]) == 0
    assert capsysbinary.readouterr().err == b""
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert rf'alt="{tmp_path}/\udcff/\udcff0.png"' in html
    assert re.search(r'alt="nearest normal image 1: [^"]*\\udcff\d.png"', html)
    assert r"<h3>\udcff $\foo$</h3>" in html
    assert html.count(r"\udcff $\foo$ (n = 1,000)") == 2  # in the legends of two pictures
    assert data_of(html)["sets"][1]["name"] == r"\udcff $\foo$"


def test_a_strangers_bundle_puts_no_commands_on_the_page(made_bundle, sets):
    forged = msgspec.structs.replace(made_bundle.manifest, name="a\x1b[2J\x00<b>")
    bundle = dataclasses.replace(made_bundle, manifest=forged)
    html = report(bundle, Scorer.of(bundle, threads=1), sets).html
    assert r"<h1>a\x1b[2J\x00&lt;b&gt;</h1>" in html


def test_the_nearest_may_be_looked_for_among_torchvisions_sets(made_bundle, command, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    for prefix in ("train", "t10k"):
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, 5, 28, 28) + pixels.tobytes())
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 5) + bytes(range(5)))
    words = ["--inliers", f"{ASSETS}/digits.npz:test_images", "--outliers", f"x={ASSETS}/garments.npz:images"]
    words += ["--normal", "mnist:train:1,2,3", f"--data.root={tmp_path}", "--out", tmp_path / "page.html"]
    done = command("report", made_bundle.path, *words)
    assert (done.status, done.err) == (0, "")
    near = re.findall(r'alt="nearest normal image \d: ([^"]*)"', (tmp_path / "page.html").read_text(encoding="utf-8"))
    assert set(near) == {f"mnist:train#{row}" for row in (1, 2, 3)}


@pytest.mark.parametrize("name", ["page.txt", "folder.html"])
def test_the_command_refuses_another_ending_and_a_folder(made_bundle, command, tmp_path, name):
    (tmp_path / "folder.html").mkdir()
    words = ["--inliers", f"{ASSETS}/digits.npz:test_images", "--outliers", f"x={ASSETS}/garments.npz:images"]
    done = command("report", made_bundle.path, *words, "--out", tmp_path / name)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "--out names the page, FILE.html" in done.err


def shown(page):
    """The table under the slider, as text, by set."""
    rows = page.evaluate(
        "[...document.querySelectorAll('#counts tbody tr')].map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return {row[0]: row[1:] for row in rows}


def expected(inliers, outliers, threshold):
    at = rates(inliers, outliers, threshold)
    shares = (at.tpr, at.precision, at.f1, at.balanced_accuracy)
    return [f"{outliers.size:,}", f"{(outliers > threshold).sum():,}", *(f"{100 * share:.2f}" for share in shares)]


def test_the_slider_moves_the_figures_to_what_python_computes(page, file, made_bundle, sets, tmp_path):
    scorer = Scorer.of(made_bundle, threads=1)
    inliers, garments = score_set(scorer, sets.inliers), score_set(scorer, sets.outliers[0])
    ties = np.sort(inliers)[[0, 100, 299]]  # a score at the threshold is not above it
    with Browser.start() as browser:
        for dark, width in ((False, 1400), (True, 400)):
            tab = browser.page(width=width, dark=dark)
            tab.open(file.as_uri())
            own = made_bundle.calibration.threshold
            assert shown(tab)["garments <&>"] == expected(inliers, garments, own)
            for threshold in (
                *ties.tolist(),
                -1e9,
                1e9,
                float(np.median(garments)),
                float(np.nextafter(ties[1], np.inf)),
            ):
                tab.evaluate(
                    f"(field => {{ field.value = '{threshold!r}'; field.dispatchEvent(new Event('input')); }})"
                    "(document.getElementById('value'))"
                )
                at = shown(tab)
                assert at["garments <&>"] == expected(inliers, garments, threshold)
                assert at["inliers"][1:3] == [
                    f"{(inliers > threshold).sum():,}",
                    f"{100 * (inliers > threshold).mean():.2f}",
                ]
            tab.evaluate("document.getElementById('slider').focus()")
            before = tab.evaluate("document.getElementById('value').valueAsNumber")
            tab.press("ArrowLeft")
            after = tab.evaluate("document.getElementById('value').valueAsNumber")
            assert after < before
            assert shown(tab)["garments <&>"] == expected(inliers, garments, after)
            flagged = tab.evaluate(
                "[...document.querySelectorAll('[data-score]')].map(card => "
                "[Number(card.dataset.score), card.querySelector('.verdict').textContent])"
            )
            assert all((score > after) == (verdict == "outlier") for score, verdict in flagged)
            tab.click("#reset")
            assert shown(tab)["garments <&>"] == expected(inliers, garments, own)
            assert tab.overflow() == 0
            assert tab.unnamed() == []
            assert tab.complaints == []
            assert all(request.startswith(("file:", "data:")) for request in tab.requests)
            tab.screenshot(tmp_path / f"{width}.png")
            assert (tmp_path / f"{width}.png").stat().st_size > 20_000


def test_nine_sets_can_be_told_apart_in_light_and_dark(made_bundle, digits, garments, tmp_path):
    sets = [ImageSet(f"set {number}", garments[20 * number : 20 * number + 20], GREY) for number in range(8)]
    images = ImageSets(ImageSet("inliers", digits[1200:1240], GREY), sets)
    out = tmp_path / "nine.html"
    out.write_text(report(made_bundle, Scorer.of(made_bundle, threads=1), images).html, encoding="utf-8")
    with Browser.start() as browser:
        for dark in (False, True):
            tab = browser.page(width=1400, dark=dark)
            tab.open(out.as_uri())
            looks = {
                where: tab.evaluate(
                    f"[...document.querySelectorAll('{where}')].map(getComputedStyle)"
                    ".map(drawn => [drawn.stroke, drawn.strokeDasharray])"
                )
                for where in ("#chart path[fill=none]", "#legend .swatch line", "#counts .swatch line")
            }
            lines = looks["#chart path[fill=none]"]
            assert all(each == lines for each in looks.values())
            assert len({tuple(each) for each in lines}) == len(lines) == 9
            assert lines[6][0] == tab.evaluate("getComputedStyle(document.body).color")
            assert [dash == "none" for _, dash in lines] == [True] * 7 + [False] * 2
            assert tab.unnamed() == []
            assert tab.complaints == []
            tab.screenshot(tmp_path / f"nine-{'dark' if dark else 'light'}.png")


def test_a_path_is_cut_off_at_its_beginning_and_reads_from_left_to_right(made_bundle, digits, tmp_path):
    paths = ["/data/x.png", f"/{'long' * 10}/y.png"]
    named = [dataclasses.replace(source, name=path) for source, path in zip(digits, paths, strict=False)]
    images = ImageSets(ImageSet("inliers", named, GREY), [ImageSet("others", digits[:3], GREY)])
    out = tmp_path / "paths.html"
    out.write_text(report(made_bundle, Scorer.of(made_bundle, threads=1), images).html, encoding="utf-8")
    with Browser.start() as browser:
        tab = browser.page()
        tab.open(out.as_uri())
        for path in paths:
            first, last, box = tab.evaluate(
                """(name => {
                    const path = [...document.querySelectorAll('.path')].find(each => each.textContent === name);
                    const text = document.createTreeWalker(path, NodeFilter.SHOW_TEXT).nextNode();
                    const left = at => {
                        const letter = document.createRange();
                        letter.setStart(text, at);
                        letter.setEnd(text, at + 1);
                        return letter.getBoundingClientRect().left;
                    };
                    return [left(0), left(name.length - 1), path.getBoundingClientRect().toJSON()];
                })"""
                f"({json.dumps(path)})"
            )
            assert first < last
            assert box["left"] < last < box["right"]  # the file's name is what remains of a long path


def test_a_threshold_that_is_no_number_is_told(file):
    with Browser.start() as browser:
        tab = browser.page()
        tab.open(file.as_uri())
        tab.evaluate("(field => { field.value = ''; field.dispatchEvent(new Event('input')); })"
                     "(document.getElementById('value'))")  # fmt: skip
        assert "must be a number" in tab.evaluate("document.getElementById('problem').textContent")
        tab.click("#reset")
        assert tab.evaluate("document.getElementById('problem').textContent") == ""
