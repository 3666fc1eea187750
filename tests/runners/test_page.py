"""The page scores in the browser alone: verdicts, heat maps, a threshold that is moved, the camera."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lit_od import Scorer
from tests.support.browser import Browser, Page
from tests.support.graphs import features_graph
from tests.support.runtimes import RUNNERS, require_packages

SUMMARY = "document.getElementById('summary').textContent"
ITEMS = "import('./page.js').then(page => page.items.map(({name, score, error}) => ({name, score, error})))"
CAMERA = """(() => {
    const canvas = document.createElement('canvas'), context = canvas.getContext('2d');
    [canvas.width, canvas.height] = [64, 48];
    setInterval(() => context.fillRect(Math.random() * 64, 9, 9, 9), 40);
    navigator.mediaDevices.getUserMedia = async () => canvas.captureStream(20);
})()"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    require_packages("web")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=RUNNERS))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/web/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[Browser]:
    with Browser.start() as started:
        yield started


@pytest.fixture(scope="module")
def opened(browser: Browser, address: str, mapped: Path) -> Page:
    page = browser.page()
    page.open(address)
    page.choose("#model", [mapped / "model.onnx"])
    page.wait("!document.getElementById('pick').disabled")
    return page


@pytest.fixture
def page(opened: Page) -> Page:
    """A page with a model, and no images."""
    opened.resize(1400)
    opened.evaluate("document.getElementById('clear').click()")
    return opened


def texts(page: Page, selector: str) -> list[str]:
    found: list[str] = page.evaluate(f"[...document.querySelectorAll('{selector}')].map(each => each.textContent)")
    return found


def test_images_are_scored_as_lit_od_scores_them(page: Page, address: str, mapped: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("no image")
    files = [mapped / "golden" / "0.png", mapped / "golden" / "9.png", tmp_path / "broken.png"]
    page.choose("#files", files)
    page.wait(f"{SUMMARY} === '3 images · 1 outlier · 1 not scored'")
    wanted = Scorer.load(mapped / "model.onnx", threads=1).score(files[:2])
    assert wanted.is_outlier.tolist() == [False, True]
    items = page.evaluate(ITEMS)
    np.testing.assert_allclose([item["score"] for item in items[:2]], wanted.score, rtol=1e-5)
    assert texts(page, "#cards .verdict") == ["● normal", "▲ outlier", "✕ not scored"]
    assert items[2]["error"] == "is no image that this browser decodes"
    assert page.evaluate("document.querySelectorAll('#cards canvas').length") == 2
    page.click("#heat")
    assert page.evaluate("document.querySelectorAll('#cards canvas').length") == 0
    page.click("#heat")
    page.resize(390)
    assert page.overflow() == 0
    assert page.unnamed() == []
    assert page.complaints == []
    origin = address.removesuffix("web/")
    assert [url for url in page.requests if not url.startswith((origin, "blob:", "data:"))] == []


def test_the_threshold_is_moved(page: Page, mapped: Path) -> None:
    page.choose("#files", [mapped / "golden" / "0.png", mapped / "golden" / "9.png"])
    page.wait(f"{SUMMARY} === '2 images · 1 outlier'")
    page.evaluate(
        "(field => {field.value = 0; field.dispatchEvent(new Event('input'))})(document.getElementById('slider'))"
    )
    assert page.evaluate(SUMMARY) == "2 images · 2 outliers"
    page.evaluate(
        "(field => {field.value = 1e9; field.dispatchEvent(new Event('input'))})(document.getElementById('threshold'))"
    )
    assert page.evaluate(SUMMARY) == "2 images · 0 outliers"
    page.click("#reset")
    assert page.evaluate(SUMMARY) == "2 images · 1 outlier"


def test_the_camera(page: Page) -> None:
    page.evaluate(CAMERA)
    page.click("#watch")
    page.wait("document.querySelector('#camera .shot canvas')")
    assert texts(page, "#camera .verdict")[0].endswith(("outlier", "normal"))
    page.click("#watch")
    page.wait("document.getElementById('camera').hidden")
    assert page.complaints == []


def test_what_is_no_model_is_refused_and_the_old_one_stays(page: Page, mapped: Path, tmp_path: Path) -> None:
    page.choose("#files", [mapped / "golden" / "9.png"])
    page.wait(f"{SUMMARY} === '1 image · 1 outlier'")
    (tmp_path / "foreign.onnx").write_bytes(features_graph())
    page.choose("#model", [tmp_path / "foreign.onnx"])
    page.wait("!document.getElementById('trouble').hidden")
    assert texts(page, "#trouble") == ["foreign.onnx: is no model file that lit-od compiled"]
    assert page.evaluate(SUMMARY) == "1 image · 1 outlier"
    assert texts(page, "#facts")[0].startswith("mapped: ensemble, calibrated on 40 images of 32 \u00d7 32 rgb.")


def test_images_wait_for_a_model(browser: Browser, address: str, mapped: Path) -> None:
    page = browser.page()
    page.open(address)
    page.choose("#files", [mapped / "golden" / "0.png"])
    page.wait(f"{SUMMARY} === '1 image · 0 outliers · 1 to go'")
    page.choose("#model", [mapped / "model.onnx"])
    page.wait(f"{SUMMARY} === '1 image · 0 outliers'")
    assert page.complaints == []
