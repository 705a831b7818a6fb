"""Who may come in: by the Host that he asks for, and by the token that he shows.

Pure.  A page of a stranger can make a browser here ask for whatever it likes; so only a Host is answered that no
stranger's name can lead to (DNS rebinding): an IP address, `localhost`, or our own name.  Behind a UNIX socket no
browser comes, and whoever passes requests on may name any Host.
"""

from __future__ import annotations

import hmac
import ipaddress

from relayd.web.settings import HttpSettings


def is_ours(host: str | None, settings: HttpSettings) -> bool:
    """Whether a request with this Host is for us."""
    if settings.place is not None and settings.place.path:
        return True
    name = _without_port(host or "").lower().removesuffix(".")
    if name == "localhost" or (settings.hostname and name == settings.hostname.lower()):
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def is_known(authorization: str | None, settings: HttpSettings) -> bool:
    """Whether the header shows the token, if there is one to be shown; in a time that does not tell how near it is."""
    if not settings.token:
        return True
    scheme, _, shown = (authorization or "").partition(" ")
    given = shown.strip().encode("utf-8", "surrogateescape")
    return scheme.lower() == "bearer" and hmac.compare_digest(given, settings.token.encode())


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
