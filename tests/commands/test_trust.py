"""A detector outside the package, from its fit to rows of `lit-od score`; and refused where it is not trusted."""

import csv
import io
import re
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_od import Bundle, Scorer
from lit_od.bundle import folder as bundles
from lit_od.commands._launch import command_line
from lit_od.errors import BundleError
from lit_od.fitting.fit import Origin
from lit_od.images.sources import Source
from tests.support.bundles import make_bundle
from tests.support.detectors import MEAN_DISTANCE, MeanDistance
from tests.support.images import ASSETS
from tests.support.pools import Inline

Command = Callable[..., Any]
IMAGES = f"{ASSETS}/garments.npz:images"


@pytest.fixture(scope="module")
def foreign(made_bundle: Bundle, digits: list[Source], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle over the small graph, with a detector that the package does not know."""
    return make_bundle(
        tmp_path_factory.mktemp("foreign") / "digits",
        model=made_bundle.files[bundles.BACKBONE],
        fit=digits[:200],
        calibration=digits[800:1000],
        detector={"kind": MEAN_DISTANCE, "order": 1},
        rule={"rule": "percentile", "q": 99},
        origin=Origin(name="digits"),
        threads=1,
        trust=(MEAN_DISTANCE,),
    )


def test_a_bundle_is_read_and_scores_in_python(foreign: Bundle, garments: list[Source]) -> None:
    assert foreign.manifest.detector.kind == MEAN_DISTANCE
    scorer = Scorer.load(foreign.path, threads=1, trust=(MEAN_DISTANCE,))
    assert type(scorer.detector) is MeanDistance
    image = np.asarray(garments[0].decode())
    outputs = scorer.backbone(image[None, ..., None])
    np.testing.assert_array_equal(scorer.score([image]).score, foreign.detector.score(outputs))


def test_it_is_refused_without_trust(foreign: Bundle) -> None:
    for trust in ((), ("tests.support.detectors",)):
        with pytest.raises(BundleError, match=f"runs code from outside lit_od .* add --trust {MEAN_DISTANCE}$"):
            Scorer.load(foreign.path, trust=trust)


@pytest.mark.parametrize(
    "words",
    [
        ("score", "{}", IMAGES),
        ("classify", "--bundle", "{}", "--bundle", "other={}", IMAGES),
        ("inspect", "{}"),
        ("verify", "{}"),
        ("threshold", "{}"),
        ("bench", "{}", "--runs", 1, "--batch-size", 2),
        ("evaluate", "{}", "--inliers", f"{ASSETS}/digits.npz:train_images:1", "--outliers", f"garments={IMAGES}"),
    ],
    ids=lambda words: words[0],
)
def test_commands_open_it_where_it_is_trusted(words: tuple[object, ...], foreign: Bundle, command: Command) -> None:
    given = [str(word).format(foreign.path) for word in words]
    refused = command(*given)
    assert refused.status == (1 if given[0] == "verify" else 2)
    assert f"add --trust {MEAN_DISTANCE}" in (refused.out if given[0] == "verify" else refused.err)
    came = command(*given, "--trust", MEAN_DISTANCE)
    assert came.status == 0, came.err
    assert f"lit-od: {MEAN_DISTANCE} is imported, which --trust allows\n" in came.err


def test_rows_are_those_of_python(foreign: Bundle, garments: list[Source], command: Command) -> None:
    came = command("score", foreign.path, IMAGES, "--trust", MEAN_DISTANCE, "--threads", 1)
    rows = list(csv.DictReader(io.StringIO(came.out)))
    scorer = Scorer.load(foreign.path, threads=1, trust=[MEAN_DISTANCE])
    wanted = np.concatenate([result.score for result in scorer.stream(garments)])
    np.testing.assert_array_equal([float(row["score"]) for row in rows], wanted)


def test_a_threshold_is_written_into_it(foreign: Bundle, tmp_path: Path, command: Command) -> None:
    copy = tmp_path / "copy"
    bundles.rewrite(
        Bundle(copy, foreign.manifest, foreign.detector, foreign.calibration, foreign.files),
        foreign.manifest,
        foreign.calibration,
    )
    assert command("threshold", copy, "--value", 3, "--trust", MEAN_DISTANCE).status == 0
    assert Bundle.read(copy, trust=[MEAN_DISTANCE]).calibration.threshold == 3


def test_a_refit_says_what_it_imports_for_another_detector(own_bundle: Path, tmp_path: Path, command: Command) -> None:
    words = ("refit", own_bundle, f"{ASSETS}/digits.npz:train_images:1", "--out", tmp_path / "new", "--detector")
    refused = command(*words, "no_such_package:Detector")
    assert refused.status == 2
    assert re.fullmatch(r"lit-od: detector: .* add --trust no_such_package:Detector\n", refused.err)
    refused = command(*words, "no_such_package:Detector", "--trust", "no_such_package:Detector")
    assert "no_such_package:Detector cannot be imported" in refused.err


RECIPE = """\
name: mine
backbone: {graph}
data:
  train: ""
  prepare: {{size: [28, 28], mode: grey}}
detector: {{kind: "tests.support.detectors:MeanDistance", order: 1}}
calibration: {{rule: percentile, q: 90}}
"""


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_recipe_names_it_and_a_refit_keeps_it(
    engine: str,
    small_graph: bytes,
    digit_files: Path,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fitted by the command, refitted by it, here and by the workers of a cluster."""
    (tmp_path / "graph.onnx").write_bytes(small_graph)
    (tmp_path / "mine.yaml").write_text(RECIPE.format(graph=tmp_path / "graph.onnx"))
    words = ["fit", tmp_path / "mine.yaml", f"--data.root={digit_files}", "--out", tmp_path / "mine", "--threads", 1]
    refused = command(*words)
    assert refused.status == 2
    assert refused.err.endswith(f"add --trust {MEAN_DISTANCE}\n")
    assert not (tmp_path / "mine").exists()
    fitted = command(*words, "--trust", MEAN_DISTANCE)
    assert fitted.status == 0, fitted.err
    assert f"{MEAN_DISTANCE} is imported" in fitted.err
    assert fitted.out.endswith(f"Try it: lit-od score {tmp_path / 'mine'} IMAGES... --trust {MEAN_DISTANCE}\n")
    assert f"    lit-od score mine IMAGES... --trust {MEAN_DISTANCE}\n" in (tmp_path / "mine" / "README.md").read_text()
    monkeypatch.setattr("lit_od.commands.refit.open_cluster", lambda args: nullcontext(Inline(2, 1)))
    again = ["refit", tmp_path / "mine", digit_files, "--out", tmp_path / "again", "--engine", engine]
    assert command(*again, "--threads", 1, "--trust", MEAN_DISTANCE).status == 0
    for name in ("mine", "again"):
        detector = Bundle.read(tmp_path / name, trust=[MEAN_DISTANCE]).detector
        assert (type(detector), detector.options()["order"]) == (MeanDistance, 1)


def test_processes_that_a_command_starts_are_told() -> None:
    assert command_line("fit", Namespace(recipe="demo", trust=["a:B", "c:D"]), []) == [
        "fit", "demo", "--trust=a:B", "--trust=c:D",
    ]  # fmt: skip
