"""Examples of the gallery run; `scripts/docs` runs all of them."""

import runpy

import matplotlib
import pytest

from tests.support.documents import ROOT

EXAMPLES = sorted((ROOT / "docs" / "gallery").glob("*.py"))


@pytest.mark.parametrize("name", ["plot_1_first_scores", "plot_4_rates"])
def test_an_example_runs(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from matplotlib import pyplot

    matplotlib.use("agg")
    monkeypatch.setattr(pyplot, "show", lambda: None)
    try:
        runpy.run_path(str(ROOT / "docs" / "gallery" / f"{name}.py"))
        assert pyplot.get_fignums()
    finally:
        pyplot.close("all")
    assert capsys.readouterr().out


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: each.stem)
def test_an_example_compiles(example) -> None:
    compile(example.read_text(encoding="utf-8"), example.name, "exec")
