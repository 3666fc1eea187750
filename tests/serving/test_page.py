"""The page, in a browser."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_od.bundle.folder import Bundle
from lit_od.images.sources import Source
from lit_od.serving.models import Model
from lit_od.serving.normal_images import NormalImages
from tests.support.browser import Browser, Page
from tests.support.site import Site, running

DONE = "items.length && items.every(item => item.done)"
MAPPED = "items.every(item => item.error || item.map)"
ROWS = "items.map(item => [item.name, item.score ?? null, item.outlier ?? null, item.error])"

SEEN = """new Promise(done => {
  const after = new IntersectionObserver(() => { after.disconnect(); done(true); });
  for (const item of items) { sight.unobserve(item.card); sight.observe(item.card); }
  after.observe(items.at(-1).card);
})"""
"""Resolves once the page has been told which cards are in sight: observers are told in the order of their making."""

UNREADABLE = """(() => {
  const fail = (done, failed) => failed(new DOMException("it is gone", "NotFoundError"));
  const spoilt = entry => {
    if (["1.png", "notes.txt"].includes(entry.name)) entry.file = fail;
    if (!entry.isDirectory) return entry;
    const reader = entry.createReader(), read = reader.readEntries.bind(reader);
    const spoil = (done, failed) => read(found => done(found.map(spoilt)), failed);
    reader.readEntries = entry.name === "below" ? fail : spoil;
    entry.createReader = () => reader;
    return entry;
  };
  const entry = DataTransferItem.prototype.webkitGetAsEntry;
  DataTransferItem.prototype.webkitGetAsEntry = function () { return spoilt(entry.call(this)); };
})()"""
"""Makes an image, a text and a folder unreadable."""

CONTRAST = """(() => {
  const parsed = text => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return {rgb: [r, g, b], a}; };
  const light = rgb => rgb.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = node => { for (; node; node = node.parentElement) {
    const found = parsed(getComputedStyle(node).backgroundColor);
    if (found.a === 1) return found.rgb; } return [255, 255, 255]; };
  const low = [];
  for (const node of document.body.querySelectorAll("*")) {
    const text = [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
    if (!text || !node.offsetParent || ["SCRIPT", "STYLE", "OPTION"].includes(node.tagName)) continue;
    const [a, b] = [light(parsed(getComputedStyle(node).color).rgb), light(ground(node))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) low.push(node.outerHTML.slice(0, 80));
  }
  return low;
})()"""
"""Texts whose contrast to their ground is below 4.5, as WCAG's level AA has it."""


