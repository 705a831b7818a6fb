"""Open a connection: a socket of our own, aiosmtplib for the session up to the greeting, then the hand-over.

The only file that imports aiosmtplib; its encodings for AUTH are here for that reason.  Why not more of it: it hides
what is glued to a reply, and its DATA cannot be trusted with a relay's promises (docs/decisions, FAULTS.md A1 to A13).
A greeting in clear text is looked at before it reads it (greeting.py); one behind implicit TLS it reads alone.

The hand-over is one step without an await: no octet can arrive between `connect()` and `set_protocol()`.  A non-empty
buffer is refused.  Nothing is ever called on the SMTP object afterwards: its `close()` would flush a final dot.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import aiosmtplib
import aiosmtplib.auth

from relayd.mail.errors import SessionError
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.mail.route import Target
from relayd.mail.tls import UNTRUSTED
from relayd.relay.greeting import await_greeting
from relayd.relay.stirring import Stirring
from relayd.relay.timeouts import Timeouts
from relayd.relay.tls import result_of
from relayd.relay.wire import LOST, PROTOCOL, ConnectionFailed, TlsHandshakeFailed, Wire

NO_ANSWER = EnhancedStatus(4, 4, 1)  # RFC 3463 section 3.5: no answer from host

NewSocket: TypeAlias = Callable[[socket.AddressFamily], socket.socket]  # raises OSError


def tcp_socket(family: socket.AddressFamily) -> socket.socket:
    """Return a socket to connect with, which does not block.

    Raises:
        OSError: there is none to be had, or none of that family.
    """
    return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialling:
    """What every connection of a relayer has in common.

    `source_addresses`: the first of the target's family is bound, so that a retry comes from where the first try came
    from, as a greylisting server wants it; the system chooses if there are none at all.
    """

    hostname: str
    timeouts: Timeouts
    stirring: Stirring
    new_socket: NewSocket
    source_addresses: Sequence[str] = ()


async def connect(target: Target, dialling: Dialling, *, name: str, implicit_tls: ssl.SSLContext | None = None) -> Wire:
    """Connect to `target`, with TLS from the first octet if a context is given, and read the greeting.  `name` is what
    the server is called in a handshake.

    Raises:
        TlsHandshakeFailed: it answered, but not so.
        ConnectionFailed: it cannot be used now.
    """
    dialling.stirring.stir()
    sock = await _connected(target, dialling)
    dialling.stirring.stir()
    if implicit_tls is None:
        try:
            await await_greeting(sock, dialling.timeouts.greeting)
        except BaseException:
            sock.close()
            raise
    smtp = aiosmtplib.SMTP(
        hostname=name,
        local_hostname=dialling.hostname,
        sock=sock,
        use_tls=implicit_tls is not None,
        tls_context=implicit_tls,
        start_tls=False,
        timeout=None,
    )
    # From here on the loop's transport closes `sock`, whatever happens.
    greeting = await _greeted(smtp, dialling.timeouts)
    dialling.stirring.stir()
    return _handed_over(smtp, sock, dialling, greeting)


def _handed_over(smtp: aiosmtplib.SMTP, sock: socket.socket, dialling: Dialling, greeting: Reply) -> Wire:
    transport = cast("asyncio.Transport | None", smtp.transport)
    if transport is None or transport.is_closing():
        raise ConnectionFailed("connection closed after the greeting", status=LOST)
    wire = Wire(transport, sock, dialling.timeouts, dialling.stirring, greeting)
    transport.set_protocol(wire)
    if getattr(smtp.protocol, "_buffer", None):
        wire.reset()
        raise ConnectionFailed("protocol error: more than a greeting", status=PROTOCOL)
    return wire


async def _connected(target: Target, dialling: Dialling) -> socket.socket:
    version = ipaddress.ip_address(target.address).version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    try:
        sock = dialling.new_socket(family)
    except OSError as error:  # a kernel without IPv6: the next address may do
        raise ConnectionFailed(_unreachable(target, error), status=NO_ANSWER) from None
    patience = dialling.timeouts.connect.total_seconds()
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else each write waits for an acknowledgement
        if dialling.source_addresses:
            sock.bind((_source(dialling.source_addresses, version), 0))
        async with asyncio.timeout(patience):
            await asyncio.get_running_loop().sock_connect(sock, (target.address, target.host.port))
    except TimeoutError:
        sock.close()
        raise ConnectionFailed(f"no connection to {target} in {patience:g} s", status=NO_ANSWER) from None
    except OSError as error:
        sock.close()
        raise ConnectionFailed(_unreachable(target, error), status=NO_ANSWER) from None
    except BaseException:
        sock.close()
        raise
    return sock


def _unreachable(target: Target, error: OSError) -> str:
    return f"no connection to {target}: {os.strerror(error.errno) if error.errno else error}"


def _source(addresses: Sequence[str], version: int) -> str:
    for address in addresses:
        if ipaddress.ip_address(address).version == version:
            return address
    raise OSError(f"no source address of IPv{version} is configured")


async def _greeted(smtp: aiosmtplib.SMTP, timeouts: Timeouts) -> Reply:
    """Let aiosmtplib do the TLS handshake, if any, and read the greeting, each within its own time."""
    loop = asyncio.get_running_loop()
    limit = timeouts.greeting
    try:
        async with asyncio.timeout(limit.total_seconds()) as bound:
            timer = loop.call_later(timeouts.starttls.total_seconds(), _stop_handshake, smtp, bound)
            try:
                code, text = await smtp.connect()
            finally:
                timer.cancel()
            return Reply.parse(code, text)
    except TimeoutError:
        if smtp.use_tls and smtp.protocol is None:
            raise TlsHandshakeFailed("TLS handshake: stalled", status=LOST) from None
        raise ConnectionFailed(f"no greeting in {limit.total_seconds():g} s", status=LOST) from None
    except aiosmtplib.SMTPConnectResponseError as error:
        reply = Reply.parse(error.code, error.message)
        usable = error.code // 100 in (4, 5)
        raise ConnectionFailed(
            f"greeting: {reply}", reply=reply if usable else None, status=None if usable else PROTOCOL
        ) from None
    except aiosmtplib.SMTPResponseException as error:
        raise ConnectionFailed(f"protocol error in the greeting: {error.message}", status=PROTOCOL) from None
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        cause = error.__cause__ or error
        if smtp.use_tls and isinstance(cause, ssl.SSLError):
            raise TlsHandshakeFailed(f"TLS handshake: {cause}", status=UNTRUSTED, result=result_of(cause)) from None
        raise ConnectionFailed(f"connection lost before the greeting: {cause}", status=LOST) from None


def _stop_handshake(smtp: aiosmtplib.SMTP, bound: asyncio.Timeout) -> None:
    if smtp.use_tls and smtp.protocol is None:  # set once the transport, with TLS, is up
        bound.reschedule(asyncio.get_running_loop().time())


def plain(username: str, password: str) -> bytes:
    """Return the initial response of AUTH PLAIN (RFC 4616)."""
    return aiosmtplib.auth.auth_plain_encode(username, password)


def login(username: str, password: str) -> tuple[bytes, bytes]:
    """Return the two answers of AUTH LOGIN."""
    return aiosmtplib.auth.auth_login_encode(username, password)


def cram_md5(username: str, password: str, challenge: str) -> bytes:
    """Return the answer to AUTH CRAM-MD5 (RFC 2195).

    Raises:
        SessionError: the challenge is not base64.
    """
    try:
        return aiosmtplib.auth.auth_crammd5_verify(username, password, challenge)
    except aiosmtplib.SMTPAuthenticationError as error:
        raise SessionError(error.message) from None
