"""What an enhanced status code means, in plain words for who sent a message (RFC 3463 and its registry, RFC 5248).

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

_MEANINGS: Mapping[str, str] = {  # by subject and detail, whatever the class
    "1.0": "There is something wrong with the address.",
    "1.1": "There is no such mailbox.",
    "1.2": "There is no mail system at this domain.",
    "1.3": "The address is not written as the server wants it.",
    "1.6": "The mailbox has moved, and nobody says where to.",
    "1.7": "The server does not take mail from the sender's address.",
    "1.8": "The server does not believe the sender's domain.",
    "1.10": "The domain says that it takes no mail at all.",
    "2.0": "There is something wrong with the mailbox.",
    "2.1": "The mailbox is disabled, or takes no mail now.",
    "2.2": "The mailbox is full.",
    "2.3": "The message is larger than this mailbox may take.",
    "3.1": "The server's disk is full.",
    "3.2": "The server takes no mail now.",
    "3.4": "The message is larger than the server takes.",
    "4.1": "The server could not be reached.",
    "4.2": "The connection to the server broke off.",
    "4.3": "The domain could not be looked up.",
    "4.4": "No way to the domain was found.",
    "4.6": "The mail would go in a circle.",
    "4.7": "It could not be delivered in time.",
    "5.3": "There were too many recipients at once.",
    "6.3": "The server cannot take what is in the message, and it cannot be changed.",
    "6.7": "The server cannot take addresses that are not of ASCII letters.",
    "7.0": "The server refuses the message, for a reason of its own.",
    "7.1": "The server refuses the message, for a reason of its own.",
    "7.4": "The connection could not be made as secure as it has to be.",
    "7.5": "The connection could not be made as secure as it has to be.",
    "7.8": "The server did not accept our name and password.",
    "7.10": "The connection could not be made as secure as it has to be.",
    "7.23": "The server says that we may not send for the sender's domain (SPF).",
    "7.25": "The server refuses us, since our address has no name.",
    "7.26": "The server says that the message does not prove who sent it (SPF, DKIM).",
    "7.27": "The sender's domain says that it takes no mail, so the server does not believe it.",
}


def meaning(status: str) -> str:
    """Return a sentence for `4.2.2`; empty for what has none, or is no status."""
    return _MEANINGS.get(status.partition(".")[2], "")
