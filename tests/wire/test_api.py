"""The API of a running daemon: what is asked of the queue, what may be done to it, and by whom."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.process import Daemon, wait_until
from tests.support.world import Exchanger, World
from tests.wire.test_http import free_port

TOKEN = "open-sesame"


@pytest.fixture
def mx(world: World) -> Exchanger:
    exchanger = world.exchanger("mx.example.test")
    world.domain("example.test", exchanger)
    exchanger.on_rcpt = lambda envelope, address: "451 4.7.1 not now" if "later" in address else "250 2.1.5 ok"
    return exchanger


class Client:
    """Asks the daemon at a port."""

    def __init__(self, port: int, daemon: Daemon) -> None:
        self.port = port
        self.daemon = daemon

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any]:
        """Return the status and what JSON was answered, or the text."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            with connection.makefile("rb") as answers:
                head, _, content = answers.read().partition(b"\r\n\r\n")
        status = int(head.split()[1])
        try:
            return status, json.loads(content)
        except ValueError:
            return status, content.decode()

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        return self.ask("GET", path, b"", **headers)

    def command(self, verb: str, said: Any, token: str = TOKEN, **headers: str) -> tuple[int, Any]:
        given = {"Content_Type": "application/json", "Authorization": f"Bearer {token}", **headers}
        return self.ask("POST", f"/api/queue/{verb}", json.dumps(said).encode(), **given)


@contextmanager
def serving(world: World, *, token: bool = False, **sections: Any) -> Iterator[Client]:
    port = free_port()
    section: dict[str, Any] = {"listen": f"127.0.0.1:{port}"}
    if token:
        path = world.directory / "token"
        path.write_text(TOKEN)
        path.chmod(stat.S_IRUSR)
        section["token_file"] = str(path)
    world.configure(http=section, retry={"first": "1h", "max": "1h"}, **sections)
    with world.relaying() as daemon:
        yield Client(port, daemon)


def deferred(world: World, client: Client, name: str = "later") -> str:
    world.send(f"{name}@example.test")
    return client.daemon.logged(rf"q=(\w+) r={name}@example.test status=deferred")[1]


def test_it_answers_as_the_command_line_does(world: World, mx: Exchanger) -> None:
    with serving(world) as client:
        message = deferred(world, client)
        explained = client.get(f"/api/explain?subject={message}")[1]
        said = json.loads(world.command("explain", message, "--json").stdout)
        history = client.get("/api/history?subject=later@example.test&limit=3")[1]
        listed = client.get("/api/queue?domain=*.test&status=deferred&limit=5")[1]

        assert explained["explanations"][0]["blocked_by"] == said["explanations"][0]["blocked_by"] == "retry-time"
        assert [gate["gate"] for gate in explained["explanations"][0]["gates"]] == [
            gate["gate"] for gate in said["explanations"][0]["gates"]
        ]
        assert history == json.loads(world.command("history", "later@example.test", "--json").stdout)
        assert listed == json.loads(world.command("queue", "list", "--json").stdout)
        assert client.get("/api/queue?status=held") == (200, [])
        state = client.get("/api/state")[1]
        assert (state["why"], state["queue"]["total"]["deferred"]) == ([], 1)
        assert state["setbacks"][0]["who"] == "later@example.test"


@pytest.mark.parametrize(
    ("path", "status", "why"),
    [
        ("/api/explain", 400, "subject is missing"),
        (f"/api/explain?subject={'x' * 500}", 400, "subject is missing"),
        ("/api/explain?subject=01M8EN8NFW42WTV05MWR", 404, "no message 01M8EN8NFW42WTV05MWR"),
        ("/api/explain?subject=a%20b@example.test", 400, "local part"),
        ("/api/history?subject=nobody@example.test", 404, "no message to nobody@example.test"),
        ("/api/history?subject=a@b.test&limit=0", 400, "limit is a number from 1 to 500"),
        ("/api/queue?limit=501", 400, "limit is a number from 1 to 500"),
        ("/api/queue?size=5", 400, "no such condition: size"),
        ("/api/queue?older=4", 400, "must be a duration"),
        ("/api/queue/hold", 403, "http.token_file"),
        ("/api/nothing", 404, ""),
    ],
)
def test_what_makes_no_sense_is_answered_in_words(
    world: World, mx: Exchanger, path: str, status: int, why: str
) -> None:
    with serving(world) as client:
        answered, said = client.get(path)

    assert answered == status
    assert why in (said["error"] if isinstance(said, dict) else said)


