"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tokmarg.engine.prompt_cache import CacheStats
from tokmarg.errors import ContentError
from tokmarg.openai_format import flagged_labels
from tokmarg.results import MethodResult, Result

from .hosting import GuardHost, HostedGuard
from .stats import GuardStats

__all__ = ["CONTENT_TYPE", "Measurements"]

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_COVERAGE = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1)


class Measurements:
    """Counts requests and rows; asks the guards for the rest when it is asked itself.

    Args:
        host: the guards.
    """

    def __init__(self, host: GuardHost) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("tokmarg_requests", "Requests answered.", ("path", "status"), registry=registry)
        self._seconds = Histogram(
            "tokmarg_request_seconds", "From the request to its answer.", ("path",), buckets=_SECONDS, registry=registry
        )
        self._rows = Counter(
            "tokmarg_rows", "Contents by what became of them.", ("model", "outcome"), registry=registry
        )
        self._flagged = Counter(
            "tokmarg_flagged",
            'Contents flagged: all of them (label ""), and by label.',
            ("model", "label"),
            registry=registry,
        )
        self._coverage = Histogram(
            "tokmarg_coverage", "Coverage of the verdict grammar.", ("model",), buckets=_COVERAGE, registry=registry
        )
        registry.register(_Guards(host))

    def request(self, path: str, status: int, seconds: float) -> None:
        """Counts a request; the status 499 is a client that went before the answer."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def row(self, hosted: HostedGuard, outcome: Result | MethodResult | ContentError) -> None:
        """Counts a content."""
        if isinstance(outcome, ContentError):
            self._rows.labels(hosted.name, outcome.type).inc()
            return
        self._rows.labels(hosted.name, "scored").inc()
        if outcome.flagged:
            for label in ("", *flagged_labels(outcome, hosted.thresholds)):
                self._flagged.labels(hosted.name, label).inc()
        if isinstance(outcome, Result) and outcome.coverage is not None:
            self._coverage.labels(hosted.name).observe(outcome.coverage)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)


class _Guards(Collector):
    """What the guards count themselves."""

    def __init__(self, host: GuardHost) -> None:
        self._host = host

    def collect(self) -> Iterable[Metric]:
        stats = {hosted.name: hosted.guard.stats() for hosted in self._host}
        yield from _family(GaugeMetricFamily, "tokmarg_waiting", "Contents in the waiting line.", stats, "waiting")
        yield from _family(GaugeMetricFamily, "tokmarg_waiting_tokens", "Tokens that wait.", stats, "waiting_tokens")
        yield from _family(GaugeMetricFamily, "tokmarg_in_flight", "Contents whose passes run.", stats, "in_flight")
        yield from _family(CounterMetricFamily, "tokmarg_refused", "Refused: the line was full.", stats, "refused")
        yield from _family(CounterMetricFamily, "tokmarg_cancelled", "Given up by callers.", stats, "cancelled")
        yield from _family(CounterMetricFamily, "tokmarg_passes", "Forward passes.", stats, "passes")
        yield from _family(CounterMetricFamily, "tokmarg_tokens", "Tokens that passes carried.", stats, "tokens")
        caches = {name: of_guard.cache for name, of_guard in stats.items()}
        yield from _family(GaugeMetricFamily, "tokmarg_cache_bytes", "Bytes in the prompt cache.", caches, "bytes")
        yield from _family(CounterMetricFamily, "tokmarg_cache_hits", "Prompts known in part.", caches, "hits")
        yield from _family(CounterMetricFamily, "tokmarg_cache_misses", "Prompts not known.", caches, "misses")
        yield from _family(CounterMetricFamily, "tokmarg_cache_hit_tokens", "Tokens known.", caches, "hit_tokens")


def _family(
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    text: str,
    stats: Mapping[str, GuardStats] | Mapping[str, CacheStats],
    field: str,
) -> Iterator[Metric]:
    family = kind(name, text, labels=["model"])
    for model, of_model in stats.items():
        family.add_metric([model], getattr(of_model, field))
    yield family