@pytest.fixture(scope="module")
def folder(pictures: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three digits, a garment, a broken image, and a file that is none."""
    folder = tmp_path_factory.mktemp("images") / "folder"
    (folder / "below").mkdir(parents=True)
    for row in range(3):
        (folder / f"{row}.png").write_bytes(pictures[row])
    (folder / "below" / "garment.png").write_bytes(pictures[-1])
    (folder / "broken.png").write_bytes(pictures[3][:90])
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """The page, which may not complain nor ask anybody else for anything."""
    page = browser.page()
    page.open(site.url)
    page.wait("model")
    yield page
    browser.listen(0.2)
    assert page.complaints == []
    assert page.requests
    assert [url for url in page.requests if not url.startswith((site.url, f"blob:{site.url}", "data:"))] == []


def test_a_dropped_image_is_scored_and_its_map_shown(
    page: Page, folder: Path, expected: np.ndarray, made_bundle: Bundle
) -> None:
    page.drop("#drop", [folder / "0.png"])
    page.wait(f"{DONE} && {MAPPED}")
    ((name, score, outlier, error),) = page.evaluate(ROWS)
    assert (name, outlier, error) == ("0.png", bool(expected[0] > made_bundle.calibration.threshold), "")
    assert score == pytest.approx(expected[0], rel=1e-12)
    shown = page.evaluate("document.querySelector('.card').innerText")
    assert f"{score:.4g}" in shown
    assert "normal" in shown
    page.wait("document.querySelector('.map').naturalWidth > 280")
    page.wait("document.querySelector('.shot').naturalWidth == 28")
    assert page.evaluate("by('facts').textContent").startswith("digits: mahalanobis, outlier above ")
    assert "1 image · 0 outliers" in page.evaluate("by('summary').textContent")


def test_a_dropped_folder(page: Page, folder: Path, expected: np.ndarray) -> None:
    page.drop("h1", [folder])  # anywhere on the page
    page.wait(DONE)
    rows = page.evaluate(ROWS)
    assert [row[0] for row in rows] == [
        f"folder/{name}" for name in ("0.png", "1.png", "2.png", "below/garment.png", "broken.png")
    ]
    scored = [0, 1, 2, -1]
    np.testing.assert_allclose([row[1] for row in rows[:4]], expected[scored], rtol=1e-12)
    assert "damaged" in rows[4][3]
    assert page.evaluate("by('summary').textContent").endswith("1 not scored")
    assert page.evaluate("document.querySelector('.broken').innerText").count("damaged") == 1
    page.evaluate("by('order').selectedIndex = 1, by('order').onchange()")
    order = page.evaluate("[...by('cards').children].map(card => card.item.score ?? null)")
    assert order == [*sorted((row[1] for row in rows[:4]), reverse=True), None]


def test_chosen_files_and_a_chosen_folder(page: Page, folder: Path) -> None:
    page.choose("#files", [folder / "0.png", folder / "1.png"])
    page.wait(f"items.length == 2 && {DONE}")
    page.choose("#folder", [folder])
    page.wait(f"items.length == 7 && {DONE}")
    page.click("#clear")
    page.wait("!items.length && by('bar').hidden && document.activeElement == by('pick')")


def test_the_keyboard_is_enough(page: Page, folder: Path) -> None:
    page.call("Page.setInterceptFileChooserDialog", enabled=True)
    for target, opens in (("pick", "files"), ("pick-folder", "folder")):
        page.press("Tab")
        assert page.evaluate("document.activeElement.id") == target
        page.evaluate(f"by('{opens}').addEventListener('click', () => window.opened = '{opens}')")
        page.press("Enter")
        page.wait(f"window.opened == '{opens}'")
    page.choose("#files", [folder / "0.png"])
    page.wait(DONE)
    reached = []
    for _ in range(4):
        page.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"
    assert reached == ["maps", "order", "save", "clear"]


def test_without_heat_maps(page: Page, folder: Path) -> None:
    page.choose("#files", [folder / "0.png"])
    page.wait(f"{DONE} && {MAPPED}")
    page.click("#maps")
    page.choose("#files", [folder / "1.png"])
    page.wait(f"items.length == 2 && {DONE}")
    page.evaluate(SEEN)
    page.wait("!mapping && !scoring")
    assert page.evaluate("items.map(item => [!!item.asked, !!item.map])") == [[True, True], [False, False]]
    assert page.evaluate("document.querySelectorAll('.map').length") == 1
    assert len([url for url in page.requests if url.endswith("/infer")]) == 3  # two scores and a map
    page.click("#maps")
    page.wait(MAPPED)


def test_a_file_that_is_gone_costs_the_others_nothing(
    browser: Browser, site: Site, pictures: list[bytes], expected: np.ndarray, tmp_path: Path
) -> None:
    files = [tmp_path / f"{row}.png" for row in range(4)]
    for file, picture in zip(files, pictures, strict=False):
        file.write_bytes(picture)
    page = browser.page()
    page.open(site.url)
    page.wait("model")
    page.evaluate("scoring = AT_ONCE")
    page.choose("#files", files)
    page.wait("items.length == 4 && items.every(item => item.file.size)")
    files[1].unlink()
    page.evaluate("scoring = 0, score()")
    page.wait(DONE)
    np.testing.assert_allclose(page.evaluate("[0, 2, 3].map(row => items[row].score)"), expected[[0, 2, 3]], rtol=1e-12)
    assert page.evaluate("items.map(item => !!item.error)") == [False, True, False, False]
    assert "the file has changed" in page.evaluate("items[1].card.innerText")


def test_what_cannot_be_read_in_a_folder_is_counted_and_the_others_are_scored(page: Page, folder: Path) -> None:
    page.evaluate(UNREADABLE)
    page.drop("#drop", [folder])
    page.wait(DONE)
    assert page.evaluate("items.map(item => item.name)") == ["folder/0.png", "folder/2.png", "folder/broken.png"]
    assert page.evaluate("by('trouble').hidden") is False
    assert page.evaluate("by('trouble').textContent") == "2 files or folders could not be read."
    page.click("#clear")
    page.drop("#drop", [folder / "1.png"])
    page.wait("by('trouble').textContent == '1 file or folder could not be read.'")
    assert page.evaluate("items.length") == 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_it_fits_and_can_be_read(page: Page, folder: Path, width: int, dark: bool, tmp_path: Path) -> None:
    page.resize(width)
    page.prefer(dark=dark)
    page.drop("#drop", [folder])
    page.wait(DONE)
    assert page.overflow() == 0
    assert page.unnamed() == []
    assert page.evaluate(CONTRAST) == []
    page.screenshot(tmp_path / "page.png")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 27)" if dark else "rgb(244, 245, 247)")


def test_a_name_is_text_whatever_it_looks_like(page: Page, folder: Path, tmp_path: Path) -> None:
    evil = tmp_path / '<img src=x onerror=alert(1)>,".png'
    evil.write_bytes((folder / "0.png").read_bytes())
    page.choose("#files", [evil])
    page.wait(f"{DONE} && {MAPPED}")
    assert page.evaluate("document.querySelector('h2').textContent") == evil.name
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.click("#save")
    saved = tmp_path / "scores.csv"
    for _ in range(100):
        if saved.exists() and saved.read_text().endswith("\n"):
            break
        page.evaluate("pause(0.05)")
    head, row = saved.read_text().splitlines()
    assert head == "path,score,p_value,is_outlier,error"
    assert row.startswith('"<img src=x onerror=alert(1)>,"".png",')
    assert row.endswith(",false,")


def test_no_image_is_said(page: Page, folder: Path) -> None:
    page.choose("#folder", [folder / "below"])
    page.wait(f"items.length == 1 && {DONE}")
    page.evaluate("add([]), trouble('')")
    page.evaluate("chosen({files: [new File(['x'], 'notes.txt')], value: ''}, true)")
    assert page.evaluate("by('trouble').textContent") == "No image was found in there."


def test_several_bundles_and_normal_images(
    browser: Browser, made_bundle: Bundle, model: Model, digits: list[Source], folder: Path, tmp_path: Path
) -> None:
    for row, source in enumerate(digits[1200:1206]):
        source.decode().save(tmp_path / f"{row}.png")
    normal = NormalImages.read([str(tmp_path)])
    with running([model, Model.load("with normal", made_bundle, normal=normal)], normal=normal) as site:
        page = browser.page(width=400)
        page.open(site.url)
        page.wait("model")
        page.choose("#files", [folder / "0.png"])
        page.wait(f"{DONE} && {MAPPED}")
        assert page.evaluate("document.querySelectorAll('.near').length") == 0
        page.evaluate("by('model').selectedIndex = 1, by('model').dispatchEvent(new Event('change'))")
        page.wait(f"model.name == 'with normal' && {DONE} && {MAPPED}")
        page.wait("[...document.querySelectorAll('.near img')].filter(image => image.naturalWidth == 96).length == 3")
        assert page.evaluate("document.querySelector('.near figcaption').textContent") == "0"
        assert f"{site.url}v2/models/with%20normal/infer" in page.requests
        assert page.overflow() == 0
        assert page.complaints == []


def test_a_full_server_is_asked_again(browser: Browser, model: Model, folder: Path) -> None:
    with running([model]) as site:
        page = browser.page()
        page.open(site.url)
        page.wait("model")
        site.queue.capacity = 0
        page.choose("#files", [folder / "0.png"])
        browser.listen(0.3)
        assert not page.evaluate("items[0].done")
        assert not page.evaluate("by('progress').hidden")
        site.queue.capacity = 10
        page.wait(f"{DONE} && {MAPPED}")


def test_a_server_that_has_gone_is_said(browser: Browser, model: Model, folder: Path) -> None:
    page = browser.page()
    with running([model]) as site:
        page.open(site.url)
        page.wait("model")
    page.choose("#files", [folder / "0.png"])
    page.wait(DONE)
    assert "cannot be reached" in page.evaluate("document.querySelector('.card').innerText")


def test_the_policy_lets_nothing_foreign_in(site: Site) -> None:
    answer = site.ask("/")
    parts = answer.headers["content-security-policy"].split(";")
    policy: dict[str, Any] = dict(part.strip().split(" ", 1) for part in parts)
    assert policy["default-src"] == "'none'"
    assert "unsafe" not in json.dumps(policy)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert b"http://" not in answer.body
    assert b"https://" not in answer.body


def test_while_bundles_are_loaded_the_page_waits(browser: Browser, model: Model) -> None:
    with running([]) as site:
        page = browser.page()
        page.open(site.url)
        page.wait("by('trouble').textContent === 'The bundles are being loaded.'")
        site.shelf.fill({model.name: model})
        page.wait("model && by('trouble').hidden")
