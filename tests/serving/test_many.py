"""Many clients at once, each with its own image and its own answer."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tests.support.site import Answer, Site, binary


def test_two_hundred_concurrent_requests_are_answered_right(
    site: Site, pictures: list[bytes], expected: np.ndarray
) -> None:
    def ask(picture: bytes) -> Answer:
        body, headers = binary([picture], id=str(pictures.index(picture)))
        return site.ask("/v2/models/digits/infer", body, headers=headers)

    with ThreadPoolExecutor(200) as clients:
        answers = list(clients.map(ask, pictures))
    assert [answer.json["id"] for answer in answers] == [str(row) for row in range(200)]
    np.testing.assert_allclose([answer.output("score")[0] for answer in answers], expected, rtol=1e-12)
    assert {answer.output("error")[0] for answer in answers} == {""}


def test_a_large_request_comes_back_in_order(site: Site, pictures: list[bytes], expected: np.ndarray) -> None:
    body, headers = binary(pictures)
    answer = site.ask("/v2/models/digits/infer", body, headers=headers)
    np.testing.assert_allclose(answer.output("score"), expected, rtol=1e-12)
