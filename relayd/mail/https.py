"""What an HTTPS server answered, or why it did not, as `Https` (relayd/https.py) tells it.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from relayd.mail.errors import RelaydError


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer, whatever its status.  `content_type` is the media type, lower-case and without parameters, empty if
    none was given."""

    status: int
    content_type: str
    body: bytes


class HttpsFault(Enum):
    """Why there is no answer."""

    RESOLVE = "resolve"  # the name has no address, none that may be connected to, or nobody could say
    CONNECT = "connect"  # refused, unreachable, or no TLS in common
    CERTIFICATE = "certificate"  # not by an authority that is trusted, not for this name, or out of date
    TIMEOUT = "timeout"
    TOO_LARGE = "too-large"
    PROTOCOL = "protocol"  # no HTTP, cut off, compressed though we asked for it as it is; or a URL that is none


class HttpsError(RelaydError):
    """There is no answer.  `reason` is one line, in words, which may be a hostile server's."""

    def __init__(self, kind: HttpsFault, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