def test_a_verb_with_the_token_is_done_at_once(world: World, mx: Exchanger) -> None:
    with serving(world, token=True) as client:
        message = deferred(world, client)
        assert client.command("hold", {"ids": [message]}) == (200, {"messages": 1})
        assert (
            client.get(f"/api/explain?subject={message}", Authorization=f"Bearer {TOKEN}")[1]["explanations"][0][
                "blocked_by"
            ]
            == "hold"
        )
        mx.on_rcpt = lambda envelope, address: "250 2.1.5 ok"
        assert client.command("release", {"ids": [message]}) == (200, {"messages": 1})
        assert client.command("retry", {"ids": [message]}) == (200, {"messages": 1})
        client.daemon.logged("r=later@example.test status=delivered")
        assert client.command("retry", {"ids": [message]})[0] == 404


@pytest.mark.parametrize(
    ("verb", "said", "headers", "status"),
    [
        ("hold", {"ids": ["x"]}, {"Authorization": "Bearer wrong"}, 401),
        ("hold", {"ids": ["x"]}, {"Content_Type": "text/plain"}, 415),
        ("hold", {"ids": []}, {}, 400),
        ("hold", {"ids": "x"}, {}, 400),
        ("hold", {"ids": ["x"] * 501}, {}, 400),
        ("hold", ["x"], {}, 400),
        ("hold", {"ids": ["x"], "route": "y"}, {}, 400),
        ("redirect", {"ids": ["x"]}, {}, 400),
        ("redirect", {"ids": ["x"], "route": "nowhere"}, {}, 404),
        ("explode", {"ids": ["x"]}, {}, 404),
    ],
    ids=["token", "type", "none", "no list", "too many", "no object", "route", "no route", "unknown route", "verb"],
)
def test_a_command_that_is_none_changes_nothing(
    world: World, mx: Exchanger, verb: str, said: Any, headers: dict[str, str], status: int
) -> None:
    with serving(world, token=True) as client:
        assert client.command(verb, said, **headers)[0] == status


def test_without_a_token_configured_nobody_may_change_anything(world: World, mx: Exchanger) -> None:
    with serving(world) as client:
        message = deferred(world, client)
        status, why = client.command("remove", {"ids": [message]})

        assert status == 403
        assert "http.token_file" in why
        assert len(world.queue()) == 1


def test_the_page_is_one_document_that_lets_nothing_else_in(world: World, mx: Exchanger) -> None:
    with serving(world, token=True) as client:
        with socket.create_connection(("127.0.0.1", client.port), timeout=20) as connection:
            connection.sendall(f"GET / HTTP/1.1\r\nHost: localhost:{client.port}\r\nConnection: close\r\n\r\n".encode())
            with connection.makefile("rb") as answers:
                head, _, page = answers.read().decode().partition("\r\n\r\n")
        assert client.get("/api/state")[0] == 401

    assert "200 OK" in head
    assert "default-src 'none'" in head
    assert "unsafe" not in head
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page


async def read_events(port: int, count: int) -> list[tuple[str, Any]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /api/events HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
    events: list[tuple[str, Any]] = []
    name = ""
    while len(events) < count:
        line = (await asyncio.wait_for(reader.readline(), 20)).decode().strip()
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            events.append((name, json.loads(line.removeprefix("data: "))))
    writer.close()
    return events


async def test_the_stream_begins_with_the_past_and_goes_on(world: World, mx: Exchanger) -> None:
    with serving(world) as client:
        client.daemon.logged("event=started")
        world.send("bob@example.test")
        (past, first), (now, second), (again, third) = await read_events(client.port, 3)

    assert (past, now, again) == ("past", "now", "now")
    assert set(first["samples"]) == {*second["sample"]}
    assert second["at"] <= third["at"]
    assert third["totals"]["delivered_total"] == 1


async def test_who_does_not_read_costs_no_memory_and_harms_nobody(world: World, mx: Exchanger) -> None:
    with serving(world) as client:
        client.daemon.logged("event=started")
        deaf = []
        for _ in range(20):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            connection.connect(("127.0.0.1", client.port))
            connection.sendall(f"GET /api/events HTTP/1.1\r\nHost: localhost:{client.port}\r\n\r\n".encode())
            deaf.append(connection)
        began = time.monotonic()
        events = await read_events(client.port, 4)
        assert len(events) == 4
        assert time.monotonic() - began < 15
        world.send("bob@example.test")
        client.daemon.logged("r=bob@example.test status=delivered")
        for connection in deaf:
            connection.close()
        wait_until(lambda: client.get("/api/state")[0] == 200, "an answer")
