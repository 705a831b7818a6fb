"""A token server of OAuth 2.0 (RFC 6749) that does as it is told, over real HTTPS.

It gives out `token-1-...`, `token-2-...` and so on; what is in `script` is answered first, in order.
"""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from tests.support.https import HttpsServer

PATH = "/token"


class TokenServer(HttpsServer):
    """See the module.  `requested` has the form of each request; `rotating`: each answer replaces the refresh token."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__(context)
        self.answers[PATH] = self._answer
        self.script: list[tuple[int, dict[str, Any]]] = []
        self.expires_in = 3600
        self.rotating = False
        self.refresh_token: str | None = None  # the one that is good; None: any is
        self.given: list[str] = []

    @property
    def requested(self) -> list[dict[str, str]]:
        return [dict(parse_qsl(request.body.decode())) for request in self.requests]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self.script:
            status, members = self.script.pop(0)
            return web.json_response(members, status=status)
        shown = self.requested[-1].get("refresh_token")
        if self.refresh_token not in (None, shown):
            detail = f"Token has been expired or revoked: {shown}"
            return web.json_response({"error": "invalid_grant", "error_description": detail}, status=400)
        self.given.append(f"token-{len(self.given) + 1}-of-the-server")
        members = {"access_token": self.given[-1], "token_type": "Bearer", "expires_in": self.expires_in}
        if self.rotating:
            self.refresh_token = f"refresh-{len(self.given) + 1}-of-the-server"
            members["refresh_token"] = self.refresh_token
        return web.json_response(members)
