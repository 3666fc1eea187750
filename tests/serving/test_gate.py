"""Pages of other sites are kept out, under their own name or the server's."""

from collections.abc import Iterator

import pytest

from lit_od.serving.models import Model
from tests.support.site import Site, running

WELCOME = "localhost LOCALHOST:80 127.0.0.1 192.168.1.5:8000 [::1]:8000 x.localhost scores.example:9".split()
FOREIGN = "evil.example localhost.evil.example 127.0.0.1.evil.example xlocalhost [x".split()


@pytest.fixture(scope="module")
def named(model: Model) -> Iterator[Site]:
    with running([model], hosts=["Scores.example"]) as site:
        yield site


@pytest.mark.parametrize("host", WELCOME)
def test_names_of_the_server(named: Site, host: str) -> None:
    assert named.ask("/v2", headers={"host": host}).status == 200
    assert named.ask("/v2", headers={"host": host, "origin": f"http://{host.lower()}"}).status == 200


def test_no_page_of_another_site_may_embed_an_answer(named: Site) -> None:
    for path in ("/", "/v2", "/nothing"):
        assert named.ask(path).headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("host", FOREIGN)
def test_a_foreign_name_that_points_here(named: Site, host: str) -> None:
    answer = named.ask("/v2", headers={"host": host})
    assert answer.status == 403
    assert "--allow-host" in answer.error


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1.evil.example", "http://[x"]
)
def test_a_page_of_another_site(named: Site, origin: str) -> None:
    answer = named.ask("/v2/models/digits/infer", b"{}", headers={"host": "localhost", "origin": origin})
    assert answer.status == 403
    assert origin in answer.error
