"""What it costs that a message crosses to a worker and its outcome back: microseconds of CPU on each side.

    python -m benchmarks.crossing

Batches of deliveries with one recipient each are packed, marshalled, and rebuilt; then their attempts, in frames of
`--gathered`, as a busy loop gathers them, and the word that each is durable.  Beside it, a delivery by pickle.
No sockets: a frame's two system calls are shared by all that is in it.  The least of three runs.
"""

from __future__ import annotations

import argparse
import marshal
import pickle
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from relayd.mail.address import Address
from relayd.mail.attempt import Attempt
from relayd.mail.delivery import Delivery
from relayd.mail.message import Body, new_id
from relayd.mail.outcome import Delivered
from relayd.mail.recipient import Recipient
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.mail.tls import Evidence, Proof
from relayd.workers import codec, messages

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
RUNS = 3


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=100, help="deliveries in one run of a relayer")
    parser.add_argument("--gathered", type=int, default=16, help="outcomes in one frame")
    parser.add_argument("--quick", action="store_true", help="2,000 messages")
    words = parser.parse_args()
    count = 2_000 if words.quick else words.messages
    batches = [[_delivery(number) for number in range(words.batch)] for _ in range(max(count // words.batch, 1))]
    attempts = [_attempt(each) for batch in batches for each in batch]
    frames = [attempts[at : at + words.gathered] for at in range(0, len(attempts), words.gathered)]
    print(f"{'microseconds for each message':40} {'daemon':>8} {'worker':>8} {'octets':>8}")
    _line("the delivery", batches, _out_packed, lambda frame: [codec.delivery_of(each) for each in frame], down=True)
    _line("the delivery, by pickle", batches, list, list, down=True, by=pickle)
    _line("its outcome", frames, _back_packed, _rebuilt, down=False)
    _line("that it is durable", frames, _recorded, list, down=True)


def _out_packed(batch: Sequence[Delivery]) -> list[codec.Packed]:
    return [codec.pack_delivery(each) for each in batch]


def _back_packed(frame: Sequence[Attempt]) -> list[codec.Packed]:
    return [(messages.SETTLED, 7, 7, 7, codec.pack_attempt(each)) for each in frame]


def _rebuilt(frame: Sequence[codec.Packed]) -> list[Any]:
    return [codec.attempt_of(packed, KEPT) for _, _, _, _, packed in frame]


def _recorded(frame: Sequence[Attempt]) -> list[codec.Packed]:
    return [(messages.RECORDED, number) for number in range(len(frame))]


def _line(
    what: str,
    frames: Sequence[Sequence[Any]],
    pack: Callable[[Any], list[Any]],
    unpack: Callable[[Any], list[Any]],
    *,
    down: bool,
    by: Any = marshal,
) -> None:
    """Print what one kind of message costs; `down` is from the daemon to a worker."""
    count = sum(map(len, frames))
    octets = [by.dumps(pack(frame)) for frame in frames]
    sending = _least(lambda: [by.dumps(pack(frame)) for frame in frames]) / count
    receiving = _least(lambda: [unpack(by.loads(each)) for each in octets]) / count
    daemon, worker = (sending, receiving) if down else (receiving, sending)
    print(f"{what:40} {daemon * 1e6:8.2f} {worker * 1e6:8.2f} {sum(map(len, octets)) / count:8.0f}")


def _least(work: Callable[[], object]) -> float:
    took = []
    for _ in range(RUNS):
        began = time.process_time()
        work()
        took.append(time.process_time() - began)
    return min(took)


def _delivery(number: int) -> Delivery:
    recipient = Recipient(number=0, address=Address(f"r{number}", "example.org"))
    prefix = b"Received: by relay.example.org; Sun, 22 Nov 2026 12:00:00 +0000\r\n"
    body = Body(size=4096, wire_size=4200, header_end=300, cuts=((0, 70),), prefix=prefix, canonical=True)
    return Delivery(
        id=new_id(NOW, number),
        reverse_path=Address("ann", "example.com"),
        recipients=(recipient,),
        body=body,
        arrived=NOW,
        lease=7,
    )


def _attempt(delivery: Delivery) -> Attempt:
    reply = Reply(250, f"ok: queued as {delivery.id}", EnhancedStatus(2, 0, 0))
    return Attempt(
        delivery=delivery,
        outcomes={0: Delivered(reply)},
        ended=NOW,
        peer="mx.example.org[192.0.2.1]:25",
        tls=Evidence(version="1.3", cipher="TLS_AES_256_GCM_SHA384", proof=Proof.PKIX),
        seconds=0.25,
    )


KEPT = _delivery(0)


if __name__ == "__main__":
    main()
