"""All that the server shows, put together."""

from __future__ import annotations

from relayd.mail.events import Events
from relayd.web.api import Api, Desk
from relayd.web.page import page_routes
from relayd.web.ports import Machine
from relayd.web.server import HttpServer, machine_routes
from relayd.web.settings import HttpSettings
from relayd.web.status import Stream

__all__ = ["Stream", "site"]


def site(settings: HttpSettings, machine: Machine, stream: Stream, desk: Desk, events: Events) -> HttpServer:
    """Return the server."""
    routes = (*page_routes(), *machine_routes(machine), *stream.routes(), *Api(desk).routes())
    return HttpServer(settings, routes, events)
