"""Fixtures that everybody shares: real images that ship with the package, and a small graph that needs no torch."""

import os
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NoReturn

import hypothesis
import pytest

from lit_od import cli
from lit_od.bundle.folder import Bundle
from lit_od.fitting.fit import Origin
from lit_od.images.find_local import find
from lit_od.images.sources import Source
from lit_od.recipes.load import shipped
from tests.support import needs, sealing
from tests.support.bundles import make_bundle
from tests.support.commands import Outcome
from tests.support.graphs import features_graph
from tests.support.images import ASSETS, GREY
from tests.support.once import locked

hypothesis.settings.register_profile("any-machine", deadline=None)  # a timing is never a test
hypothesis.settings.load_profile("any-machine")


def pytest_configure(config: pytest.Config) -> None:
    for package in sorted(needs.OPTIONAL):
        config.addinivalue_line("markers", f"{package}: needs {package}, found by imports or said by the test")


class ModuleWithoutPackages(pytest.Module):
    """A test module that imports packages which are not installed."""

    def collect(self) -> NoReturn:
        pytest.skip(f"without {', '.join(needs.missing(needs.packages_of(self.path)))}", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if needs.missing(needs.packages_of(module_path)):
        return ModuleWithoutPackages.from_parent(parent, path=module_path)
    return None


def pytest_itemcollected(item: pytest.Item) -> None:
    found = needs.packages_of(item.path)
    if isinstance(item, pytest.Function):
        found |= needs.packages_in_functions(item.path).get(item.originalname, frozenset())
    for package in found:
        item.add_marker(package)
    said = frozenset(mark.name for mark in item.iter_markers()) & needs.OPTIONAL
    if missing := needs.missing(said):
        item.add_marker(pytest.mark.skip(reason=f"without {', '.join(missing)}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Skip a test that fails since lit_od imports, when it needs it, what is not installed."""
    report = yield
    if report.failed and call.excinfo is not None and (reason := needs.reason_to_skip(call.excinfo.value)):
        report.outcome, report.longrepr = "skipped", (str(report.fspath), 0, f"Skipped: {reason}")
    return report


@pytest.fixture(scope="session")
def of_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture
def in_turn(of_all: Path) -> Iterator[None]:
    """One test at a time, of all processes: for those that measure time."""
    with locked(of_all / "turn.lock"):
        yield


@pytest.fixture(scope="session")
def digits() -> list[Source]:
    """The packaged training digits of classes 0 to 7."""
    return find([f"{ASSETS}/digits.npz:train_images:0,1,2,3,4,5,6,7"])


@pytest.fixture(scope="session")
def garments() -> list[Source]:
    return find([f"{ASSETS}/garments.npz:images"])


@pytest.fixture(scope="session")
def small_graph() -> bytes:
    return features_graph()


@pytest.fixture(scope="session")
def made_bundle(small_graph: bytes, digits: list[Source], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle over the small graph; tests that change one copy it first."""
    out = tmp_path_factory.mktemp("bundles") / "digits"
    return make_bundle(
        out,
        model=small_graph,
        preparation=GREY,
        fit=digits[:800],
        calibration=digits[800:1200],
        detector={"kind": "mahalanobis"},
        rule={"rule": "percentile", "q": 99},
        origin=Origin(name="digits", seed=0),
        opset=20,
        threads=2,
    )


@pytest.fixture(scope="session")
def recipes() -> dict[str, Path]:
    return shipped()


@pytest.fixture(scope="session")
def digit_files(digits: list[Source], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty packaged digits as PNG files in a folder for each class; tests only read it."""
    folder = tmp_path_factory.mktemp("digits")
    for row, source in enumerate(digits[1200:1240]):
        (folder / str(source.label)).mkdir(exist_ok=True)
        source.decode().save(folder / str(source.label) / f"{row:02}.png")
    return folder


@pytest.fixture
def own_bundle(made_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the bundle, to be changed."""
    return Path(shutil.copytree(made_bundle.path, tmp_path / "own"))


@pytest.fixture
def seal() -> Callable[..., None]:
    """Writes a bundle's manifest anew after its files were changed, with hashes that match."""
    return sealing.seal


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs `lit-od` with the given words in this process."""

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        status = cli.main([str(word) for word in words])
        outcome = Outcome(status, *capsys.readouterr())
        if package := needs.said_to_be_missing(outcome.err):
            pytest.skip(f"without {package}")
        return outcome

    return run
