"""relayd.observe.writer: a log whose reader is slow, gone or stuck."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

from relayd.observe.writer import LineWriter


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            continue


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline, "it did not come about"
        sleep(0.001)


def fill(fd: int) -> int:
    """Write until a pipe takes no more; return how many octets it took."""
    os.set_blocking(fd, False)
    filled = 0
    try:
        while True:
            filled += os.write(fd, b"." * 4096)
    except BlockingIOError:
        return filled


def read_all(fd: int) -> bytes:
    pieces = []
    while piece := os.read(fd, 65536):
        pieces.append(piece)
    return b"".join(pieces)


def taken(writer: LineWriter, line: str) -> bool:
    dropped = writer.dropped
    writer.write(line)
    return writer.dropped == dropped


def test_lines_arrive_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        writer = LineWriter(file.fileno())
        for number in range(5000):
            writer.write(f"line {number}")
        writer.close()

    assert path.read_text().splitlines() == [f"line {number}" for number in range(5000)]
    assert writer.dropped == 0


def test_a_surrogate_is_written_escaped(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        writer = LineWriter(file.fileno())
        writer.write("file=\udcff")
        writer.close()

    assert path.read_bytes() == b"file=\\udcff\n"


@pytest.mark.parametrize("blocking", [True, False])
def test_a_reader_that_stops_reading_costs_lines_but_no_time(pipe: tuple[int, int], blocking: bool) -> None:
    reader, end = pipe
    filled = fill(end)
    os.set_blocking(end, blocking)
    writer = LineWriter(end, bound=100)

    began = monotonic()
    for number in range(1000):
        writer.write(f"line {number}")
    took = monotonic() - began

    assert took < 1.0
    assert writer.dropped >= 800
    os.read(reader, filled)  # the reader goes on: what waited is written, and what is missing is told
    until(lambda: taken(writer, "the last line"))
    writer.close()
    os.close(end)
    lines = read_all(reader).decode().splitlines()
    assert "line 0" in lines
    assert "the last line" in lines
    apologies = [line for line in lines if line.startswith("event=log-lines-dropped")]
    assert sum(int(line.rpartition("=")[2]) for line in apologies) == writer.dropped


def test_a_reader_that_is_gone_costs_lines_and_nothing_else(pipe: tuple[int, int]) -> None:
    reader, end = pipe
    os.close(reader)
    writer = LineWriter(end)

    for number in range(10):
        writer.write(f"line {number}")

    until(lambda: writer.dropped == 10)
    writer.close()


def test_a_closed_descriptor_costs_lines_and_nothing_else() -> None:
    reader, end = os.pipe()
    os.close(reader)
    os.close(end)
    writer = LineWriter(1_000_000)

    writer.write("line")

    until(lambda: writer.dropped == 1)
    writer.close()


@pytest.mark.parametrize("blocking", [True, False])
def test_closing_over_a_stuck_reader_ends(pipe: tuple[int, int], blocking: bool) -> None:
    reader, end = pipe
    fill(end)
    os.set_blocking(end, blocking)
    writer = LineWriter(end)
    writer.write("line")

    began = monotonic()
    writer.close(timeout=0.3)

    assert monotonic() - began < 5.0
    writer.write("after the end")
    assert writer.dropped >= 1
    read_some = os.read(reader, 1 << 20)  # lets a writer that still hangs end
    assert read_some
