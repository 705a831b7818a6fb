"""What the tokens need of others.  The daemon fills these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from relayd.mail.https import Response

ReadSecret = Callable[[Path], str]  # raises OSError and ValueError: it cannot be read, or should not be used


class Poster(Protocol):
    """Asks HTTPS servers: relayd/https.py."""

    async def post(
        self,
        url: str,
        body: bytes,
        *,
        content_type: str,
        timeout: timedelta,
        limit: int,
        headers: Mapping[str, str] | None = None,
        configured: bool = False,
    ) -> Response:
        """Send `body` to `url` and return the answer, whatever its status, of at most `limit` octets.

        Raises:
            HttpsError: there is no answer.
        """
