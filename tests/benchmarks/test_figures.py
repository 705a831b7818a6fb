"""What is computed from what was measured, and drawn."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from xml.etree import ElementTree

import pytest

from benchmarks import processes
from benchmarks.arrivals import milliseconds, percentile
from benchmarks.million import Count, Row, drawn, window
from benchmarks.processes import Stat, Watch
from benchmarks.svg import Panel, decades, figure, tick, value

# /proc


def test_a_stat_line_is_read_whatever_the_program_is_called() -> None:
    stat = Stat.parse("42 (a ) b (c) S 7 " + " ".join(str(number) for number in range(5, 50)))

    assert (stat.pid, stat.parent) == (42, 7)
    assert stat.waited == (16 + 17) / processes.TICKS  # cutime and cstime are fields 16 and 17


BURN = "import time; end = time.process_time() + 0.15\nwhile time.process_time() < end: pass"
PARENT = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {BURN!r}])
idle = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
print(idle.pid, flush=True)
sys.stdin.read()
"""


def test_what_ended_children_used_counts_and_living_ones_are_found() -> None:
    before = processes.cpu(os.getpid())
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        used = processes.cpu(parent.pid)

        assert used >= 0.14
        assert {parent.pid, child} <= processes.family(parent.pid).keys()
        assert processes.resident(parent.pid) > processes.resident(child) > 0
        assert processes.descriptors(parent.pid) > 3
        with Watch(parent.pid, 0.01) as watch:
            while len(watch.samples) < 2:
                time.sleep(0.01)
        assert watch.peak >= processes.resident(child)
    finally:
        parent.communicate()
    assert processes.cpu(os.getpid()) - before >= 0.14
    assert processes.cpu(parent.pid) == 0


# times


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(number) for number in range(1, 201)]

    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 100, 198, 200]
    assert percentile([3.0], 0.99) == 3
    assert milliseconds([0.001, 0.0025]) == "median 1.0 ms, p95 2.5 ms, p99 2.5 ms, longest 2.5 ms"


@pytest.mark.parametrize(
    ("counts", "messages", "expected"),
    [
        ([(5.0, 1), (5.5, 400), (6.0, 900), (7.0, 1900)], 10_000, ((6.0, 900), (7.0, 1900))),
        ([(5.0, 1), (5.5, 400), (6.2, 1000)], 1000, ((5.0, 1), (6.2, 1000))),  # over before the second was
        ([(5.0, 1), (6.0, 900), (7.0, 1000)], 1000, ((5.0, 1), (7.0, 1000))),  # less than half is left
        ([(5.0, 1000)], 1000, ((4.995, 0), (5.0, 1000))),
    ],
)
def test_the_rate_leaves_out_the_first_second_where_there_is_more(
    counts: Sequence[Count], messages: int, expected: tuple[Count, Count]
) -> None:
    assert window(counts, messages) == expected


# the figure


@pytest.mark.parametrize(
    ("values", "exponents"),
    [([1000, 1e6], [3, 4, 5, 6]), ([0.7, 3.3], [-1, 0, 1]), ([20, 30], [1, 2]), ([100, 100], [2, 3])],
)
def test_an_axis_spans_whole_decades(values: Sequence[float], exponents: list[int]) -> None:
    assert list(decades(values)) == exponents


def test_numbers_are_short_on_axes_and_points() -> None:
    assert [tick(exponent) for exponent in (-2, -1, 0, 3, 6)] == ["0.01", "0.1", "1", "1,000", "1,000,000"]
    assert [value(number) for number in (0.0123, 1.634, 94.69, 548.1, 1481.2)] == [
        "0.0123",
        "1.63",
        "94.7",
        "548",
        "1,480",
    ]


def test_a_panel_needs_points_that_a_logarithm_has() -> None:
    for points in ([], [(1.0, 0.0)]):
        with pytest.raises(ValueError, match="above 0"):
            Panel(title="rate", x_label="x", y_label="y", points=points)


def test_a_figure_shows_every_point_inside_its_panel_higher_values_higher_up() -> None:
    points = [(1000.0, 0.7), (10_000.0, 1.3), (100_000.0, 8.0)]
    panel = Panel(title="a <b>", x_label="x", y_label="y", points=points, limit=5, limit_label="5 s")

    root = ElementTree.fromstring(figure("R&D", [panel, panel, panel]))

    circles = [each for each in root.iter() if each.tag.endswith("circle")]
    places = [(float(each.attrib["cx"]), float(each.attrib["cy"])) for each in circles[:3]]
    text = "".join(each.text or "" for each in root.iter())
    assert len(circles) == 9
    assert places == sorted(places)
    assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)
    assert all(0 < x < 380 and 0 < y < 280 for x, y in places)
    assert "a <b>" in text
    assert "R&D" in text


def test_the_figure_of_growth_has_its_four_panels() -> None:
    rows = [
        Row(
            messages=10**exponent,
            domains=10,
            sites=10,
            fill=1,
            ready=1,
            first=1.5,
            peak=60,
            rate=1500,
            window_messages=1,
            window_seconds=1,
            stall=20,
            late=0,
            stop=1,
        )
        for exponent in (3, 4)
    ]

    drawing = drawn(rows)

    assert len(re.findall("<polyline", drawing)) == 4
    assert {"5 s", "200 MiB", "100 ms"} <= set(re.findall(">([^<]+)<", drawing))
