"""HTTPS, as a client: policies of MTA-STS, TLS reports, tokens of OAuth.  The only file that imports aiohttp.

What the reader must not break:

    The server proves its name to an authority that is trusted, over TLS 1.2 or newer, by a DNS-ID (RFC 9525); nothing
    is read from one that does not.
    URLs and names come from strangers.  So a name is resolved by `Names`, which refuses addresses that lead to our own
    services, and connected to at those very addresses; so is an address in a URL.  Exempt is what the operator
    configured; and only he may have `http:`, of a loopback address.
    No redirect is followed, no cookie is kept, no proxy of the environment is used, no connection is used twice.  A GET
    whose connection is closed unanswered is tried once more, as aiohttp does.
    The whole exchange, names and all, ends within `timeout`; at most `limit` octets of the answer are kept, and as it
    came: an answer that is compressed is refused.

aiohttp costs 0.2 s and 20 MB: it is imported by the first exchange, beside the loop.
"""

from __future__ import annotations

import asyncio
import importlib
import ipaddress
import socket
import ssl
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from relayd import __version__
from relayd.mail.https import HttpsError, HttpsFault, Response

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession
    from aiohttp.abc import AbstractResolver, ResolveResult
    from yarl import URL

MAX_CONNECTIONS = 50  # at the same time; what comes beyond waits, within its timeout
MAX_REASON = 200  # characters
CHUNK = 65536  # octets


class Names(Protocol):
    """Says where a server may be connected to."""

    async def addresses(self, name: str, *, configured: bool) -> Sequence[str]:
        """Return the IP addresses of `name`, a lower-case host name or an IP address, in the order to try them.

        `configured`: the operator named it, so that the rules on loopback and private addresses do not apply.

        Raises:
            OSError: there is none, or nobody can say, or none may be connected to; in words.
        """


