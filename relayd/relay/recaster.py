"""Makes messages fit for a server: recast.py, off the loop and within bounds.

A small one is done in a thread, in memory.  A large one is done by a process of its own, since it takes several times
its size in memory and seconds of Python: from an unnamed file to an unnamed file, one message at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from dataclasses import replace
from typing import BinaryIO

from relayd.mail.message import Body
from relayd.relay.content import Encoder, whole
from relayd.relay.ports import Bodies
from relayd.relay.recast import IMPOSSIBLE, recast
from relayd.relay.transaction import Load

STARTING = 60.0  # seconds for a process on a busy machine
SLOWEST = 256 * 1024  # octets in a second, a small part of what it takes; slower is not an effort but a mistake

RE_ENCODED = "re-encoded"
FOLDED = "folded"


class Recaster:
    """Shared by all relayers."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def fit(self, load: Load, bodies: Bodies, *, eight_bit: bool) -> None:
        """Make `load` fit for a server, which offers 8BITMIME or does not, as far as that can be done.

        Raises:
            OSError: not now.
        """
        body = load.delivery.body
        if not needs_recasting(body, eight_bit=eight_bit):
            return
        if load.raw is not None:
            result = await asyncio.to_thread(_recast_whole, body, load.raw, eight_bit)
            if result is not None:
                load.raw, load.body = result, _recast_body(body, len(result), eight_bit=eight_bit)
        else:
            async with self._turn:
                load.scratch = await _recast_file(load, bodies, eight_bit=eight_bit)
            if load.scratch is not None:
                size = load.scratch.seek(0, 2)
                load.body = _recast_body(body, size, eight_bit=eight_bit)
        if load.body is not body:
            load.altered = RE_ENCODED
        elif body.long_lines:
            load.altered = FOLDED


def needs_recasting(body: Body, *, eight_bit: bool) -> bool:
    """Whether a server would not take it, or might not keep it, as it is."""
    return body.long_lines or body.nul or (body.eight_bit and not eight_bit)


def _recast_body(body: Body, size: int, *, eight_bit: bool) -> Body:
    """Describe the result: of its header no octet was changed, so a line of that may still be long."""
    return Body(
        size=size,
        wire_size=size,
        header_end=0,
        eight_bit=body.eight_bit and eight_bit,
        eight_bit_header=body.eight_bit_header,
        long_lines=body.long_lines,
        canonical=True,
    )


def _recast_whole(body: Body, raw: bytes, eight_bit: bool) -> bytes | None:
    return recast(whole(replace(body, long_lines=False), raw, stuffed=False), eight_bit=eight_bit)


async def _recast_file(load: Load, bodies: Bodies, *, eight_bit: bool) -> BinaryIO | None:
    with bodies.scratch() as content:
        await _write(load, bodies, content)
        result = bodies.scratch()
        try:
            patience = STARTING + load.delivery.body.size / SLOWEST
            code = await _run(content, result, patience, eight_bit=eight_bit)
            if code not in (0, IMPOSSIBLE):
                raise OSError(f"the process that re-encodes it ended with {code}")
        except BaseException:
            result.close()
            raise
        if code == 0:
            return result
        result.close()
        return None


async def _write(load: Load, bodies: Bodies, content: BinaryIO) -> None:
    encoder = Encoder(replace(load.delivery.body, long_lines=False), stuffed=False)
    async for chunk in bodies.chunks(load.delivery):
        await asyncio.to_thread(content.write, encoder.feed(chunk))
    await asyncio.to_thread(content.write, encoder.finish())
    if encoder.octets != load.delivery.body.size:
        raise OSError("not the file that was accepted")
    await asyncio.to_thread(content.seek, 0)


async def _run(content: BinaryIO, result: BinaryIO, patience: float, *, eight_bit: bool) -> int:
    """Run recast.py as a program; return its exit code.

    Raises:
        OSError: it did not end in `patience` seconds.
    """
    words = ["8bit"] if eight_bit else []
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "relayd.relay.recast", *words, stdin=content, stdout=result, stderr=subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(patience):
            return await process.wait()
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise OSError(f"the process that re-encodes it did not end in {patience:g} s") from None
        raise
