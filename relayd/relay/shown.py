"""The certificates that a server has shown in a handshake, whether or not anybody vouches for them."""

from __future__ import annotations

import ssl
import sys
from typing import Any

_DER = 2  # _ssl.ENCODING_DER


class Encrypted(ssl.SSLObject):
    """A connection that knows what the server showed when the session began that it may resume: in a resumed handshake
    nothing is shown, and Python's copy of a session has lost it."""

    shown_before: tuple[bytes, ...] = ()


def chain_of(connection: ssl.SSLObject) -> tuple[bytes, ...]:
    """Return them in DER, as they came, the server's own first; empty if there were none, or it is not known.

    Public since Python 3.13; before, the object behind has the same method (since 3.10), whose results have to be asked
    for their octets.
    """
    if connection.session_reused:
        return connection.shown_before if isinstance(connection, Encrypted) else ()
    if sys.version_info >= (3, 13):
        return tuple(connection.get_unverified_chain() or ())
    inner: Any = vars(connection)["_sslobj"]
    return tuple(certificate.public_bytes(_DER) for certificate in inner.get_unverified_chain() or ())
