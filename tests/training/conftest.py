"""Processes that train together, started once."""

from collections.abc import Iterator

import pytest

from tests.support.job_server import Ranks


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Runs jobs in several processes."""
    with Ranks() as server:
        yield server
