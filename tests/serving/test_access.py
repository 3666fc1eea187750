"""A token: requests without it are refused, health and the pages stay open."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_od.errors import ConfigError
from lit_od.serving.access import MOST_BYTES, OPEN, Token
from lit_od.serving.models import Model
from lit_od.serving.normal_images import NormalImages
from tests.support.browser import Browser
from tests.support.site import Site, running

SECRET = "0123abcd" * 4


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Token:
    file = tmp_path_factory.mktemp("secret") / "token"
    file.write_text(f"{SECRET}\n")
    return Token.read(str(file))


@pytest.fixture(scope="module")
def guarded(model: Model, token: Token) -> Iterator[Site]:
    with running([model], token=token) as site:
        yield site


@pytest.mark.parametrize("path", ["/score", "/v2/models/digits/infer", "/v2", "/models", "/metrics", "/normal/0", "/x"])
def test_who_has_no_token_or_another_is_refused(guarded: Site, path: str) -> None:
    for given in (None, f"Bearer {SECRET[:-1]}", f"Bearer {SECRET}0", "Bearer", "Bearer \xff", f"Basic {SECRET}"):
        answer = guarded.ask(path, headers={} if given is None else {"authorization": given})
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert SECRET not in answer.error
    assert guarded.ask(path, headers={"authorization": f"bearer {SECRET}"}).status in (200, 404, 405)


def test_health_and_pages_stay_open(guarded: Site) -> None:
    assert {path: guarded.ask(path).status for path in OPEN} == dict.fromkeys(OPEN, 200)
    for path in OPEN - {"/"}:
        assert b"digits" not in guarded.ask(path).body  # nothing of the bundles


def test_with_it_images_are_scored(guarded: Site, pictures: list[bytes]) -> None:
    headers = {"authorization": f"Bearer {SECRET}"}
    assert guarded.ask("/score", pictures[0], headers=headers).json["error"] is None


@pytest.mark.parametrize("text", [b"", b"\n", b"two words", b"one\ntwo\n", b"\xff", b"x" * (MOST_BYTES + 1)])
def test_a_file_that_holds_no_token(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "token").write_bytes(text)
    with pytest.raises(ConfigError, match=r"must hold one line of 1 to 4096 ASCII characters .* openssl rand -hex 32"):
        Token.read(str(tmp_path / "token"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read --token-file .*: No such file"):
        Token.read(str(tmp_path / "token"))
    assert SECRET not in repr(Token(SECRET.encode()))


def test_the_page_asks_for_it(
    browser: Browser, model: Model, token: Token, pictures: list[bytes], tmp_path: Path
) -> None:
    for row, picture in enumerate(pictures[:4]):
        (tmp_path / f"{row}.png").write_bytes(picture)
    normal = NormalImages.read([str(tmp_path)])
    loaded = Model.load("digits", model.bundle, normal=normal, threads=1)
    with running([loaded], normal=normal, token=token) as site:
        page = browser.page()
        page.open(site.url)
        page.wait("!by('access').hidden")
        assert page.evaluate("by('trouble').hidden")
        page.evaluate("by('token').value = 'another'")
        page.click("#access button")
        page.wait("by('trouble').textContent.includes('not this server')")
        page.evaluate(f"by('token').value = '{SECRET}'")
        page.click("#access button")
        page.wait("model && by('access').hidden && by('trouble').hidden")
        page.drop("#drop", [tmp_path / "0.png"])
        page.wait("items.length && items.every(item => item.done && item.map)")
        page.wait("[...document.querySelectorAll('.near img')].every(each => each.naturalWidth == 96)")
        assert page.evaluate("document.querySelectorAll('.near img').length") == 3
