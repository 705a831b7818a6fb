"""What the daemon tells the service manager: READY, STATUS, WATCHDOG, STOPPING (sd_notify(3)).

A datagram to the socket named by NOTIFY_SOCKET; without one, nothing happens, so relayd runs anywhere.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta


class Supervisor:
    """The service manager, if there is one."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        name = environment.get("NOTIFY_SOCKET", "")
        # "@" stands for the NUL that begins an abstract name.
        self._address = ("\0" + name[1:]) if name.startswith("@") else name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if name else None
        if self._socket is not None:
            self._socket.setblocking(False)
        self.watchdog_interval = _watchdog_interval(environment)

    def ready(self) -> None:
        """The daemon works."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """The event loop turns: restart the watchdog's clock."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` must follow."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The daemon is about to end."""
        self._send("STOPPING=1")

    def close(self) -> None:
        """Give the socket back."""
        if self._socket is not None:
            self._socket.close()

    def _send(self, text: str) -> None:
        if self._socket is not None:
            with suppress(OSError):  # a service manager that is gone is no reason to stop relaying
                self._socket.sendto(text.encode(), self._address)


def _watchdog_interval(environment: Mapping[str, str]) -> timedelta | None:
    """Half of what the service manager allows, as sd_watchdog_enabled(3) advises; None if it does not watch us."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    pid = environment.get("WATCHDOG_PID", "")
    if not microseconds.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return timedelta(microseconds=int(microseconds)) / 2
