"""Models and a running server that the tests share."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest

from lit_od import Scorer
from lit_od.bundle.folder import Bundle
from lit_od.images.sources import Source
from lit_od.serving.models import Model
from tests.support.browser import Browser

if TYPE_CHECKING:
    from tests.support.site import Site  # which needs a web server


@pytest.fixture(scope="session")
def model(made_bundle: Bundle) -> Model:
    return Model.load("digits", made_bundle, threads=2)


@pytest.fixture(scope="session")
def site(model: Model) -> "Iterator[Site]":
    """A server of digits with the usual limits."""
    from tests.support.site import running

    with running([model]) as site:
        yield site


@pytest.fixture(scope="session")
def pictures(digits: list[Source], garments: list[Source]) -> list[bytes]:
    """Two hundred PNG files, a few of them garments."""
    from tests.support.site import png

    return [png(source) for source in [*digits[1200:1390], *garments[:10]]]


@pytest.fixture(scope="session")
def expected(made_bundle: Bundle, digits: list[Source], garments: list[Source]) -> np.ndarray:
    """Their scores."""
    images = np.stack([np.asarray(source.decode()) for source in [*digits[1200:1390], *garments[:10]]])
    return Scorer.load(made_bundle.path, threads=2).score(images[..., None]).score


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with Browser.start() as browser:
        yield browser
