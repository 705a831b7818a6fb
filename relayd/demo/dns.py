"""A small DNS server on loopback: UDP and TCP, answering from a zone that may change while it runs.

It plays the resolver that a host would be given: it follows aliases inside its zone, says NXDOMAIN for names that it
has never heard of, NODATA for types that a name lacks (RFC 2308), and truncates what does not fit (RFC 1035 section
4.2.1), so that the asker has to come back by TCP.  dnspython makes the wire format; the rest is a dictionary.

    async with DnsServer() as dns:
        dns.mx("example.org", (10, "mx1.example.org"), (20, "mx2.example.org"))
        dns.a("mx1.example.org", "127.0.0.1")
        settings = DnsSettings(nameservers=(dns.address,))
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Self, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

UDP_SIZE = 512  # octets of an answer to a query without EDNS (RFC 1035 section 4.2.1)
MAX_ALIASES = 20  # CNAMEs followed in one answer

_ESCAPES = str.maketrans({'"': '\\"', "\\": "\\\\"})  # in a quoted string of a zone (RFC 1035 section 5.1)

Fault = tuple[dns.name.Name, dns.rdatatype.RdataType | None]
Records = dict[dns.rdatatype.RdataType, dns.rrset.RRset]


class DnsServer:
    """See the module.  `queries` has what was asked, as (name, type), in order; `ttl` and `negative_ttl`, in seconds,
    go into the answers made from now on."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, ttl: int = 60, negative_ttl: int = 60) -> None:
        """`port` 0: a free one at each start."""
        self.host = host
        self.port = port
        self._wanted_port = port
        self.ttl = ttl
        self.negative_ttl = negative_ttl
        self.queries: list[tuple[str, str]] = []
        self.faults: dict[Fault, dns.rcode.Rcode | None] = {}  # None: no answer at all
        self._zone: dict[dns.name.Name, Records] = {}
        self._above: Counter[dns.name.Name] = Counter()  # how many names of the zone are below each
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._connections: set[asyncio.Transport] = set()

    # The zone.  Each call replaces what was there of that name and type.

    def mx(self, name: str, *exchangers: tuple[int, str]) -> None:
        """Give `name` mail exchangers, as (preference, host)."""
        self._put(name, "MX", [f"{preference} {_absolute(host)}" for preference, host in exchangers])

    def null_mx(self, name: str) -> None:
        """Let `name` say that it takes no mail (RFC 7505)."""
        self.mx(name, (0, "."))

    def a(self, name: str, *addresses: str) -> None:
        """Give `name` IPv4 addresses."""
        self._put(name, "A", list(addresses))

    def aaaa(self, name: str, *addresses: str) -> None:
        """Give `name` IPv6 addresses."""
        self._put(name, "AAAA", list(addresses))

    def cname(self, name: str, target: str) -> None:
        """Make `name` an alias of `target`."""
        self._put(name, "CNAME", [_absolute(target)])

    def txt(self, name: str, *texts: str) -> None:
        """Give `name` TXT records; a long one is of several strings (RFC 1035 section 3.3)."""
        self._put(name, "TXT", [_strings(text) for text in texts])

    def exists(self, name: str) -> None:
        """Let `name` exist, with no records of the types that mail asks for (NODATA)."""
        self._put(name, "HINFO", ['"here" "there"'])

    def servfail(self, name: str, rdtype: str | None = None) -> None:
        """Answer SERVFAIL for `name`: for one type, or for all."""
        self.faults[_fault(name, rdtype)] = dns.rcode.SERVFAIL

    def silent(self, name: str, rdtype: str | None = None) -> None:
        """Never answer questions for `name`: of one type, or of all."""
        self.faults[_fault(name, rdtype)] = None

    def remove(self, name: str) -> None:
        """Forget `name`: its records and its faults."""
        key = dns.name.from_text(name)
        if self._zone.pop(key, None) is not None:
            self._above.subtract(_ancestors(key))
        self.faults = {fault: rcode for fault, rcode in self.faults.items() if fault[0] != key}

    def asked(self, name: str, rdtype: str | None = None) -> int:
        """Return how often `name` was asked for: for one type, or for all."""
        return sum(1 for asked, kind in self.queries if asked == name and rdtype in (None, kind))

    def _put(self, name: str, rdtype: str, values: list[str]) -> None:
        rrset = dns.rrset.from_text_list(dns.name.from_text(name), self.ttl, "IN", rdtype, values)
        if rrset.name not in self._zone:
            self._above.update(_ancestors(rrset.name))
        self._zone.setdefault(rrset.name, {})[rrset.rdtype] = rrset

    # The server.

    @property
    def address(self) -> str:
        """Where it listens, as `127.0.0.1:PORT`: an entry for `dns.nameservers`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def start(self) -> None:
        """Listen, on the same port for UDP and TCP."""
        loop = asyncio.get_running_loop()
        tcp, udp = _bind_both(self.host, self._wanted_port)
        self.port = tcp.getsockname()[1]
        self._tcp = await loop.create_server(lambda: _Stream(self), sock=tcp)
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=udp)

    async def stop(self) -> None:
        """Stop listening and drop all connections."""
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)  # the transports close their sockets in the loop's next turn
        if self._tcp is not None:
            await self._tcp.wait_closed()
        self._udp = self._tcp = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def respond(self, query: bytes, write: Callable[[bytes], None], *, tcp: bool) -> None:
        """Answer one query; what is not a query is passed over."""
        try:
            request = dns.message.from_wire(query)
        except dns.exception.DNSException:
            return
        if not request.question:
            return
        response = self.answer(request)
        if response is not None:
            write(wire(request, response, tcp=tcp))

    def answer(self, request: dns.message.Message) -> dns.message.Message | None:
        """Return the answer from the zone, None for silence."""
        question = request.question[0]
        self.queries.append((question.name.to_text(omit_final_dot=True).lower(), question.rdtype.name))
        response = dns.message.make_response(request, recursion_available=True)
        name = question.name
        for _ in range(MAX_ALIASES):
            fault = self._fault(name, question.rdtype)
            if fault is None:
                return None
            records = self._zone.get(name, {})
            if fault != dns.rcode.NOERROR or question.rdtype in records or dns.rdatatype.CNAME not in records:
                return self._finish(response, name, question.rdtype, fault)
            alias = records[dns.rdatatype.CNAME]
            response.answer.append(alias)
            name = alias[0].target
        return response

    def _fault(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> dns.rcode.Rcode | None:
        for key in ((name, rdtype), (name, None)):
            if key in self.faults:
                return self.faults[key]
        return dns.rcode.NOERROR

    def _finish(
        self,
        response: dns.message.Message,
        name: dns.name.Name,
        rdtype: dns.rdatatype.RdataType,
        rcode: dns.rcode.Rcode,
    ) -> dns.message.Message:
        records = self._zone.get(name)
        if rcode != dns.rcode.NOERROR:
            response.set_rcode(rcode)
        elif records and rdtype in records:
            response.answer.append(records[rdtype])
        else:
            response.authority.append(
                dns.rrset.from_text(".", self.negative_ttl, "IN", "SOA", f". . 1 1 1 1 {self.negative_ttl}")
            )
            # A name with nothing of its own but others below it exists too (RFC 8020).
            if records is None and not self._above[name]:
                response.set_rcode(dns.rcode.NXDOMAIN)
        return response


def wire(request: dns.message.Message, response: dns.message.Message, *, tcp: bool) -> bytes:
    """Return the octets of `response`; by UDP an empty one, marked as truncated, if it does not fit."""
    try:
        return response.to_wire(max_size=65535 if tcp else max(UDP_SIZE, request.payload), want_shuffle=False)
    except dns.exception.TooBig:
        empty = dns.message.make_response(request, recursion_available=True)
        empty.flags |= dns.flags.TC
        return empty.to_wire()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._server.respond(data, lambda answer: self._transport.sendto(answer, addr), tcp=False)


class _Stream(asyncio.Protocol):
    """DNS over TCP: each message after two octets of its length (RFC 1035 section 4.2.2)."""

    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.Transport
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server._connections.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server._connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= 2:
            end = 2 + int.from_bytes(self._received[:2])
            if len(self._received) < end:
                return
            query, self._received = self._received[2:end], self._received[end:]
            self._server.respond(query, self._write, tcp=True)

    def _write(self, answer: bytes) -> None:
        self._transport.write(len(answer).to_bytes(2) + answer)


def _ancestors(name: dns.name.Name) -> Iterator[dns.name.Name]:
    while name != dns.name.root:
        name = name.parent()
        yield name


def _strings(text: str) -> str:
    pieces = [text[start : start + 255] for start in range(0, len(text), 255)] or [""]
    return " ".join(f'"{piece.translate(_ESCAPES)}"' for piece in pieces)


def _absolute(name: str) -> str:
    return name if name.endswith(".") else f"{name}."


def _fault(name: str, rdtype: str | None) -> Fault:
    return dns.name.from_text(name), None if rdtype is None else dns.rdatatype.from_text(rdtype)


def _bind_both(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Return a TCP and a UDP socket on the same port; 0: a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for last in (False,) * 9 + (True,):
        tcp = socket.socket(family, socket.SOCK_STREAM)
        udp = socket.socket(family, socket.SOCK_DGRAM)
        try:
            tcp.bind((host, port))
            udp.bind(tcp.getsockname())
        except OSError:  # the port is free for one of them only
            tcp.close()
            udp.close()
            if last:
                raise
        else:
            return tcp, udp
    raise AssertionError("the last try returns or raises")
