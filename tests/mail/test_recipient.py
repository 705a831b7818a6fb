"""The one table of what a status may become."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from relayd.mail.address import Address
from relayd.mail.errors import QueueError
from relayd.mail.message import arrival_of, new_id
from relayd.mail.recipient import CHANGES, Notify, Recipient, Status


@pytest.mark.parametrize("before", Status)
@pytest.mark.parametrize("after", Status)
def test_a_status_changes_as_the_table_says_and_in_no_other_way(before: Status, after: Status) -> None:
    recipient = Recipient(number=0, address=Address("ann", "example.org"), status=before)

    if after in CHANGES[before]:
        assert recipient.changed(after, attempts=1).status is after
    else:
        with pytest.raises(QueueError):
            recipient.changed(after)


def test_nothing_leaves_delivered_and_everything_may_become_it() -> None:
    assert not CHANGES[Status.DELIVERED]
    assert all(Status.DELIVERED in CHANGES[status] for status in Status if status is not Status.DELIVERED)


@pytest.mark.parametrize(
    ("text", "flags"),
    [("NEVER", Notify.NEVER), ("success,Failure", Notify.SUCCESS | Notify.FAILURE), ("DELAY", Notify.DELAY)],
)
def test_notify_is_parsed_and_shown(text: str, flags: Notify) -> None:
    assert Notify.parse(text) == flags
    assert Notify.parse(str(flags)) == flags


@pytest.mark.parametrize("text", ["", "NEVER,FAILURE", "ALWAYS", "SUCCESS,", "SUCCESS FAILURE"])
def test_a_wrong_notify_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="NOTIFY"):
        Notify.parse(text)


def test_a_queue_id_tells_when_its_message_arrived_and_sorts_by_it() -> None:
    first = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)

    assert arrival_of(new_id(first)) == first
    assert new_id(first) < new_id(first + timedelta(milliseconds=1))
    assert len({new_id(first) for _ in range(1000)}) == 1000


@pytest.mark.parametrize("text", ["", "short", "!" * 20, "01J8ZK3V9Q2N5M7R1T4U0"])
def test_what_is_not_a_queue_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not"):
        arrival_of(text)
