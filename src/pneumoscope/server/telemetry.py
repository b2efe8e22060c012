"""Metrics for operators (Prometheus): counts, times and the drift of the input; nothing about a single film."""

import os
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from pneumoscope import __version__
from pneumoscope.engine import Outputs, Prediction
from pneumoscope.engine.reference import Reference

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"  # the library's own variable; `supervisor` sets it for several workers
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SHARES = tuple(tenth / 10 for tenth in range(1, 11))
# Finest around 1, where the reference's own films end.
_DISTANCES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0)


class Telemetry:
    """The service's metrics. Labels come from small, fixed sets: routes, statuses, codes and the model's classes."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._reference: Reference | None = None
        counter, seconds, shares, gauge = (
            partial(Counter, registry=registry),
            partial(Histogram, registry=registry, buckets=_SECONDS),
            partial(Histogram, registry=registry, buckets=_SHARES),
            partial(Gauge, registry=registry, multiprocess_mode="livesum"),
        )
        self.requests = counter("pneumoscope_requests", "Requests answered.", ["method", "route", "status"])
        self.request_seconds = seconds(
            "pneumoscope_request_seconds", "From the request's head to the response's end.", ["route"]
        )
        self.predictions = counter("pneumoscope_predictions", "Decisions on films.", ["status", "label"])
        self.reasons = counter("pneumoscope_reasons", "Reasons given, by code.", ["code"])
        self.stage_seconds = seconds(
            "pneumoscope_stage_seconds", "Seconds per film in each stage: read, queue, decode, model, draw.", ["stage"]
        )
        self.score = shares(
            "pneumoscope_largest_probability",
            "Largest probability of each film the model saw; shifts if the input changes.",
        )
        self.probability = shares(
            "pneumoscope_probability", "Probability of each class, for each film the model saw.", ["label"]
        )
        self.brightness = shares(
            "pneumoscope_input_brightness",
            "Mean of the model's input, 0 black to 1 white; shifts if the input changes.",
        )
        self.most_probable = counter(
            "pneumoscope_most_probable", "Films the model saw, by their most probable class.", ["label"]
        )
        self.distance = Histogram(
            "pneumoscope_embedding_distance",
            "Distance of each film the model saw from the bundle's reference; 99 % of reference films are within 1.",
            registry=registry,
            buckets=_DISTANCES,
        )
        self.reference_share = gauge(
            "pneumoscope_reference_share",
            "Expected shares of films, by status and by most probable class, from the bundle's reference films.",
            ["quantity", "label"],
            multiprocess_mode="max",
        )
        self.waiting = gauge("pneumoscope_queue_films", "Films waiting or being processed.")
        self.buffered = gauge("pneumoscope_buffered_bytes", "Bytes of request bodies and responses in memory.")
        self.ready = gauge("pneumoscope_ready", "Workers that passed verification.")
        self.information = gauge(
            "pneumoscope_model",
            "Always 1; its labels name the running package and model.",
            ["version", "name", "model_version", "sha256"],
            multiprocess_mode="max",
        )
        if MULTIPROCESS not in os.environ:
            # Metrics of the process itself: the library cannot collect these for several workers.
            ProcessCollector(registry=registry)

    def record_film(self, prediction: Prediction, *, waited: float) -> None:
        """Record a film's decision. `waited` is in seconds."""
        self.predictions.labels(prediction.status, prediction.label or "").inc()
        for code in prediction.reason_codes:
            self.reasons.labels(code).inc()
        self.stage_seconds.labels("queue").observe(waited)
        for stage, milliseconds in prediction.stages.items():
            self.stage_seconds.labels(stage).observe(milliseconds / 1000)
        if prediction.brightness is not None:
            self.brightness.observe(prediction.brightness)
        if prediction.outputs is not None:
            self._record_drift(prediction.classes, prediction.outputs)

    def _record_drift(self, classes: tuple[str, ...], outputs: Outputs) -> None:
        """Record what `evaluate --unlabelled` measures in a folder: for every film the model saw, also if rejected."""
        self.score.observe(float(outputs.probabilities.max()))
        self.most_probable.labels(classes[int(outputs.probabilities.argmax())]).inc()
        for label, value in zip(classes, outputs.probabilities, strict=True):
            self.probability.labels(label).observe(float(value))
        if self._reference is not None:
            self.distance.observe(float(self._reference.distance(outputs.embedding)))

    def record_model(self, model: dict[str, str], reference: Reference | None) -> None:
        """Record which model is running, and the shares that its reference films give reason to expect."""
        self.information.labels(__version__, model["name"], model["version"], model["sha256"]).set(1)
        self._reference = reference
        if reference is not None:
            expected = reference.about.answers
            for quantity in ("rejected", "abstained"):
                self.reference_share.labels(quantity, "").set(getattr(expected, quantity))
            for label, share in expected.class_shares.items():
                self.reference_share.labels("most_probable", label).set(share)
        self.ready.set(1)

    def exposition(self) -> bytes:
        """The metrics of all workers together, in Prometheus' text format."""
        if MULTIPROCESS not in os.environ:
            return generate_latest(self.registry)
        _remove_dead_workers()
        # A worker knows its own counts only; the library's files in that folder have those of all.
        combined = CollectorRegistry()
        MultiProcessCollector(combined)  # type: ignore[no-untyped-call]
        return generate_latest(combined)


def _remove_dead_workers() -> None:
    """Remove the gauges of workers that have ended from the sums."""
    for path in Path(os.environ[MULTIPROCESS]).glob("gauge_live*_*.db"):
        number = int(path.stem.rpartition("_")[2])
        try:
            os.kill(number, 0)  # sends nothing; fails if there is no such process
        except ProcessLookupError:
            mark_process_dead(number)  # type: ignore[no-untyped-call]
