"""monitoring/: the dashboard and the alert rules name what a scrape of the running daemon has, and nothing else; and
docs/operations.md explains each metric."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.process import ROOT, wait_until
from tests.support.world import World
from tests.wire.test_http import Page

DASHBOARD = ROOT / "monitoring" / "relayd-dashboard.json"
ALERTS = ROOT / "monitoring" / "relayd-alerts.yml"
PROMETHEUS = {"instance", "job"}  # labels that Prometheus itself puts to each sample
NAME = re.compile(r"\b((?:relayd|process)_\w+)\b")
SELECTOR = re.compile(r"\b((?:relayd|process)_\w+)\s*\{([^}]*)\}")
GROUPED = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")

Labels = dict[str, set[str]]


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Labels]:
    """Return a scrape, and of each sample's name its labels, after mail was delivered, deferred and bounced."""
    with World(tmp_path_factory.mktemp("scraped")) as world:
        mx, dead = world.exchanger("mx.example.test"), world.exchanger("mx.dead.test", alive=False)
        world.domain("example.test", mx)
        world.domain("dead.test", dead)
        mx.on_rcpt = lambda envelope, address: "550 5.1.1 who?" if address.startswith("eve") else "250 ok"
        page = Page(world)
        with world.relaying() as daemon:
            world.send("bob@example.test", "eve@example.test")
            world.send("carl@dead.test")
            daemon.logged("event=site-backs-off")
            daemon.logged("r=bob@example.test status=delivered")
            broken = world.config_path.read_text()
            world.config_path.write_text(broken + "\n[nonsense]\n")
            daemon.reload()
            daemon.logged("event=not-reloaded")
            wait_until(lambda: page.samples().get("relayd_smtp_wait_seconds_count phase=final"), "the end of a run")
            _, text = page.get("/metrics")
    labels: Labels = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return text, labels


def dashboard_expressions() -> Iterator[str]:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))


def alert_expressions() -> Iterator[str]:
    yield from re.findall(r"^ +expr: (.+)$", ALERTS.read_text(), re.MULTILINE)


def unknown(expression: str, labels: Labels) -> set[str]:
    """Return what an expression names that no scrape has."""
    text = re.sub(r"\[[^\]]*\]", "", expression)
    names = set(NAME.findall(text))
    wrong = {name for name in names if name not in labels}
    known = set().union(*(labels.get(name, set()) for name in names)) | PROMETHEUS
    for name, matchers in SELECTOR.findall(text):
        used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        wrong |= {f"{name}{{{label}}}" for label in used - labels.get(name, set()) - PROMETHEUS}
    for group in GROUPED.findall(text):
        wrong |= {label for label in re.findall(r"\w+", group) if label not in known}
    return wrong


@pytest.mark.parametrize("expressions", [dashboard_expressions, alert_expressions])
def test_only_metrics_and_labels_that_a_scrape_has_are_named(expressions: Any, scraped: tuple[str, Labels]) -> None:
    named = list(expressions())

    assert len(named) >= 15
    assert {expression: wrong for expression in named if (wrong := unknown(expression, scraped[1]))} == {}


def test_what_no_scrape_has_would_be_found(scraped: tuple[str, Labels]) -> None:
    labels = scraped[1]

    assert unknown("rate(relayd_sent_total[5m])", labels) == {"relayd_sent_total"}
    assert unknown('relayd_outcomes_total{code="5"}', labels) == {"relayd_outcomes_total{code}"}
    assert unknown("sum by (host) (relayd_site_window)", labels) == {"host"}


def test_values_of_labels_that_are_matched_exist(scraped: tuple[str, Labels]) -> None:
    """What the scrape need not have now, it can have: statuses, outcomes, results and ages."""
    possible = {
        "outcome": {"delivered", "deferred", "failed", "removed"},
        "status": {"queued", "deferred", "held", "in-flight"},
        "age": {"5", "10", "20", "40", "80", "160", "320", "640", "1280", "older"},
        "result": {"found", "no-name", "no-data", "unavailable"},
    }
    for expression in (*dashboard_expressions(), *alert_expressions()):
        for _, matchers in SELECTOR.findall(expression):
            for label, values in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
                if label not in PROMETHEUS:
                    assert set(values.split("|")) <= possible[label], expression


def test_the_alerts_are_rules() -> None:
    """As far as lines show it: each has an expression on one line, a severity and a summary, and a name of its own."""
    rules = ALERTS.read_text().split("      - alert: ")[1:]

    names = [rule.splitlines()[0] for rule in rules]
    assert len(set(names)) == len(names) >= 10
    for rule in rules:
        assert re.search(r"^        expr: \S", rule, re.MULTILINE), rule
        assert re.search(r"^        labels: \{severity: (critical|warning)\}$", rule, re.MULTILINE), rule
        assert re.search(r'^          summary: ".*"$', rule, re.MULTILINE), rule
        assert rule.count("(") == rule.count(")")


def test_the_panels_of_the_dashboard_do_not_overlap_and_have_names_of_their_own() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]

    assert len({panel["id"] for panel in panels}) == len(panels)
    places: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        covered = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not places & covered, panel["title"]
        places |= covered


def test_every_counter_and_gauge_of_ours_is_explained_with_its_unit(scraped: tuple[str, Labels]) -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    table = page.split("| metric | unit | meaning |")[1].split("\n\n")[0]
    explained = set(
        re.findall(r"`(relayd_\w+)(?:\{[^}]*\})?`", "".join(row.split("|")[1] for row in table.splitlines()[2:]))
    )
    served = set(re.findall(r"^# TYPE (relayd_\w+)", scraped[0], re.MULTILINE))

    assert explained == served
