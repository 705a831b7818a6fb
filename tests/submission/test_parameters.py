"""ESMTP parameters of the envelope lines."""

from __future__ import annotations

from datetime import timedelta

import pytest

from relayd.mail.deadline import Deadline, DeadlineMode
from relayd.mail.recipient import Notify
from relayd.submission.parameters import SenderParameters, receiver_parameters
from relayd.submission.parameters import sender_parameters as parsed
from relayd.submission.refusal import Refused
from tests.submission.support import NOW


def sender_parameters(text: str) -> SenderParameters:
    return parsed(text, NOW)


def test_the_dsn_parameters_of_a_sender_are_kept_and_those_of_the_last_hop_ignored() -> None:
    parameters = sender_parameters(" ret=hdrs ENVID=QQ314159+2B SIZE=42 BODY=8BITMIME AUTH=<>")

    assert (parameters.ret, parameters.envid) == ("HDRS", "QQ314159+2B")


def test_the_dsn_parameters_of_a_receiver_are_kept() -> None:
    parameters = receiver_parameters(" NOTIFY=success,FAILURE ORCPT=rfc822;ann+2Btag@example.org")

    assert parameters.notify == Notify.SUCCESS | Notify.FAILURE
    assert parameters.orcpt == "rfc822;ann+2Btag@example.org"


@pytest.mark.parametrize(
    ("text", "seconds", "mode", "trace"),
    [
        ("BY=3600;R", 3600, DeadlineMode.RETURN, False),
        ("by=+5;rt", 5, DeadlineMode.RETURN, True),
        ("BY=600;N", 600, DeadlineMode.NOTIFY, False),
        ("BY=-30;NT", -30, DeadlineMode.NOTIFY, True),
        ("BY=0;N", 0, DeadlineMode.NOTIFY, False),
        ("BY=999999999;R", 999_999_999, DeadlineMode.RETURN, False),
    ],
)
def test_a_by_value_counts_from_the_arrival(text: str, seconds: int, mode: DeadlineMode, trace: bool) -> None:
    at = NOW + timedelta(seconds=seconds)

    assert sender_parameters(f" {text} RET=FULL").by == Deadline(at=at, mode=mode, trace=trace)


@pytest.mark.parametrize(
    "text",
    [
        "BY=",
        "BY=0;R",
        "BY=-1;R",
        "BY=60",
        "BY=60;",
        "BY=60;X",
        "BY=60;RX",
        "BY=60;T",
        "BY=60;R;T",
        "BY=1.5;R",
        "BY=1000000000;R",
        "BY=٣;R",
        "BY=60;R BY=60;N",
        "RET=SOME",
        "ENVID=",
        "ENVID=a+0Ab",
        "ENVID=a+7Fb",
        "ENVID=é",
        "ENVID=" + "x" * 101,
        "NOTIFY=NEVER",
        "RET=FULL RET=FULL",
        "REQUIRETLS=YES",
        "X",
    ],
)
def test_a_bad_sender_parameter_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="X-Sender has a parameter"):
        sender_parameters(" " + text)


@pytest.mark.parametrize(
    "text",
    [
        "NOTIFY=NEVER,DELAY",
        "NOTIFY=",
        "ORCPT=ann@example.org",
        "ORCPT=rfc822;a+0D+0Ab",
        "ORCPT=rfc822;" + "x" * 500,
        "RET=FULL",
    ],
)
def test_a_bad_receiver_parameter_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="X-Receiver has a parameter"):
        receiver_parameters(" " + text)
