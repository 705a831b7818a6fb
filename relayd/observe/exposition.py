"""Metrics as Prometheus reads them: the one file that imports prometheus_client.

A registry of our own, nothing of it global.  Names, labels and units are an interface (docs/operations.md).  Every
label has few values: of sites, those with most to do, and all others together as `other`.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from relayd.mail.figures import WAITS, Figures, Histogram, Phase
from relayd.observe.counters import Counters
from relayd.observe.metrics import Metrics
from relayd.observe.readings import Instruments, Reading

PREFIX = "relayd_"


class Exposition:
    """See the module."""

    def __init__(self, counters: Counters, metrics: Metrics, instruments: Instruments) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Ours(counters, metrics, instruments))
        ProcessCollector(registry=self._registry)

    def text(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics, and their content type, in the format that an Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _Ours(Collector):
    def __init__(self, counters: Counters, metrics: Metrics, instruments: Instruments) -> None:
        self._counters = counters
        self._metrics = metrics
        self._instruments = instruments

    def collect(self) -> Iterator[Metric]:
        """Yield all that relayd knows."""
        reading = self._instruments.read()
        for name, help_text, figure in self._counters.described():
            yield _counter(name, help_text, figure)
        yield _counter(
            "log_lines_dropped_total",
            "Lines of the log that were lost, because nobody read them.",
            reading.lines_dropped,
        )
        yield from _of_events(self._metrics)
        yield from _of_figures(self._metrics.figures)
        yield from _of_queue(reading)
        yield from _of_sites(reading)
        yield from _of_daemon(reading, self._metrics.lag_max)


def _of_events(metrics: Metrics) -> Iterator[Metric]:
    outcomes = CounterMetricFamily(
        f"{PREFIX}outcomes",
        "Attempts settled, each recipient counted, by what came of it and by class and subject of the enhanced status "
        "(RFC 3463).",
        labels=("outcome", "class", "subject"),
    )
    for labels, count in sorted(metrics.outcomes.items()):
        outcomes.add_metric(labels, count)
    yield outcomes
    yield _histogram(
        "delivery_age_seconds",
        "From taking a message in to its delivery, each recipient counted.",
        metrics.delivery_age,
    )
    yield _histogram("commit_jobs", "Jobs in one group commit of the queue.", metrics.commit_jobs)
    yield _histogram(
        "commit_seconds", "Time of one group commit of the queue, syncing included.", metrics.commit_seconds
    )
    queries = CounterMetricFamily(
        f"{PREFIX}dns_queries",
        "Questions to the DNS that no earlier answer served, by kind of record and result.",
        labels=("kind", "result"),
    )
    for kind_result, count in sorted(metrics.queries.items()):
        queries.add_metric(kind_result, count)
    yield queries
    yield _histogram("dns_query_seconds", "Time to the answer of the DNS, retries included.", metrics.query_seconds)
    yield _histogram(
        "event_loop_lag_seconds", "How late the daemon's event loop came, looked at once a second.", metrics.lag
    )


def _of_figures(figures: Figures) -> Iterator[Metric]:
    waits = HistogramMetricFamily(
        f"{PREFIX}smtp_wait_seconds",
        "Time that a connection waited for its server, by what it waited for; what servers answer together counts as "
        "the first of it.",
        labels=("phase",),
        unit="seconds",
    )
    for phase in Phase:
        _add(waits, (phase.value,), figures.waits.get(phase) or Histogram(WAITS))
    yield waits
    connections = CounterMetricFamily(
        f"{PREFIX}smtp_connections",
        "Connections that came as far as MAIL, by version of TLS, what the server proved, and whose policy that met.",
        labels=("version", "proof", "policy"),
    )
    for security, count in sorted(figures.connections.items()):
        connections.add_metric(security, count)
    yield connections


def _of_queue(reading: Reading) -> Iterator[Metric]:
    yield _gauge(
        "oldest_due_seconds",
        "For how long the recipient that is due longest, and not held, has waited without an attempt, whatever for.",
        reading.oldest_due,
    )
    yield _gauge(
        "stuck_seconds",
        "For how long mail has been seen due that waits for nothing that is known; 0 if there is none.",
        reading.stuck,
    )
    if (queue := reading.queue) is None:
        return
    family = GaugeMetricFamily(
        f"{PREFIX}queue_recipients",
        "Recipients that wait, by how, and by age: up to so many minutes, and more than the one before.",
        labels=("status", "age"),
    )
    for status, counts in queue.counts.items():
        for age, count in zip(queue.ages, counts, strict=True):
            family.add_metric((status, age), count)
    yield family
    yield _gauge(
        "queue_census_age_seconds", "How old relayd_queue_recipients is: a long queue is counted seldom.", queue.age
    )


def _of_sites(reading: Reading) -> Iterator[Metric]:
    families = (
        GaugeMetricFamily(f"{PREFIX}site_connections", "Connections that a site has.", labels=("site",)),
        GaugeMetricFamily(f"{PREFIX}site_window", "Connections that a site may have.", labels=("site",)),
        GaugeMetricFamily(
            f"{PREFIX}site_back_off_seconds",
            "Time until a site is tried again that could not be used; 0 if it does not back off.",
            labels=("site",),
            unit="seconds",
        ),
    )
    for each in reading.sites:
        for family, value in zip(families, (each.connections, each.window, each.back_off), strict=True):
            family.add_metric((each.site,), value)
    yield from families
    yield _gauge("sites", "Sites that have due mail, a connection or a back-off.", reading.sites_known)
    yield _gauge(
        "sites_backing_off", "Sites that could not be used and are left alone for now.", reading.sites_backing_off
    )


def _of_daemon(reading: Reading, lag_max: float) -> Iterator[Metric]:
    build = GaugeMetricFamily(f"{PREFIX}build_info", "1, with the version of relayd.", labels=("version",))
    build.add_metric((reading.version,), 1)
    yield build
    yield _gauge("healthy", "Whether mail flows, as /healthz says: 1 or 0.", reading.healthy)
    degraded = GaugeMetricFamily(
        f"{PREFIX}part_degraded", "1 for each part that cannot do its work now.", labels=("part",)
    )
    for part in reading.degraded:
        degraded.add_metric((part,), 1)
    yield degraded
    yield _gauge("connections", "Relayers that run.", reading.connections)
    yield _gauge("connections_max", "Relayers that may run: relay.max_connections.", reading.connections_max)
    yield _gauge("deliveries_in_core", "Deliveries in hand of all relayers.", reading.in_core)
    yield _gauge("deliveries_in_core_max", "Deliveries that may be in hand: relay.active_limit.", reading.in_core_max)
    yield _gauge("look_ups", "Destinations that are being looked up.", reading.look_ups)
    yield _gauge("workers", "Relayer processes that run.", reading.workers)
    yield _gauge("workers_wanted", "Relayer processes that there should be: relay.processes.", reading.workers_wanted)
    yield _gauge("check_state_age_seconds", "Time since the last round of check_state ended.", reading.since_round)
    yield _gauge(
        "event_loop_lag_max_seconds", "The worst of relayd_event_loop_lag_seconds in the last minute.", lag_max
    )
    if reading.free_octets is not None:
        yield _gauge("spool_free_bytes", "Room on the spool's file system for its user.", reading.free_octets)


def _unit(name: str) -> str:
    unit = name.removesuffix("_total").rpartition("_")[2]
    return unit if unit in ("seconds", "bytes") else ""


def _counter(name: str, help_text: str, figure: float) -> Metric:
    return CounterMetricFamily(f"{PREFIX}{name.removesuffix('_total')}", help_text, value=figure)


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}{name}", help_text, value=float(value), unit=_unit(name))


def _histogram(name: str, help_text: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(f"{PREFIX}{name}", help_text, labels=(), unit=_unit(name))
    _add(family, (), histogram)
    return family


def _add(family: HistogramMetricFamily, labels: tuple[str, ...], histogram: Histogram) -> None:
    """Add a histogram; Prometheus counts in each bucket all that is less, too."""
    buckets, below = [], 0
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        below += count
        buckets.append((bound, float(below)))
    family.add_metric(labels, buckets, histogram.total)
