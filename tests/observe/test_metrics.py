"""relayd.observe.metrics and exposition: what is measured, and that all of it is explained and bounded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parsed

from relayd.mail.address import Address
from relayd.mail.events import Attempted, Committed
from relayd.mail.figures import Figures, Phase
from relayd.mail.recipient import Recipient, Status
from relayd.mail.tls import Dane, Demand, Evidence, Proof, Source, TlsPolicy
from relayd.observe.counters import Counters
from relayd.observe.exposition import Exposition
from relayd.observe.metrics import Metrics
from relayd.observe.readings import QueueReading, Reading, SiteReading

NOW = datetime(2026, 11, 27, tzinfo=UTC)
READING = Reading(
    version="1.2.3",
    healthy=True,
    connections=3,
    connections_max=100,
    in_core=7,
    in_core_max=20_000,
    look_ups=1,
    sites=(SiteReading(site="mx:25", connections=3, window=5, back_off=0.0),),
    sites_known=1,
    sites_backing_off=0,
    queue=QueueReading(counts={"queued": (1, 2)}, ages=("5", "older"), age=1.5),
    oldest_due=12.5,
    stuck=0.0,
    since_round=0.2,
    degraded=("queue",),
    workers=1,
    workers_wanted=2,
    lines_dropped=4,
    free_octets=2**40,
)


class Fixed:
    """An `Instruments` that reads always the same."""

    def __init__(self, reading: Reading = READING) -> None:
        self._reading = reading

    def read(self) -> Reading:
        return self._reading


def attempted(status: Status, dsn: str, age: float = 1.0) -> Attempted:
    recipient = Recipient(number=0, address=Address.parse("ann@example.org"), status=status, dsn=dsn)
    return Attempted(id="01", recipient=recipient, tls=None, seconds=0.1, age=age)


def samples(metrics: Metrics, reading: Reading = READING) -> dict[str, float]:
    """Return every sample by its name and labels, as a line of the text has them."""
    text, _ = Exposition(Counters(), metrics, Fixed(reading)).text("")
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_outcomes_are_counted_by_class_and_subject() -> None:
    metrics = Metrics()
    for event in (
        attempted(Status.DELIVERED, "2.1.5"),
        attempted(Status.DELIVERED, "2.1.0"),
        attempted(Status.DEFERRED, "4.2.1"),
        attempted(Status.FAILED, "4.4.7"),
        attempted(Status.FAILED, "5.9.99"),
        attempted(Status.FAILED, ""),
    ):
        metrics(event)

    found = {name: value for name, value in samples(metrics).items() if name.startswith("relayd_outcomes_total")}
    assert found == {
        'relayd_outcomes_total{class="2",outcome="delivered",subject="1"}': 2,
        'relayd_outcomes_total{class="4",outcome="deferred",subject="2"}': 1,
        'relayd_outcomes_total{class="4",outcome="failed",subject="4"}': 1,
        'relayd_outcomes_total{class="5",outcome="failed",subject="other"}': 1,
        'relayd_outcomes_total{class="other",outcome="failed",subject="other"}': 1,
    }


def test_the_age_of_what_was_delivered_is_a_histogram_that_counts_upwards() -> None:
    metrics = Metrics()
    for age in (0.1, 0.2, 70.0, 10**9):
        metrics(attempted(Status.DELIVERED, "2.0.0", age))
    metrics(attempted(Status.DEFERRED, "4.0.0", 5.0))

    found = samples(metrics)
    assert found['relayd_delivery_age_seconds_bucket{le="0.1"}'] == 1
    assert found['relayd_delivery_age_seconds_bucket{le="0.25"}'] == 2
    assert found['relayd_delivery_age_seconds_bucket{le="300.0"}'] == 3
    assert found['relayd_delivery_age_seconds_bucket{le="+Inf"}'] == found["relayd_delivery_age_seconds_count"] == 4
    assert found["relayd_delivery_age_seconds_sum"] == pytest.approx(10**9 + 70.3)


def test_group_commits_are_measured_in_size_and_time() -> None:
    metrics = Metrics()
    metrics(Committed(jobs=7, seconds=0.02))

    found = samples(metrics)
    assert (found["relayd_commit_jobs_sum"], found["relayd_commit_seconds_sum"]) == (7, 0.02)
    assert (found['relayd_commit_jobs_bucket{le="5.0"}'], found['relayd_commit_jobs_bucket{le="10.0"}']) == (0, 1)


def test_what_runs_measured_adds_up() -> None:
    metrics = Metrics()
    for seconds in (0.002, 3.0):
        figures = Figures()
        figures.waited(Phase.FINAL, seconds)
        figures.connected(Demand(), None)
        metrics.measured(figures)

    found = samples(metrics)
    assert found['relayd_smtp_wait_seconds_count{phase="final"}'] == 2
    assert found['relayd_smtp_wait_seconds_sum{phase="final"}'] == pytest.approx(3.002)
    assert found['relayd_smtp_wait_seconds_count{phase="auth"}'] == 0
    assert found['relayd_smtp_connections_total{policy="opportunistic",proof="none",version="none"}'] == 2


@pytest.mark.parametrize(
    ("demand", "policy"),
    [
        (Demand(level=TlsPolicy.VERIFY), "verify"),
        (Demand(level=TlsPolicy.REQUIRE, dane=Dane(records=(), names=())), "dane"),
        (Demand(level=TlsPolicy.VERIFY, source=Source.MTA_STS), "mta-sts"),
        (Demand(trial=True), "mta-sts"),
        (Demand(level=TlsPolicy.VERIFY, source=Source.MESSAGE), "message"),
    ],
    ids=["configured", "dane", "mta-sts", "trial", "message"],
)
def test_a_connection_counts_under_whose_policy_it_met(demand: Demand, policy: str) -> None:
    figures = Figures()

    figures.connected(demand, Evidence(version="1.3", cipher="X", proof=Proof.PKIX))

    assert figures.connections == {("1.3", "verified", policy): 1}


def test_questions_to_the_dns_and_the_lag_of_the_loop_are_measured() -> None:
    metrics = Metrics()
    metrics.asked("MX", "found", 0.03)
    for lag in (0.0, 0.7, 0.1):
        metrics.lagged(lag)

    found = samples(metrics)
    assert found['relayd_dns_queries_total{kind="MX",result="found"}'] == 1
    assert found["relayd_dns_query_seconds_sum"] == 0.03
    assert found["relayd_event_loop_lag_seconds_count"] == 3
    assert found["relayd_event_loop_lag_max_seconds"] == 0.7


def test_the_worst_lag_is_forgotten_in_time() -> None:
    metrics = Metrics()
    metrics.lagged(9.0)
    for _ in range(60):
        metrics.lagged(0.0)

    assert metrics.lag_max == 0.0


def test_what_is_read_is_shown() -> None:
    found = samples(Metrics())

    assert found['relayd_build_info{version="1.2.3"}'] == found["relayd_healthy"] == 1
    assert found['relayd_queue_recipients{age="older",status="queued"}'] == 2
    assert found["relayd_queue_census_age_seconds"] == 1.5
    assert found['relayd_site_window{site="mx:25"}'] == 5
    assert found['relayd_part_degraded{part="queue"}'] == 1
    assert found["relayd_log_lines_dropped_total"] == 4
    assert found["relayd_oldest_due_seconds"] == 12.5


def test_what_is_not_known_is_left_out() -> None:
    found = samples(Metrics(), replace(READING, queue=None, free_octets=None))

    assert not [name for name in found if "queue_" in name or "spool_free" in name]


def test_every_metric_has_a_help_that_is_a_sentence_and_a_name_that_ends_with_its_unit() -> None:
    text, content_type = Exposition(Counters(), Metrics(), Fixed()).text("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")

    found = cast(Iterable[Metric], openmetrics.text_string_to_metric_families(text.decode()))  # type: ignore[no-untyped-call]
    families = [family for family in found if family.name.startswith("relayd_")]

    assert len(families) > 40
    for family in families:
        assert re.fullmatch(r"[A-Z1].*\.|Failures .*: messages from <>\.", family.documentation), family
        assert not family.unit or family.name.endswith(f"_{family.unit}")
        assert bool(family.unit) == family.name.endswith(("_seconds", "_bytes")), family
        assert not re.search(r"_(ms|minutes|millis)$", family.name)


def test_the_plain_format_is_what_is_given_to_whoever_asks_for_nothing() -> None:
    text, content_type = Exposition(Counters(), Metrics(), Fixed()).text("")

    assert content_type.startswith("text/plain; version=0.0.4")
    names = {family.name for family in parsed(text.decode())}
    assert {"relayd_delivered", "process_resident_memory_bytes"} <= names
    assert not [name for name in names if not name.startswith(("relayd_", "process_"))]


def test_nothing_is_kept_by_the_library_for_the_whole_process() -> None:
    from prometheus_client import REGISTRY

    Exposition(Counters(), Metrics(), Fixed()).text("")

    assert not [family.name for family in REGISTRY.collect() if family.name.startswith("relayd_")]
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ


def test_a_hostile_name_of_a_site_is_one_label() -> None:
    site = SiteReading(site='a"} 1\nrelayd_healthy 0\n\\', connections=1, window=1, back_off=0.0)
    text, _ = Exposition(Counters(), Metrics(), Fixed(replace(READING, sites=(site,)))).text("")

    (healthy,) = [family for family in parsed(text.decode()) if family.name == "relayd_healthy"]
    assert [sample.value for sample in healthy.samples] == [1.0]
