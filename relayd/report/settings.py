"""What the reports are to say of us, and how they are signed."""

from __future__ import annotations

from dataclasses import dataclass, field

from relayd.mail.address import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class DkimKey:
    """To sign with (RFC 6376): an RSA key in PEM, never shown, and the selector that its public half is found by."""

    pem: bytes = field(repr=False)
    selector: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSettings:
    """Who reports.  `hostname` is this machine's; `contact` and `sender`, of the same domain, are mailboxes of those
    who answer for the reports, as the document has it and as their mail has it."""

    hostname: str
    organization: str
    contact: Address
    sender: Address
    dkim: DkimKey | None = None
