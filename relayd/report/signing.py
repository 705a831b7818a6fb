"""The signature of a report by mail (RFC 6376), without which its receiver must ignore it (RFC 8460 section 3).

dkimpy signs; it is imported when the first report is.
"""

from __future__ import annotations

from functools import partial

from relayd.report.mail import Sign
from relayd.report.settings import DkimKey

_SIGNED = (  # all that we write; RFC 8460 section 5.3 wants its own two among them
    *(b"from", b"to", b"date", b"subject", b"message-id", b"mime-version", b"content-type"),
    *(b"tls-report-domain", b"tls-report-submitter", b"tls-required", b"auto-submitted"),
)


def signer(key: DkimKey | None, domain: str) -> Sign:
    """Return what signs for `domain`; without a key, what does not."""
    if key is None:
        return _unsigned
    return partial(_signed, key=key, domain=domain)


def _unsigned(mail: bytes) -> bytes:
    return b""


def _signed(mail: bytes, *, key: DkimKey, domain: str) -> bytes:
    """No `l=`, which RFC 8460 section 3 forbids."""
    import dkim

    field: bytes = dkim.sign(
        mail,
        key.selector.encode("ascii"),
        domain.encode("ascii"),
        key.pem,
        canonicalize=(b"relaxed", b"relaxed"),
        include_headers=list(_SIGNED),
    )
    return field
