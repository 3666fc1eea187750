import subprocess
import sys
from dataclasses import fields

import pytest

from lit_od.detectors.registry import DETECTORS, accumulator, detector_from_state
from lit_od.errors import ConfigError


def modules_after(statement):
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_the_detectors_imports_nothing_heavy():
    assert not modules_after("import lit_od.detectors") & {"faiss", "sklearn", "scipy", "torch", "tqdm"}


def test_the_probe_sees_what_is_imported():
    assert "faiss" in modules_after("import faiss")


def test_kinds_are_the_keys():
    assert all(detector.kind == kind for kind, detector in DETECTORS.items())


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'mahalanobi': did you mean 'mahalanobis'[?] Known: "):
        accumulator("mahalanobi", {})
    with pytest.raises(ConfigError, match="unknown detector 'x': Known: "):
        detector_from_state("x", {}, {})
    message = r"mahalanobis has no option 'shrinkag': did you mean 'shrinkage'[?] Known: class_conditional, "
    with pytest.raises(ConfigError, match=message):
        accumulator("mahalanobis", {"shrinkag": 0.1})


@pytest.mark.parametrize("kind", DETECTORS)
@pytest.mark.parametrize("value", [[1], (1,), 1j, b"1", {"a": []}], ids=str)
def test_every_option_refuses_every_wrong_type(kind, value):
    for option in fields(DETECTORS[kind].options_type):
        with pytest.raises(ConfigError, match=option.name):
            accumulator(kind, {option.name: value})