class Https:
    """See the module."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._sessions: dict[bool, ClientSession] = {}  # for what is configured, and for all else
        self._contexts: dict[Path | None, ssl.SSLContext] = {}
        self._closed = False

    def reload(self) -> None:
        """Read authorities again."""
        self._contexts.clear()

    async def close(self) -> None:
        """End all exchanges: who waits for one gets an HttpsError."""
        self._closed = True
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    async def get(
        self,
        url: str,
        *,
        timeout: timedelta,
        limit: int,
        headers: Mapping[str, str] | None = None,
        ca_file: Path | None = None,
        configured: bool = False,
    ) -> Response:
        """Return what `url` answers, redirects and errors as well.

        `limit` is in octets of the answer.  `ca_file` has the authorities to trust, in PEM; None: the system's.
        `configured`: the URL is the operator's, see the module.

        Raises:
            HttpsError: there is no answer.
        """
        return await self._exchange("GET", url, None, headers or {}, timeout, limit, ca_file, configured)

    async def post(
        self,
        url: str,
        body: bytes,
        *,
        content_type: str,
        timeout: timedelta,
        limit: int,
        headers: Mapping[str, str] | None = None,
        ca_file: Path | None = None,
        configured: bool = False,
    ) -> Response:
        """Send `body` to `url` and return the answer; see `get`."""
        headers = {**(headers or {}), "Content-Type": content_type}
        return await self._exchange("POST", url, body, headers, timeout, limit, ca_file, configured)

    async def _exchange(
        self,
        method: str,
        text: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout: timedelta,
        limit: int,
        ca_file: Path | None,
        configured: bool,
    ) -> Response:
        aiohttp = await asyncio.to_thread(importlib.import_module, "aiohttp")
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                url = await self._checked(text, configured)
                context = await self._context(ca_file)
                session = self._session(configured)
                async with session.request(
                    method, url, data=body, headers=headers, ssl=context, allow_redirects=False
                ) as response:
                    return await _read(response, limit)
        except TimeoutError:
            raise HttpsError(HttpsFault.TIMEOUT, f"no answer within {timeout.total_seconds():g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _told(error) from None

    async def _checked(self, text: str, configured: bool) -> URL:
        """Return the URL, if we ask such.  Read by the parser that aiohttp uses, so that both see the same host."""
        from yarl import URL

        try:
            url = URL(text)
            host, port = url.raw_host or "", url.port
        except ValueError:
            raise HttpsError(HttpsFault.PROTOCOL, f"not a URL: {text!r}"[:MAX_REASON]) from None
        address = _literal(host)
        insecure = url.scheme == "http" and configured and address is not None and address.is_loopback
        if not (url.scheme == "https" or insecure) or not host or not port or url.user is not None:
            raise HttpsError(HttpsFault.PROTOCOL, f"not an https URL: {text!r}"[:MAX_REASON])
        if address is not None:  # aiohttp asks its resolver for names only
            await self._addresses(str(address), configured)
        return url

    async def _addresses(self, name: str, configured: bool) -> Sequence[str]:
        try:
            return await self._names.addresses(name, configured=configured)
        except OSError as error:
            raise HttpsError(HttpsFault.RESOLVE, str(error)[:MAX_REASON]) from None

    async def _context(self, ca_file: Path | None) -> ssl.SSLContext:
        context = self._contexts.get(ca_file)
        if context is None:
            try:
                context = self._contexts[ca_file] = await asyncio.to_thread(_trusting, ca_file)
            except OSError as error:
                raise HttpsError(HttpsFault.CERTIFICATE, f"no authorities in {ca_file}: {error}"[:MAX_REASON]) from None
        return context

    def _session(self, configured: bool) -> ClientSession:
        from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

        if self._closed:
            raise HttpsError(HttpsFault.CONNECT, "relayd is stopping")
        if configured not in self._sessions:
            self._sessions[configured] = ClientSession(
                connector=TCPConnector(
                    resolver=_resolver(self, configured), use_dns_cache=False, force_close=True, limit=MAX_CONNECTIONS
                ),
                headers={"User-Agent": f"relayd/{__version__}", "Accept-Encoding": "identity"},
                cookie_jar=DummyCookieJar(),
                timeout=ClientTimeout(total=None, sock_connect=None),
                auto_decompress=False,
                trust_env=False,
            )
        return self._sessions[configured]


def _resolver(https: Https, configured: bool) -> AbstractResolver:
    from aiohttp.abc import AbstractResolver

    class Resolver(AbstractResolver):
        """Names, as aiohttp wants them."""

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[ResolveResult]:
            addresses = await https._addresses(host.rstrip(".").lower(), configured)
            return [_result(host, address, port) for address in addresses]

        async def close(self) -> None:
            pass

    return Resolver()


def _result(name: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return {"hostname": name, "host": address, "port": port, "family": family, "proto": 0, "flags": flags}


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address that a URL's host is, None if it is a name; HttpsError if it looks like one and is not,
    as 127.1 does, which some take for 127.0.0.1."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        if ":" in host or host.replace(".", "").isdigit():
            raise HttpsError(HttpsFault.PROTOCOL, f"neither a name nor an address: {host!r}"[:MAX_REASON]) from None
        return None


def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that trusts the authorities in a file, or the system's; takes some 20 ms."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False  # RFC 8461 section 3.3, RFC 9525 section 2
    return context


async def _read(response: ClientResponse, limit: int) -> Response:
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise HttpsError(HttpsFault.PROTOCOL, f"compressed, though asked for as it is: {encoding}"[:MAX_REASON])
    body = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK):
        body += chunk
        if len(body) > limit:
            raise HttpsError(HttpsFault.TOO_LARGE, f"more than {limit} octets")
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return Response(status=response.status, content_type=media_type, body=bytes(body))


def _told(error: Exception) -> HttpsError:
    """Return what aiohttp says in our words."""
    import aiohttp

    match error:
        case aiohttp.ClientConnectorCertificateError():
            kind, cause = HttpsFault.CERTIFICATE, error.certificate_error
            reason = getattr(cause, "verify_message", "") or str(cause)
        case aiohttp.ClientConnectorError():
            kind, reason = HttpsFault.CONNECT, str(error.os_error)
        case aiohttp.ClientOSError():
            kind, reason = HttpsFault.PROTOCOL, f"the connection was lost: {error.strerror or error}"
        case aiohttp.ServerDisconnectedError():
            kind, reason = HttpsFault.PROTOCOL, "the connection was closed before an answer"
        case _:
            kind, reason = HttpsFault.PROTOCOL, str(error)
    return HttpsError(kind, " ".join((reason or type(error).__name__).split())[:MAX_REASON])
