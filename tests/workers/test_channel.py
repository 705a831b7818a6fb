"""The channel between the daemon and a worker, on real socket pairs and both event loops."""

from __future__ import annotations

import asyncio
import marshal
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from relayd.workers.channel import MAX_FRAME, Channel, Message
from tests.relay.kit import on, until

BIG = ("big", b"x" * 3_000_000)


class End:
    """One end, and what it was told."""

    def __init__(self) -> None:
        self.frames: list[Sequence[Message]] = []
        self.lost = 0
        self.channel = Channel(self._received, self._lost)

    def _received(self, told: Sequence[Message]) -> None:
        assert not self.lost
        self.frames.append(told)

    def _lost(self) -> None:
        self.lost += 1

    @property
    def messages(self) -> list[Message]:
        return [message for frame in self.frames for message in frame]


async def joined() -> tuple[End, End]:
    ends = End(), End()
    for end, sock in zip(ends, socket.socketpair(), strict=True):
        await end.channel.open(sock)
    return ends


Story = Callable[[End, End], Awaitable[None]]


async def told(story: Story) -> None:
    ours, theirs = await joined()
    try:
        await story(ours, theirs)
    finally:
        ours.channel.close()
        theirs.channel.close()
        await until(lambda: ours.lost and theirs.lost)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
class TestBetweenTwoEnds:
    def test_what_is_sent_in_one_turn_arrives_in_one_frame_in_order(self, loop: str) -> None:
        async def story(ours: End, theirs: End) -> None:
            for number in range(100):
                ours.channel.send(("n", number, None, True, 0.5, "ü\udc80", b"\0", (1, [2]), {3: "x"}))
            await until(lambda: theirs.frames)
            theirs.channel.send(("back",))
            await until(lambda: ours.frames)

            assert [len(frame) for frame in theirs.frames] == [100]
            assert theirs.messages[7] == ("n", 7, None, True, 0.5, "ü\udc80", b"\0", (1, [2]), {3: "x"})
            assert [message[1] for message in theirs.messages] == list(range(100))
            assert ours.messages == [("back",)]

        on(loop, told(story))

    def test_a_frame_may_be_larger_than_what_the_kernel_takes_at_once(self, loop: str) -> None:
        async def story(ours: End, theirs: End) -> None:
            ours.channel.send(BIG)
            ours.channel.send(("after",))
            await until(lambda: theirs.messages)

            assert theirs.messages == [BIG, ("after",)]

        on(loop, told(story))

    def test_while_the_other_side_does_not_read_messages_gather_into_one_frame(self, loop: str) -> None:
        async def story(ours: End, theirs: End) -> None:
            reading: Any = theirs.channel._transport
            reading.pause_reading()
            ours.channel.send(BIG)
            await until(lambda: ours.channel.behind)
            for number in range(50):
                ours.channel.send(("n", number))
                await asyncio.sleep(0)
            reading.resume_reading()
            await until(lambda: len(theirs.messages) == 51)

            assert [len(frame) for frame in theirs.frames] == [1, 50]
            assert not ours.channel.behind

        on(loop, told(story))

    def test_what_was_sent_before_the_end_is_told_before_the_end_is(self, loop: str) -> None:
        async def story(ours: End, theirs: End) -> None:
            ours.channel.send(BIG)
            ours.channel.send(("last",))
            ours.channel.close()
            await until(lambda: theirs.lost)

            assert theirs.messages == [BIG, ("last",)]
            assert theirs.lost == 1

        on(loop, told(story))

    def test_after_the_end_nothing_is_kept_or_sent(self, loop: str) -> None:
        async def story(ours: End, theirs: End) -> None:
            theirs.channel.close()
            await until(lambda: ours.lost)
            ours.channel.send(("late",))
            await asyncio.sleep(0)

            assert ours.channel._waiting == []
            assert ours.lost == 1

        on(loop, told(story))

    def test_a_message_that_cannot_cross_ends_the_channel_for_its_answer_would_never_come(self, loop: str) -> None:
        async def story(ours: End, theirs: End) -> None:
            complaints: list[dict[str, Any]] = []
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
            ours.channel.send((object(),))
            await until(lambda: ours.lost and theirs.lost)

            assert [type(each["exception"]) for each in complaints] == [ValueError]
            assert theirs.messages == []

        on(loop, told(story))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("size", [1, 3, 5, 1000])
def test_frames_are_put_together_from_any_pieces(loop: str, size: int) -> None:
    async def story() -> None:
        ours, theirs = socket.socketpair()
        end = End()
        await end.channel.open(ours)
        frames: list[list[tuple[Any, ...]]] = [[("a", 1)], [("b", "x" * 100), ("c",)], []]
        octets = b"".join(len(each).to_bytes(4, "big") + each for each in [marshal.dumps(frame) for frame in frames])
        for start in range(0, len(octets), size):
            theirs.send(octets[start : start + size])
            await asyncio.sleep(0)
        await until(lambda: len(end.frames) == 3)
        theirs.close()
        await until(lambda: end.lost)

        assert end.frames == frames

    on(loop, story())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_length_that_cannot_be_ends_the_channel(loop: str) -> None:
    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        ours, theirs = socket.socketpair()
        end = End()
        await end.channel.open(ours)
        theirs.send((MAX_FRAME + 1).to_bytes(4, "big"))
        await until(lambda: end.lost)

        assert end.frames == []
        theirs.close()

    on(loop, story())
