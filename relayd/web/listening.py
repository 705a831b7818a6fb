"""The socket that the server listens on."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress

from relayd.web.settings import Place

BACKLOG = 32
OURS = 0o177  # umask of a socket that only relayd and root may use
TOKEN_ASKED = 0o111  # of one that lets in whoever can reach it and knows the token


def listen(place: Place, *, guarded: bool) -> socket.socket:
    """Return a socket that listens at `place`; `guarded`: whoever comes is asked for a token.

    A UNIX socket that nobody listens on any more is replaced.

    Raises:
        OSError: it cannot be had; in use, above all.
    """
    if place.path:
        return _unix(place.path, TOKEN_ASKED if guarded else OURS)
    family = socket.AF_INET6 if ":" in place.address else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((place.address, place.port))
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def leave(place: Place, listening: socket.socket) -> None:
    """Remove what a UNIX socket leaves in the file system."""
    listening.close()
    if place.path:
        with suppress(OSError):
            os.unlink(place.path)


def _unix(path: str, mask: int) -> socket.socket:
    _clear(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    before = os.umask(mask)
    try:
        listening.bind(path)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    finally:
        os.umask(before)
    return listening


def _clear(path: str) -> None:
    """Remove a socket that a killed process has left; nothing else."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise FileExistsError(f"{path} is there, and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asking:
        try:
            asking.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise FileExistsError(f"{path} is in use")
