"""One message's due recipients at one site: the unit given to a relayer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from relayd.mail.address import Address
from relayd.mail.deadline import Deadline
from relayd.mail.message import Body
from relayd.mail.recipient import Recipient
from relayd.mail.tls import TlsWish


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A claimed piece of work.  `lease` is the number of the queue's lease that covers it."""

    id: str
    reverse_path: Address | None
    recipients: tuple[Recipient, ...]
    body: Body
    arrived: datetime
    lease: int
    ret: str | None = None
    envid: str | None = None
    notification: bool = False
    deadline: Deadline | None = None
    tls: TlsWish = TlsWish.POLICY
