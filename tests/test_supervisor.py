"""sd_notify(3), as a service manager sees it."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest

from relayd.supervisor import Supervisor
from tests.support.process import NotifySocket


def test_every_state_reaches_the_service_manager() -> None:
    manager = NotifySocket()
    supervisor = Supervisor({"NOTIFY_SOCKET": manager.address})

    supervisor.ready()
    supervisor.status("12 relayers")
    supervisor.alive()
    supervisor.reloading()
    supervisor.stopping()

    assert manager.received("STOPPING=1")
    assert [state for state in manager.states if not state.startswith("MONOTONIC_USEC=")] == [
        "READY=1",
        "STATUS=12 relayers",
        "WATCHDOG=1",
        "RELOADING=1",
        "STOPPING=1",
    ]
    supervisor.close()
    manager.close()


def test_without_a_service_manager_nothing_happens() -> None:
    supervisor = Supervisor({})

    supervisor.ready()
    supervisor.close()

    assert supervisor.watchdog_interval is None


def test_a_service_manager_that_is_gone_does_not_matter() -> None:
    manager = NotifySocket()
    supervisor = Supervisor({"NOTIFY_SOCKET": manager.address})
    manager.close()

    supervisor.alive()
    supervisor.close()

    assert not manager.states


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({"WATCHDOG_USEC": "60000000"}, timedelta(seconds=30)),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, timedelta(seconds=30)),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(environment: dict[str, str], interval: timedelta | None) -> None:
    assert Supervisor(environment).watchdog_interval == interval
