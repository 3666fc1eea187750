"""Metrics, as Prometheus' own parser reads them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from lit_od.bundle.folder import Bundle
from lit_od.serving.metrics import Metrics
from lit_od.serving.model_watch import BEYOND, P_VALUES, Buckets, ModelWatch, score_ends
from lit_od.serving.models import Answers, Model
from tests.support.images import ASSETS
from tests.support.site import Site, binary, running


@pytest.fixture
def fresh(model: Model) -> Iterator[Site]:
    """A server that nobody has asked yet."""
    with running([model]) as site:
        yield site


def values(site: Site) -> dict[tuple[str, ...], float]:
    """Samples by name and values of their labels."""
    answer = site.ask("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = list(text_string_to_metric_families(answer.body.decode()))
    assert all(family.documentation and family.type != "unknown" for family in families)
    return {
        (sample.name, *(label for _, label in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_requests_images_and_errors_are_counted(
    fresh: Site, pictures: list[bytes], expected: np.ndarray, made_bundle: Bundle
) -> None:
    (most,) = np.flatnonzero(expected == expected.max())
    assert expected[most] > made_bundle.calibration.threshold > expected[:2].max()
    assert fresh.ask("/score", pictures[0]).status == 200
    body, headers = binary([pictures[most], b"broken", pictures[1]])
    assert fresh.ask("/v2/models/digits/versions/1/infer", body, headers=headers).status == 200
    assert fresh.ask("/score", b"").status == 400
    assert fresh.ask("/score").status == 405
    assert fresh.ask("/nowhere").status == fresh.ask("/elsewhere").status == 404
    assert fresh.ask("/score", b"x", headers={"host": "evil.example"}).status == 403
    found = values(fresh)
    assert found["lit_od_requests_total", "/score", "200"] == 1
    assert found["lit_od_requests_total", "/v2/models/{name}/infer", "200"] == 1
    assert found["lit_od_requests_total", "/score", "400"] == 1
    assert found["lit_od_requests_total", "other", "404"] == 2
    assert (
        found["lit_od_request_seconds_count", "/score"] == found["lit_od_request_seconds_bucket", "+Inf", "/score"] == 3
    )
    assert found["lit_od_request_seconds_sum", "/score"] > 0
    assert found["lit_od_images_total", "digits", "outlier"] == 1
    assert found["lit_od_images_total", "digits", "inlier"] == 2
    assert found["lit_od_images_total", "digits", "error"] == found["lit_od_errors_total", "unreadable_image"] == 1
    kinds = {name: found["lit_od_errors_total", name] for name in ("bad_request", "method", "not_found", "foreign")}
    assert kinds == {"bad_request": 1, "method": 1, "not_found": 2, "foreign": 1}
    assert found["lit_od_held_bytes",] == found["lit_od_decoding_bytes",] == found["lit_od_waiting_requests",] == 0
    assert found["process_resident_memory_bytes",] > 2**20
    assert found["lit_od_score_sum", "digits"] == pytest.approx(expected[[0, most, 1]].sum())
    assert found["lit_od_p_value_count", "digits"] == 3
    assert found["lit_od_drift_images_total", "digits"] == 3
    assert found["lit_od_drift_alarms_total", "digits"] == 0
    assert np.isfinite(found["lit_od_drift_evidence_log10", "digits"])


def test_connections_without_a_request_are_counted(fresh: Site) -> None:
    assert fresh.raw(b"no request\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    found = values(fresh)
    assert found["lit_od_requests_total", "connection", "400"] == found["lit_od_errors_total", "bad_request"] == 1


def test_up_to_the_threshold_are_the_inliers(fresh: Site, pictures: list[bytes], made_bundle: Bundle) -> None:
    body, headers = binary(pictures)
    assert fresh.ask("/v2/models/digits/infer", body, headers=headers).status == 200
    found, threshold = values(fresh), made_bundle.calibration.threshold
    inside = [
        value
        for (name, *labels), value in found.items()
        if name == "lit_od_score_bucket" and labels[0] == repr(threshold)
    ]
    assert inside == [found["lit_od_images_total", "digits", "inlier"]]
    assert 0 < inside[0] < len(pictures)
    assert found["lit_od_threshold", "digits"] == threshold
    assert found["lit_od_bundle_info", "mahalanobis", "digits", made_bundle.manifest.sha256, "0.1.0"] == 1


def test_nothing_of_it_is_global(fresh: Site) -> None:
    assert values(fresh)
    assert not [each for each in REGISTRY.collect() if each.name.startswith("lit_od")]
    assert b"digits" not in Metrics().text()


def test_buckets_count_as_numpy_does() -> None:
    rng = np.random.default_rng(0)
    ends, parts = np.sort(rng.normal(size=7)), [rng.normal(size=size) for size in (50, 0, 30)]
    parts.append(ends.copy())  # a value that equals an end counts as below it
    buckets = Buckets(ends)
    for part in parts:
        buckets.add(part)
    whole = np.concatenate(parts)
    cumulative = buckets.cumulative()
    assert [count for _, count in cumulative] == [*((whole <= end).sum() for end in ends), whole.size]
    assert [float(end) for end, _ in cumulative] == [*ends, np.inf]
    assert buckets.sum == pytest.approx(whole.sum())


def test_ends_hold_the_threshold_and_ascend(made_bundle: Bundle) -> None:
    ends = score_ends(made_bundle.calibration)
    assert made_bundle.calibration.threshold in ends
    assert (np.diff(ends) > 0).all()
    assert (np.diff(P_VALUES) > 0).all()
    assert (np.asarray(ends) > made_bundle.calibration.threshold).sum() >= len(BEYOND)


def answers(scores: np.ndarray, bundle: Bundle) -> Answers:
    p_values, outliers = bundle.calibration.p_values(scores), bundle.calibration.is_outlier(scores)
    return {"score": scores, "p_value": p_values, "is_outlier": outliers, "error": [""] * len(scores)}


def test_drift_raises_an_alarm_which_is_logged(
    model: Model, made_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, metrics = np.random.default_rng(0), Metrics()
    metrics.serves(model)
    normal = made_bundle.calibration.as_scored()
    metrics.scored(model, answers(rng.choice(normal, 100), made_bundle))
    assert capsys.readouterr().err == ""
    metrics.scored(model, answers(np.full(100, normal.max() * 3), made_bundle))
    assert "lit-od: drift alarm of digits at image " in capsys.readouterr().err
    assert b'lit_od_drift_alarms_total{model="digits"} 1.0' in metrics.text()


def test_a_model_that_was_replaced_counts_verdicts_alone(model: Model, made_bundle: Bundle) -> None:
    watch = ModelWatch(model)
    other = Model.load("digits", made_bundle, threads=1)
    watch.follow(other)  # the same detector: its histograms and its alarm go on
    scores = made_bundle.calibration.as_scored()[:5]
    watch.take(model, answers(scores, made_bundle))
    assert (sum(watch.verdicts.values()), watch.drift.rows) == (5, 0)
    watch.take(other, answers(scores, made_bundle))
    assert (sum(watch.verdicts.values()), watch.drift.rows, watch.scores.cumulative()[-1][1]) == (10, 5, 5)


def test_another_threshold_begins_new_buckets_and_another_detector_a_new_alarm(
    model: Model, own_bundle: Path, command: Callable[..., Any]
) -> None:
    watch = ModelWatch(model)
    watch.take(model, answers(model.bundle.calibration.as_scored()[:5], model.bundle))
    assert command("threshold", own_bundle, "--value", "7.25").status == 0
    moved = Model.load("digits", Bundle.read(own_bundle), threads=1)
    watch.follow(moved)
    assert 7.25 in watch.scores.ends
    assert (watch.scores.cumulative()[-1][1], watch.drift.rows) == (0, 5)
    words = ("--out", own_bundle, "--calibration.rule", "percentile", "--calibration.q", "99")
    refitted = command("refit", own_bundle, f"{ASSETS}/digits.npz:train_images:1", *words)
    assert refitted.status == 0, refitted.err
    watch.follow(Model.load("digits", Bundle.read(own_bundle), threads=1))
    assert (watch.drift.rows, sum(watch.verdicts.values())) == (0, 5)
