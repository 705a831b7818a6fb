"""`relayd queue shape`: how much waits where, by age."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from relayd.mail.back_off import BackOff
from relayd.spool.queue import Shape
from relayd.spool.sqlite import SqliteQueue
from relayd.view.shape import Row, by_destination, by_site, shape_summary, shape_table
from tests.cli.situations import CommandLine
from tests.spool.mail import HOUR, MINUTE, NOW, a_message

ROW_KEYS = {"site", "destination", "destinations", "total", "ages", "held", "in_flight", "oldest", "back_off"}


def a_shape(destination: str, site: str | None, *young: int, held: int = 0, old: int = 0) -> Shape:
    """Return a shape with these counts in its first columns."""
    ages = (*young, *([0] * (9 - len(young))), old)
    return Shape(destination=destination, site=site, ages=ages, held=held, in_flight=0, oldest=NOW)


def a_row(site: str | None, total: int = 1) -> Row:
    (row,) = by_site([a_shape("a.example", site, total)])
    return row


def back_off(site: str, failures: int) -> dict[str, BackOff]:
    return {site: BackOff(site=site, failures=failures, retry_at=NOW + HOUR, since=NOW - HOUR, reply="refused")}


def remember(relayd: CommandLine, *back_offs: BackOff, **sites: str) -> None:
    """Let the queue know that sites back off, and where destinations lead (`one_example="mx"`)."""

    async def write() -> None:
        queue = await SqliteQueue.open(relayd.spool / "queue.db", owner="test")
        await queue.routed({name.replace("_", "."): site for name, site in sites.items()}, NOW)
        for each in back_offs:
            await queue.back_off(each)
        await queue.close()

    asyncio.run(write())


# summing


def test_destinations_of_one_site_are_one_row() -> None:
    shapes = [a_shape("a.example", "mx", 1, 2), a_shape("b.example", "mx", 4, held=1, old=3), a_shape("c.example", "c")]

    first, second = by_site(shapes)

    assert (second.site, second.destinations, second.total, second.held) == ("mx", 2, 10, 1)
    assert second.ages == (5, 2, 0, 0, 0, 0, 0, 0, 0, 3)
    assert (first.site, first.destinations) == ("c", 1)


def test_what_was_not_looked_up_is_a_row_of_its_own() -> None:
    rows = list(by_site([a_shape("a.example", None, 1), a_shape("b.example", None, 1), a_shape("c.example", "c", 1)]))

    assert [(row.site, row.total) for row in rows] == [(None, 2), ("c", 1)]


def test_by_destination_each_has_its_row() -> None:
    rows = list(by_destination([a_shape("a.example", "mx", 1), a_shape("b.example", "mx", 2)]))

    assert [(row.destination, row.site, row.total) for row in rows] == [("a.example", "mx", 1), ("b.example", "mx", 2)]


# printing


def test_the_table_has_the_columns_of_qshape_and_the_total_first() -> None:
    head, total, row = shape_table([a_row("mx.example", 12345)], 20, {})

    assert head.split() == ["T", "5", "10", "20", "40", "80", "160", "320", "640", "1280", "1280+", "held"]
    assert total.split() == ["TOTAL", "12345", "12345", *["0"] * 10]
    assert row.split() == ["mx.example", "12345", "12345", *["0"] * 10]
    assert len(head) == len(total) == len(row)


def test_rows_beyond_the_limit_are_summed() -> None:
    lines = list(shape_table([a_row(f"mx{n}", 10 - n) for n in range(5)], 2, {}))

    assert [line.split()[0] for line in lines[1:]] == ["TOTAL", "mx0", "mx1", "3"]
    assert lines[-1].split()[:3] == ["3", "others", "21"]


def test_a_site_that_is_out_of_reach_is_marked() -> None:
    rows = [a_row("mx.example"), a_row("other.example")]

    lines = list(shape_table(rows, 20, back_off("mx.example", 3)))

    assert lines[2].endswith("out of reach 3 times in a row, until 2026-11-22T13:00:00Z")
    assert lines[3].endswith(" 0")
    assert list(shape_table(rows, 20, back_off("other.example", 1)))[3].endswith("once, until 2026-11-22T13:00:00Z")


def test_what_was_not_looked_up_is_explained_below() -> None:
    assert list(shape_table([a_row(None)], 20, {}))[-1] == "?: not looked up yet"
    destination, *_ = by_destination([a_shape("a.example", None, 1)])
    assert list(shape_table([destination], 20, {}))[2].endswith("  ?")


def test_a_long_name_is_cut_for_people_and_whole_for_programs() -> None:
    name = ",".join(f"mx{n}.example" for n in range(20))

    lines = list(shape_table([a_row(name)], 20, {}))

    assert lines[2].startswith(f"{name[:41]}...  ")
    assert shape_summary([a_row(name)], 20, {}, NOW, by="site")["rows"][0]["site"] == name


# the command


def test_sites_come_by_how_much_waits(relayd: CommandLine) -> None:
    now = datetime.now(UTC)
    relayd.queue(
        a_message("a@one.example", arrived=now),
        a_message("a@two.example", "b@two.example", arrived=now - 7 * MINUTE),
        a_message("a@three.example", arrived=now - timedelta(days=3)),
    )
    remember(relayd, one_example="mx.example", two_example="two.example", three_example="mx.example")

    rows = relayd("queue", "shape", "--json").json

    assert [(row["site"], row["total"], row["destinations"]) for row in rows["rows"]] == [
        ("mx.example", 2, 2),
        ("two.example", 2, 1),
    ]
    assert rows["rows"][0]["ages"] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert rows["rows"][1]["ages"] == [0, 2, 0, 0, 0, 0, 0, 0, 0, 0]
    assert rows["minutes"] == [5, 10, 20, 40, 80, 160, 320, 640, 1280]
    assert rows["total"]["total"] == 4
    assert rows["others"] is None


def test_its_keys_are_stable(relayd: CommandLine) -> None:
    relayd.queue(a_message("a@one.example", "b@one.example"), a_message("b@two.example"))
    remember(relayd, BackOff(site="mx", failures=2, retry_at=NOW + HOUR, since=NOW, reply="x"), one_example="mx")

    shape = relayd("queue", "shape", "--json", "--limit", "1").json

    assert set(shape) == {"at", "by", "minutes", "total", "rows", "others"}
    (row,) = shape["rows"]
    assert set(row) == set(shape["total"]) == set(shape["others"]) == ROW_KEYS
    assert set(row["back_off"]) == {"failures", "since", "until", "reply", "dsn", "host"}


def test_destinations_are_listed_on_demand(relayd: CommandLine) -> None:
    relayd.queue(a_message("a@one.example"), a_message("a@two.example"))
    remember(relayd, one_example="mx.example")

    shape = relayd("queue", "shape", "--domains", "--json").json

    assert shape["by"] == "destination"
    assert {(row["destination"], row["site"]) for row in shape["rows"]} == {
        ("one.example", "mx.example"),
        ("two.example", None),
    }


def test_what_is_held_has_a_column_of_its_own(relayd: CommandLine) -> None:
    held = a_message()
    relayd.queue(held, a_message())
    relayd("queue", "hold", held.id)

    assert relayd("queue", "shape").out.splitlines()[1].split() == ["TOTAL", "1", *["0"] * 9, "1", "1"]


def test_an_empty_queue_has_an_empty_shape(relayd: CommandLine) -> None:
    relayd.queue()

    assert len(relayd("queue", "shape").out.splitlines()) == 2
    assert relayd("queue", "shape", "--json").json["rows"] == []


def test_without_a_queue_it_says_so(relayd: CommandLine) -> None:
    said = relayd("queue", "shape")

    assert said.code == 70
    assert "has relayd run there?" in said.err
