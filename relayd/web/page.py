"""The status page: one document with its style and its program inside, and nothing from anywhere else.

Its policy lets nothing run or load but these, by their digests (Content Security Policy, level 2).  It has no secret in
it, so whoever may connect may load it; what it shows is asked for with the token, where there is one.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib.resources import files

from aiohttp import web

from relayd.web.ports import Route


def page_routes() -> tuple[Route, ...]:
    """Return where the page is."""
    document, policy = page()

    async def shown(request: web.Request, known: bool) -> web.Response:
        return web.Response(
            body=document, headers={"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy}
        )

    return (Route("/", shown, open=True),)


def page() -> tuple[bytes, str]:
    """Return the document, and its policy."""
    style, program, document = (_part(name) for name in ("page.css", "page.js", "page.html"))
    whole = document.replace("/*STYLE*/", style).replace("/*PROGRAM*/", program)
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(program)}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return whole.encode(), policy


def _part(name: str) -> str:
    return (files("relayd.web") / name).read_text("utf-8")


def _digest(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
