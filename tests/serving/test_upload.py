"""Uploads: a file or a form of files, whose rows are those of `lit-od score`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_od.bundle.folder import Bundle
from lit_od.images.sources import Source
from lit_od.serving.limits import Limits, Refused
from lit_od.serving.models import Model
from lit_od.serving.sent_images import DecodingRoom
from lit_od.serving.upload import MOST_HEADERS, Form, read
from tests.support.bundles import mapped_bundle
from tests.support.site import Answer, Site, running

CURL = {"content-type": "application/x-www-form-urlencoded"}
"""Headers of `curl --data-binary`."""


def form(
    files: Sequence[tuple[str, bytes]], *, boundary: str = "cut-here", more: str = ""
) -> tuple[bytes, dict[str, str]]:
    """A form of files, and its headers."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n{more}\r\n'.encode()
        + data
        + b"\r\n"
        for name, data in files
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), {
        "content-type": f"multipart/form-data; boundary={boundary}"
    }


def post(site: Site, body: bytes, headers: dict[str, str] | None = None, query: str = "") -> Answer:
    return site.ask(f"/score{query}", body, headers=headers)


def test_rows_are_those_of_score(site: Site, digit_files: Path, command: Any, made_bundle: Bundle) -> None:
    files = [(path.name, path.read_bytes()) for path in sorted(digit_files.rglob("*.png"))[:12]]
    told = command("score", made_bundle.path, *sorted(digit_files.rglob("*.png"))[:12])
    wanted = [line.split(",") for line in told.out.splitlines()[1:]]
    rows = post(site, *form(files)).json
    assert [row["path"] for row in rows] == [name for name, _ in files]
    for row, (_, score, p_value, is_outlier, _) in zip(rows, wanted, strict=True):
        assert list(row) == ["path", "score", "p_value", "is_outlier", "error"]
        assert row["score"] == pytest.approx(float(score), rel=1e-12)
        assert (row["p_value"], row["is_outlier"], row["error"]) == (float(p_value), is_outlier == "true", None)
    single = post(site, files[0][1], CURL).json
    assert single == {**rows[0], "path": None, "score": pytest.approx(rows[0]["score"], rel=1e-12)}


@pytest.mark.parametrize("kind", [None, "image/png", "application/octet-stream", "image/png; x=y"])
def test_a_body_is_an_image_by_any_of_these_types(site: Site, pictures: list[bytes], kind: str | None) -> None:
    row = post(site, pictures[0], {} if kind is None else {"content-type": kind}).json
    assert row["error"] is None


def test_what_cannot_be_read_is_a_row_with_an_error(site: Site, pictures: list[bytes]) -> None:
    rows = post(site, *form([("a", pictures[0]), ("b", b"%!PS"), ("c", pictures[1][:60]), ("d", b"")])).json
    assert [row["error"] is None for row in rows] == [True, False, False, False]
    assert rows[1] == {
        "path": "b",
        "score": None,
        "p_value": None,
        "is_outlier": None,
        "error": "PostScript is not taken",
    }
    assert post(site, b"no image", CURL).json["error"]


@pytest.fixture(scope="module")
def two(model: Model, digits: list[Source], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server of two models, one of which has maps."""
    patches = mapped_bundle(tmp_path_factory.mktemp("bundles") / "patches", digits)
    limits = Limits(images=3, grace=1)
    with running([model, Model.load("patches", patches, threads=1)], limits=limits) as site:
        yield site


def test_an_address_names_one_of_several_models(two: Site, pictures: list[bytes]) -> None:
    assert "add ?model=NAME, one of digits, patches" in post(two, pictures[0]).error
    assert "there is no model 'letters'" in post(two, pictures[0], query="?model=letters").error
    assert post(two, pictures[0], query="?model=digits").json["error"] is None


def test_regions_are_those_of_the_protocol(two: Site, pictures: list[bytes]) -> None:
    answer = post(two, *form([("a", pictures[-1]), ("b", b"none")]), query="?model=patches&regions=true")
    first, second = answer.json
    assert first["is_outlier"]
    assert set(first["regions"][0]) == {"box", "area", "peak", "at"}
    assert second["regions"] is None
    assert "has no maps, hence no regions" in post(two, pictures[0], query="?model=digits&regions=true").error


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?size=3", "there is no parameter 'size'"),
        ("?regions=yes", "regions must be true or false, got 'yes'"),
        ("?model=digits&model=digits", "given twice"),
    ],
)
def test_wrong_parameters(site: Site, pictures: list[bytes], query: str, message: str) -> None:
    answer = post(site, pictures[0], query=query)
    assert (answer.status, message in answer.error) == (400, True)


def refusals() -> dict[str, tuple[int, str, bytes, dict[str, str]]]:
    """Status, message, body and headers of requests that are refused."""
    good, headers = form([("a", b"x")])
    field = good.replace(b'; filename="a"', b"")
    return {
        "empty": (400, "no image came", b"", {}),
        "empty form": (400, "cut off|no multipart", b"", headers),
        "no file": (400, "no image came", b"--cut-here--\r\n", headers),
        "a field": (400, "the field 'file' is no file", field, headers),
        "cut": (400, "its last boundary is missing", good[:-9], headers),
        "another boundary": (400, "is no multipart/form-data", good, form([], boundary="other")[1]),
        "no boundary": (400, "names its boundary", good, {"content-type": "multipart/form-data"}),
        "a long boundary": (400, "is no multipart/form-data", good, form([], boundary="b" * 300)[1]),
        "many headers": (400, "header", *form([("a", b"x")], more="A: b\r\n" * MOST_HEADERS)),
        "a long header": (400, "header", *form([("a", b"x")], more=f"A: {'b' * 5000}\r\n")),
        "many files": (413, "send at most 3 images", *form([(str(row), b"x") for row in range(4)])),
        "text": (415, "content type text/plain is not taken", b"x", {"content-type": "text/plain"}),
        "compressed": (415, "content encoding gzip", b"x", {"content-encoding": "gzip"}),
    }


@pytest.mark.parametrize("name", refusals())
def test_refusals(two: Site, name: str) -> None:
    status, message, body, headers = refusals()[name]
    answer = post(two, body, headers, "?model=digits")
    assert answer.status == status
    assert any(word in answer.error for word in message.split("|"))


names = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters='"\\;%'), min_size=1, max_size=20)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(names, st.binary(max_size=300) | st.sampled_from([b"\r\n--cut-her", b"\r\n", b"--cut-here", b"%!"])),
        min_size=1,
        max_size=5,
    )
)
def test_files_come_out_of_a_form_as_they_went_in(files: list[tuple[str, bytes]]) -> None:
    files = [(name, data) for name, data in files if b"\r\n--cut-here" not in data]
    if not files:
        return
    body, _ = form(files)
    assert Form(len(files)).files(bytearray(body), b"cut-here") == files


@settings(max_examples=60)
@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes_are_a_form_or_refused(noise: bytes, cut: int) -> None:
    body, _ = form([("a", noise), ("b", b"x")])
    for broken in (body[:cut], body[cut:], noise, body[:cut] + noise + body[cut:]):
        try:
            found = len(read(bytearray(broken), b"cut-here", limits=Limits(images=4), decoding=DecodingRoom(1)).sources)
        except Refused as refusal:
            found = refusal.status
        assert found in (1, 2, 3, 4, 400, 413)
