"""ESMTP parameters of the envelope lines."""

from __future__ import annotations

import pytest

from relayd.mail.recipient import Notify
from relayd.submission.parameters import receiver_parameters, sender_parameters
from relayd.submission.refusal import Refused


def test_the_dsn_parameters_of_a_sender_are_kept_and_those_of_the_last_hop_ignored() -> None:
    parameters = sender_parameters(" ret=hdrs ENVID=QQ314159+2B SIZE=42 BODY=8BITMIME AUTH=<>")

    assert (parameters.ret, parameters.envid) == ("HDRS", "QQ314159+2B")


def test_the_dsn_parameters_of_a_receiver_are_kept() -> None:
    parameters = receiver_parameters(" NOTIFY=success,FAILURE ORCPT=rfc822;ann+2Btag@example.org")

    assert parameters.notify == Notify.SUCCESS | Notify.FAILURE
    assert parameters.orcpt == "rfc822;ann+2Btag@example.org"


@pytest.mark.parametrize(
    "text",
    [
        "RET=SOME",
        "ENVID=",
        "ENVID=a+0Ab",
        "ENVID=a+7Fb",
        "ENVID=é",
        "ENVID=" + "x" * 101,
        "NOTIFY=NEVER",
        "RET=FULL RET=FULL",
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
