"""H19: certificates and records as no server should send them, with real handshakes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from relayd.mail.tls import TlsPolicy
from tests.relay.kit import Bench, a_delivery, a_site, deliveries, on, trusting
from tests.relay.test_tls import EHLO
from tests.support.smtp import ScriptedServer

LOOPS = ["asyncio", "uvloop"]
HUGE = [f"name-{number}-{'x' * 40}.test" for number in range(20_000)]  # about a megabyte of certificate


def a_server(certificate: trustme.LeafCert) -> ScriptedServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return ScriptedServer({"EHLO": EHLO}, tls=context)


@pytest.mark.parametrize("policy", [TlsPolicy.OPPORTUNISTIC, TlsPolicy.VERIFY])
async def test_an_expired_certificate_proves_nothing(policy: TlsPolicy, tmp_path: Path) -> None:
    ca = trustme.CA()
    bench = Bench(contexts=trusting(ca.cert_pem.bytes(), tmp_path))
    async with a_server(ca.issue_cert("mx1.test", not_after=datetime(2020, 1, 1, tzinfo=UTC))) as server:
        ended = await bench.run(a_site(server.port, tls=policy), [a_delivery()])

        if policy is TlsPolicy.OPPORTUNISTIC:
            assert str(bench.reports.of("M1").tls) == "1.3/encrypted"
        else:
            assert "certificate has expired" in str(ended.failure)
            assert server.taken == []


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("policy", [TlsPolicy.OPPORTUNISTIC, TlsPolicy.VERIFY])
def test_a_certificate_of_a_megabyte_is_no_certificate(loop: str, policy: TlsPolicy, tmp_path: Path) -> None:
    async def story() -> None:
        ca = trustme.CA()
        bench = Bench(contexts=trusting(ca.cert_pem.bytes(), tmp_path))
        async with a_server(ca.issue_cert("mx1.test", *HUGE)) as server:
            ended = await bench.run(a_site(server.port, tls=policy), [a_delivery()])

            if policy is TlsPolicy.OPPORTUNISTIC:
                assert bench.reports.of("M1").tls is None
                assert [connection.encrypted for connection in server.connections] == [False, False]
            else:
                assert "TLS handshake" in str(ended.failure)
                assert server.taken == []

    on(loop, story())


@asynccontextmanager
async def splitting(port: int) -> AsyncIterator[int]:
    """A proxy before `port` that hands on what the server says an octet at a time."""
    tasks: set[asyncio.Task[None]] = set()

    async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int) -> None:
        while octets := await reader.read(65536):
            for start in range(0, len(octets), most):
                writer.write(octets[start : start + most])
                await asyncio.sleep(0)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        for task in (hand_on(reader, server_writer, 65536), hand_on(server_reader, writer, 1)):
            tasks.add(asyncio.ensure_future(task))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("policy", [TlsPolicy.NONE, TlsPolicy.VERIFY])
def test_records_and_replies_may_come_octet_by_octet(loop: str, policy: TlsPolicy, tmp_path: Path) -> None:
    async def story() -> None:
        ca = trustme.CA()
        bench = Bench(contexts=trusting(ca.cert_pem.bytes(), tmp_path))
        async with a_server(ca.issue_cert("mx1.test")) as server, splitting(server.port) as port:
            ended = await bench.run(a_site(port, tls=policy), deliveries(3))

            assert (ended.delivered, ended.failure) == (3, None)
            assert server.connections[0].encrypted is (policy is TlsPolicy.VERIFY)

    on(loop, story())
