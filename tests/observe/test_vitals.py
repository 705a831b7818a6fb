"""relayd.observe.vitals: when mail flows, and in which words it does not."""

from __future__ import annotations

from datetime import timedelta

import pytest

from relayd.observe.vitals import Vitals, ailments, unready


def test_all_is_well() -> None:
    assert ailments(Vitals()) == unready(Vitals()) == []


@pytest.mark.parametrize(
    ("vitals", "why"),
    [
        (Vitals(started=False), "relayd is starting"),
        (Vitals(stopping=True), "relayd is stopping"),
        (Vitals(degraded={"queue": "disk full"}), "queue is degraded: disk full"),
        (Vitals(since_round=timedelta(seconds=71)), "no round of check_state has ended for 71 s"),
        (Vitals(lag=2.5), "the event loop came 2.5 s too late in the last minute"),
        (
            Vitals(stuck=("example.org", timedelta(seconds=90))),
            "mail for example.org has been due for 90 s and more, and waits for nothing that is known",
        ),
        (Vitals(unwritable="Read-only file system"), "the spool cannot be written: Read-only file system"),
    ],
    ids=["starting", "stopping", "degraded", "round", "lag", "stuck", "unwritable"],
)
def test_each_ailment_is_a_sentence(vitals: Vitals, why: str) -> None:
    assert ailments(vitals) == [why]


@pytest.mark.parametrize(
    "vitals",
    [
        Vitals(degraded={"http": "in use", "tls-reports": "?", "configuration": "?", "mta-sts": "?", "watch": "?"}),
        Vitals(since_round=timedelta(seconds=69)),
        Vitals(since_round=timedelta(hours=1), check_interval=timedelta(hours=1)),
        Vitals(lag=1.9),
        Vitals(stuck=("example.org", timedelta(seconds=59))),
    ],
    ids=["harmless-parts", "round", "long-interval", "lag", "stuck"],
)
def test_what_keeps_no_mail_waiting_is_no_ailment(vitals: Vitals) -> None:
    assert ailments(vitals) == []


def test_what_is_ill_may_be_ready() -> None:
    assert unready(Vitals(lag=100.0, degraded={"queue": "disk full"})) == []
