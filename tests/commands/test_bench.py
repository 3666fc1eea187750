import json

import pytest

from lit_od.bundle.folder import Bundle
from lit_od.cli import main


def test_bench_measures_everything_it_names(made_bundle: Bundle, capsys: pytest.CaptureFixture[str]):
    assert main(["bench", str(made_bundle.path), "--runs", "1", "--batch-size", "8", "--threads", "1", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["batch_size"] == 8
    assert 0.05 < figures["cold_start_s"] < 60
    assert 30 < figures["cold_start_mb"] < 1000
    assert 0 < figures["latency_p50_ms"] <= figures["latency_p99_ms"]
    assert figures["ratio_to_bare"] == pytest.approx(figures["bare_images_per_s"] / figures["images_per_s"])
    assert figures["decoded_images_per_s"] > 0
