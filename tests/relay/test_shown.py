"""What a server has shown, on both event loops' transports, in full and in resumed handshakes."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from relayd.mail.tls import Proof, TlsSetup
from relayd.relay.shown import chain_of
from relayd.relay.tls import TlsContexts
from tests.relay.kit import on
from tests.support.certificates import authority, certify, server_context

ROOT = authority("A Root")
BETWEEN = authority("One Between", by=ROOT)
SERVER = certify("mx.test", by=BETWEEN)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_chain_is_as_the_server_has_shown_it(loop: str, version: ssl.TLSVersion) -> None:
    async def story() -> None:
        theirs = server_context(SERVER, BETWEEN, ROOT)
        theirs.maximum_version = version
        ours = TlsContexts().of(TlsSetup(), Proof.DANE)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello\n")
            await reader.read()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=theirs)
        port = server.sockets[0].getsockname()[1]
        chains, resumed = [], []
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=ours, server_hostname="mx.test")
            connection = writer.get_extra_info("ssl_object")
            assert await reader.readline() == b"hello\n"
            chains.append(chain_of(connection))
            resumed.append(connection.session_reused)
            ours.keep(connection)
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()

        assert chains == [(SERVER.der, BETWEEN.der, ROOT.der)] * 2
        assert resumed == [False, True]

    on(loop, story())


def test_without_a_handshake_nothing_was_shown() -> None:
    connection = TlsContexts().of(TlsSetup(), Proof.NOTHING).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())

    assert chain_of(connection) == ()
