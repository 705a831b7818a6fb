"""What an attempt changes in the queue, and whom that obliges us to tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from relayd.mail.address import Address
from relayd.mail.attempt import Tried
from relayd.mail.deadline import Deadline
from relayd.mail.delivery import Delivery
from relayd.mail.message import Body
from relayd.mail.recipient import Recipient
from relayd.mail.tls import TlsWish


class Action(Enum):
    """What a notification says of a recipient (RFC 3464 section 2.3.3)."""

    FAILED = "failed"
    DELAYED = "delayed"
    RELAYED = "relayed"  # passed on to a server that may not tell of what becomes of it, as it was asked to


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """A delivery's recipients as they stand after an attempt.

    `notices` says, by number, of which recipients the sender must be told what; the queue keeps that in the same
    commit, so that each notification is made exactly once.  `tried` is what is to be remembered of the attempt, if it
    was one.
    """

    delivery: Delivery
    recipients: tuple[Recipient, ...]
    notices: Mapping[int, Action] = field(default_factory=dict)
    tried: Tried | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A notification that is owed: one for each message and action.  `id` is the queue id it will have, fixed when
    the debt was recorded, so that making it twice makes the same one."""

    id: str
    action: Action
    message_id: str
    reverse_path: Address
    recipients: tuple[Recipient, ...]
    body: Body
    arrived: datetime
    ret: str | None = None
    envid: str | None = None
    deadline: Deadline | None = None
    tls: TlsWish = TlsWish.POLICY
