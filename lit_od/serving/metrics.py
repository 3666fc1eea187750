"""Metrics of the server in Prometheus' text form."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from lit_od.operations.drift_watch import Drift
from lit_od.serving.log import Log
from lit_od.serving.model_watch import ERROR, Buckets, ModelWatch
from lit_od.serving.models import Answers, Model
from lit_od.versions import __version__

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper ends of the buckets of times."""

KINDS = {
    400: "bad_request",
    401: "token",
    403: "foreign",
    404: "not_found",
    405: "method",
    408: "too_slow",
    413: "too_large",
    415: "content_type",
    500: "failure",
    503: "unavailable",
    504: "not_in_time",
}
"""Kinds of errors by the status of the answer."""

GONE, UNREADABLE = "client_gone", "unreadable_image"
"""Kinds of errors that have no status: the client left before the answer; an image could not be read."""

CONNECTION = "connection"
"""Route of what is answered before a request has come: 503 to one connection too many, 408 to a slow head, 400."""


class Metrics(Collector):
    """Counts of one application; nothing of it is global.

    Attributes:
        held: Gauges by name: words, and a function that tells how much is held at this moment.
    """

    def __init__(self, log: Log | None = None) -> None:
        self.held: dict[str, tuple[str, Callable[[], float]]] = {}
        self._log = log or Log()
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._seconds: dict[str, Buckets] = {}
        self._errors: Counter[str] = Counter(dict.fromkeys([*KINDS.values(), GONE, UNREADABLE], 0))
        self._reloads: Counter[tuple[str, str]] = Counter()
        self._stale: dict[str, bool] = {}
        self._watches: dict[str, ModelWatch] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """Return all of it in Prometheus' text form."""
        return generate_latest(self._registry)

    def answered(self, route: str, status: int | None, seconds: float) -> None:
        """Count a request.

        Args:
            route: Its address, with names in place of what varies.
            status: Status of its answer; None if the client left before it.
            seconds: Time from its head to the end of the answer.
        """
        with self._lock:
            self._requests[route, "none" if status is None else str(status)] += 1
            if status is None or status >= 400:
                self._errors[GONE if status is None else KINDS.get(status, "other")] += 1
            if route not in self._seconds:
                self._seconds[route] = Buckets(SECONDS)
            self._seconds[route].add([seconds])

    def refused(self, status: int) -> None:
        """Count an answer to a connection that brought no request."""
        with self._lock:
            self._requests[CONNECTION, str(int(status))] += 1
            self._errors[KINDS[status]] += 1

    def scored(self, model: Model, answers: Answers) -> None:
        """Take the answers for some images, on the thread that computed them."""
        watch = self._watches.get(model.name)
        if watch is None:
            return
        for drift in watch.take(model, answers):
            self._alarm(model.name, drift)

    def serves(self, model: Model, *, reloaded: bool = False) -> None:
        """Note that a model answers from now on."""
        with self._lock:
            self._stale[model.name] = False
            if model.name in self._watches:
                self._watches[model.name].follow(model)
            else:
                self._watches[model.name] = ModelWatch(model)
            self._reloads[model.name, "done"] += reloaded
            self._reloads[model.name, "refused"] += 0

    def stale(self, name: str, stale: bool, *, refused: bool = False) -> None:
        """Note if a model differs from the bundle on disk.

        Args:
            name: The model's name.
            stale: True if it differs.
            refused: True if the bundle on disk was refused just now.
        """
        with self._lock:
            self._stale[name] = stale
            self._reloads[name, "refused"] += refused

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics but those of the process."""
        watches = dict(self._watches)
        unread = sum(each.verdicts[ERROR] for each in watches.values())
        with self._lock:
            errors = {(kind,): count for kind, count in {**self._errors, UNREADABLE: unread}.items()}
            families = [
                _counter("lit_od_requests", "Requests by address and status.", ("route", "status"), self._requests),
                _histogram("lit_od_request_seconds", "Time to the answer's end.", "route", self._seconds),
                _counter("lit_od_errors", "Requests not answered well, and unreadable images.", ("kind",), errors),
                _counter("lit_od_bundle_reloads", "Replaced bundles.", ("model", "result"), self._reloads),
                _gauge("lit_od_bundle_stale", "1 while the bundle on disk is not the one that answers.", self._stale),
            ]
        yield from families
        for name, (told, value) in self.held.items():
            yield GaugeMetricFamily(name, told, value())
        yield from _of_models(watches)

    def _alarm(self, name: str, drift: Drift) -> None:
        alarm = drift.alarm
        self._log.say(
            "drift",
            f"drift alarm of {name} at image {alarm.row:,}: scores likely changed from image {alarm.start:,} on",
            {"model": name, "image": alarm.row, "from": alarm.start, "evidence_log10": alarm.evidence},
            level="warning",
        )


def _of_models(watches: Mapping[str, ModelWatch]) -> Iterator[Metric]:
    """Yield the metrics of models by name."""
    verdicts = {(name, verdict): count for name, each in watches.items() for verdict, count in each.verdicts.items()}
    yield _counter("lit_od_images", "Images by verdict.", ("model", "verdict"), verdicts)
    yield _histogram("lit_od_score", "Outlier scores.", "model", {name: each.scores for name, each in watches.items()})
    yield _histogram("lit_od_p_value", "P-values.", "model", {name: each.p_values for name, each in watches.items()})
    drifts = {name: each.drift for name, each in watches.items()}
    alarms = {(name,): each.alarms for name, each in drifts.items()}
    yield _counter("lit_od_drift_alarms", "Drift alarms since the detector was loaded.", ("model",), alarms)
    tested = {(name,): each.tested for name, each in drifts.items()}
    yield _counter("lit_od_drift_images", "Images that the drift alarm tested.", ("model",), tested)
    known = {name: each.now for name, each in drifts.items() if each.now is not None}
    told = "Evidence that scores drift, as log10; an alarm at 2, after which it begins anew."
    yield _gauge("lit_od_drift_evidence_log10", told, {name: now.evidence for name, now in known.items()})
    about = GaugeMetricFamily("lit_od_bundle_info", "The bundle that answers.", labels=_ABOUT)
    for name, watch in watches.items():
        manifest = watch.model.bundle.manifest
        about.add_metric([name, manifest.sha256, manifest.detector.kind, __version__], 1)
    yield about
    limits = {name: each.model.bundle.calibration.threshold for name, each in watches.items()}
    yield _gauge("lit_od_threshold", "A score above it is an outlier.", limits)


_ABOUT = ("model", "sha256", "detector", "version")


def _counter(name: str, told: str, labels: Sequence[str], counts: Mapping[Any, int]) -> Metric:
    """Return a counter with a count for each tuple of its labels' values."""
    family = CounterMetricFamily(name, told, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family


def _gauge(name: str, told: str, values: Mapping[str, float]) -> Metric:
    """Return a gauge with a value for each model."""
    family = GaugeMetricFamily(name, told, labels=("model",))
    for model, value in values.items():
        family.add_metric((model,), value)
    return family


def _histogram(name: str, told: str, label: str, found: Mapping[str, Buckets]) -> Metric:
    """Return a histogram with buckets for each value of a label."""
    family = HistogramMetricFamily(name, told, labels=(label,))
    for value, buckets in found.items():
        family.add_metric((value,), buckets.cumulative(), buckets.sum)
    return family
