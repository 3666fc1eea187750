"""Runners score image files of any size as lit-od does, to the last bit of their preparation."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_od import Scorer
from tests.support.runtimes import run_runner

SCENE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (19, 13, 3), dtype=np.uint8))
TALL, WIDE = SCENE.resize((47, 131)), SCENE.resize((130, 46))
NOT_FOR = {"c": {"deep.png"}, "node": {"plain.ppm", "plain.pgm"}, "python": set()}
"""Files that a runner's decoders do not take."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("files")
    faded = TALL.convert("RGBA")
    faded.putalpha(Image.linear_gradient("L").resize(TALL.size))
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = Image.fromarray((np.asarray(TALL.convert("L")).astype(np.uint16) * 255) + 77)
    TALL.save(folder / "tall.png")
    WIDE.save(folder / "wide.jpg", quality=90)
    WIDE.save(folder / "progressive.jpg", progressive=True)
    TALL.convert("L").save(folder / "grey.jpg")
    TALL.save(folder / "turned.jpg", exif=turned)
    TALL.save(folder / "turned.png", exif=turned)
    faded.save(folder / "faded.png")
    faded.convert("LA").save(folder / "faded-grey.png")
    TALL.quantize(40).save(folder / "palette.png")
    TALL.convert("1").save(folder / "bits.png")
    SCENE.resize((27, 25)).save(folder / "small.png")
    deep.save(folder / "deep.png")
    TALL.save(folder / "plain.ppm")
    WIDE.convert("L").save(folder / "plain.pgm")
    return sorted(folder.iterdir())


@pytest.mark.parametrize(("words", "name"), [(each, each) for each in NOT_FOR], indirect=["words"], ids=NOT_FOR)
def test_scores_are_those_of_lit_od(words: list[str], name: str, prepared: Path, files: list[Path]) -> None:
    taken = [file for file in files if file.name not in NOT_FOR[name]]
    wanted = Scorer.load(prepared / "model.onnx", threads=1).score(taken)
    assert wanted.error == [None] * len(taken)
    done = run_runner(words, prepared / "model.onnx", *taken)
    assert (done.returncode, done.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["path"] for row in rows] == [str(file) for file in taken]
    assert len({row["score"] for row in rows}) > len(rows) // 2
    np.testing.assert_allclose([float(row["score"]) for row in rows], wanted.score, rtol=1e-6)
    np.testing.assert_allclose([float(row["p_value"]) for row in rows], wanted.p_value, rtol=1e-12)
    assert [row["is_outlier"] == "true" for row in rows] == wanted.is_outlier.tolist()
