"""What an operator decides about a route's tokens.

Plain values: the configuration is read elsewhere.  What is secret is never shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path


class ClientAuth(Enum):
    """How the client proves itself to the token server (RFC 6749 section 2.3.1)."""

    BODY = "body"
    BASIC = "basic"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRule:
    """One [[route]]'s: whom to ask for tokens, and by what right.

    With a `refresh_token` by that (RFC 6749 section 6), else as the client itself (section 4.4).  The files are where
    the secrets came from; a refresh token that the server replaces is written to its.
    """

    route: str
    url: str
    client_id: str
    client_secret: str = field(default="", repr=False)
    client_secret_file: str = ""
    client_auth: ClientAuth = ClientAuth.BODY
    refresh_token: str = field(default="", repr=False)
    refresh_token_file: Path | None = None
    scope: str = ""

    @property
    def site(self) -> str:
        """The key of the route's site."""
        return f"route:{self.route}"
