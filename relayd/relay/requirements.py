"""What a message needs that a server does not offer: found before anything is sent.

Pure.  RFC 1870 section 6.1 (size), RFC 6152 section 3 (8-bit), RFC 6531 section 3.2 (UTF-8 in addresses and header),
RFC 2852 section 4.1.4 (deadlines), RFC 8689 section 4.2.1 (REQUIRETLS).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from relayd.mail.deadline import Deadline, DeadlineMode
from relayd.mail.delivery import Delivery
from relayd.mail.outcome import Failed, Scope
from relayd.mail.recipient import Recipient
from relayd.mail.reply import EnhancedStatus
from relayd.mail.tls import TlsWish
from relayd.relay.capabilities import Capabilities
from relayd.relay.commands import needs_smtputf8
from relayd.relay.transaction import Load

TOO_LARGE = EnhancedStatus(5, 3, 4)
CONVERSION_REQUIRED = EnhancedStatus(5, 6, 3)
ADDRESS_NEEDS_UTF8 = EnhancedStatus(5, 6, 7)  # RFC 6531 section 3.5
HEADER_NEEDS_UTF8 = EnhancedStatus(5, 6, 9)
TOO_LATE = EnhancedStatus(5, 4, 7)  # RFC 3463 section 3.5: delivery time expired
REQUIRETLS_NEEDED = EnhancedStatus(5, 7, 30)  # RFC 8689 section 8.2
BAD_ADDRESS = EnhancedStatus(5, 1, 3)
BAD_SENDER = EnhancedStatus(5, 1, 7)


def needs_requiretls(delivery: Delivery) -> bool:
    """Whether the message may go only to a server with REQUIRETLS.  A notification goes to others as well, so that it
    is not lost (RFC 8689 section 5)."""
    return delivery.tls is TlsWish.REQUIRED and delivery.reverse_path is not None


def wants_smtputf8(delivery: Delivery) -> bool:
    """Whether all of it, every recipient included, can go only to a server with SMTPUTF8."""
    return needs_smtputf8(delivery) or any(one.address.smtputf8 for one in delivery.recipients)


def obstacle(load: Load, capabilities: Capabilities) -> Failed | None:
    """Return why this server cannot take the message at all, None if it can."""
    delivery, body = load.delivery, load.body
    if capabilities.size is not None and body.wire_size > capabilities.size:
        reason = f"the message has {body.wire_size} octets, the server takes {capabilities.size}"
        return Failed(reason=reason, status=TOO_LARGE)
    if not capabilities.smtputf8 and needs_smtputf8(delivery):
        sender = delivery.reverse_path
        if sender is not None and sender.smtputf8:
            return Failed(
                reason="the sender's address needs SMTPUTF8, which the server lacks", status=ADDRESS_NEEDS_UTF8
            )
        return Failed(reason="the message's header needs SMTPUTF8, which the server lacks", status=HEADER_NEEDS_UTF8)
    if needs_requiretls(delivery) and not capabilities.require_tls:
        return Failed(reason="the message has REQUIRETLS, which the server lacks", status=REQUIRETLS_NEEDED)
    if body.eight_bit and not capabilities.eight_bit_mime:
        reason = "the message has octets above 127, and the server lacks 8BITMIME"
        return Failed(reason=reason, status=CONVERSION_REQUIRED)
    return None


def unnameable(recipients: Iterable[Recipient]) -> dict[int, Failed]:
    """Return, by number, the recipients that cannot be named to a server without SMTPUTF8."""
    outcome = Failed(
        scope=Scope.RECIPIENT, reason="the address needs SMTPUTF8, which the server lacks", status=ADDRESS_NEEDS_UTF8
    )
    return {one.number: outcome for one in recipients if one.address.smtputf8}


def unpromising(delivery: Delivery, capabilities: Capabilities, now: datetime) -> Failed | None:
    """Return why a message must not be given to a server that does not promise to keep to its deadline, None if the
    server does, or need not."""
    deadline = delivery.deadline
    if deadline is None or deadline.mode is not DeadlineMode.RETURN:
        return None
    if not capabilities.deliver_by:
        return Failed(reason="the message has a deadline (BY, mode R), and the server lacks DELIVERBY", status=TOO_LATE)
    left, least = deadline.left(now), max(capabilities.deliver_by_min, 1)
    if left < least:
        reason = f"the message must be delivered in {left} seconds, and the server wants {least}"
        return Failed(reason=reason, status=TOO_LATE)
    return None


def too_late(delivery: Delivery, capabilities: Capabilities, now: datetime) -> Failed | None:
    """Return why a message cannot be delivered in time by this server any more, None if it can."""
    deadline = delivery.deadline
    if deadline is not None and deadline.over(now):
        return missed(deadline)
    return unpromising(delivery, capabilities, now)


def missed(deadline: Deadline) -> Failed:
    """Return the outcome of what was not tried because its deadline had passed."""
    return Failed(reason=deadline.missed(""), status=TOO_LATE)
