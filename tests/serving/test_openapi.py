"""The description of the interface: valid, complete, and a page that shows all of it."""

import re
from pathlib import Path
from typing import Any

from openapi_spec_validator import validate
from starlette.applications import Starlette
from starlette.routing import Route

from lit_od import __version__
from lit_od.serving.app import application
from lit_od.serving.gate import Gate
from lit_od.serving.limits import Limits
from lit_od.serving.metrics import KINDS, Metrics
from lit_od.serving.shelf import Shelf
from lit_od.serving.work_queue import WorkQueue
from tests.support.browser import Browser
from tests.support.site import Site


def document(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = site.ask("/openapi.json").json
    return found


def test_it_is_valid_openapi(site: Site) -> None:
    found = document(site)
    validate(found)  # type: ignore[arg-type]
    assert found["info"]["version"] == __version__


def test_it_has_every_address_and_no_other(site: Site) -> None:
    queue = WorkQueue(workers=1, capacity=1)
    gate = application(Shelf(), queue, limits=Limits(), metrics=Metrics())
    queue.close()
    assert isinstance(gate, Gate)
    assert isinstance(gate.app, Starlette)
    routes = [route for route in gate.app.routes if isinstance(route, Route)]
    served = {(route.path, method) for route in routes for method in (route.methods or set()) - {"HEAD"}}
    described = {
        (path, method.upper())
        for path, methods in document(site)["paths"].items()
        for method in methods
        if method != "parameters"
    }
    assert described == {(path, method) for path, method in served if "/versions/" not in path}


def test_each_refusal_that_it_names_is_one_that_is_counted(site: Site) -> None:
    found = {
        int(status)
        for methods in document(site)["paths"].values()
        for name, about in methods.items()
        if name != "parameters"
        for status in about["responses"]
    }
    assert found - {200} <= set(KINDS)


def test_the_page_shows_all_of_it_and_asks_nobody_else(browser: Browser, site: Site, tmp_path: Path) -> None:
    page = browser.page(width=390)
    page.open(f"{site.url}docs")
    text = page.evaluate("document.body.innerText")
    found = document(site)
    for path, methods in found["paths"].items():
        assert path in text
        for name, about in methods.items():
            if name != "parameters":
                assert f"{about['summary']}." in text
    assert re.search(r"curl --data-binary @image\.jpg", text)
    browser.listen(0.2)
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith((site.url, "data:"))] == []
    assert page.overflow() == 0
