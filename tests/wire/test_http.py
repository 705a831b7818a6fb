"""[http] of the running daemon: a scrape after real deliveries, health as it goes; mail does not depend on it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.process import wait_until
from tests.support.world import Exchanger, World, with_and_without_workers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Page:
    """What the daemon serves at a port."""

    def __init__(self, world: World, **settings: Any) -> None:
        self.port = free_port()
        self._world = world
        self._settings = settings
        self.section = {"listen": f"127.0.0.1:{self.port}"}
        world.configure(http=self.section, **settings)

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def health(self) -> tuple[int, list[str]]:
        status, text = self.get("/healthz")
        return status, json.loads(text)["why"]

    def samples(self) -> dict[str, float]:
        """Return what a scrape has, by names and labels."""
        status, text = self.get("/metrics")
        assert status == 200
        return {
            sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture
def mx(world: World) -> Exchanger:
    exchanger = world.exchanger("mx.example.test")
    world.domain("example.test", exchanger)
    return exchanger


@with_and_without_workers
def test_a_scrape_tells_what_was_done_and_how_long_each_part_of_it_took(world: World) -> None:
    mx, dead = world.exchanger("mx.example.test"), world.exchanger("mx.dead.test", alive=False)
    world.domain("example.test", mx)
    world.domain("dead.test", dead)
    mx.on_rcpt = lambda envelope, address: "550 5.1.1 who?" if address.startswith("eve") else "250 ok"
    page = Page(world, retry={"first": "1h", "max": "1h"})

    with world.relaying() as daemon:
        world.send("bob@example.test", "eve@example.test")
        world.send("carl@dead.test")
        daemon.logged("event=site-backs-off")
        daemon.logged("r=ann@sender.test status=")  # the bounce has no route
        daemon.logged("r=bob@example.test status=delivered")
        wait_until(lambda: page.samples().get("relayd_smtp_wait_seconds_count phase=final"), "the end of a run")
        found = page.samples()

    assert found["relayd_outcomes_total class=2 outcome=delivered subject=0"] == 1
    assert found["relayd_outcomes_total class=5 outcome=failed subject=1"] >= 1
    assert found["relayd_outcomes_total class=4 outcome=deferred subject=4"] >= 1
    assert found["relayd_delivered_total"] == found["relayd_delivery_age_seconds_count"] == 1
    for phase in ("greeting", "ehlo", "mail", "final"):
        assert found[f"relayd_smtp_wait_seconds_count phase={phase}"] >= 1, phase
    assert found["relayd_smtp_wait_seconds_count phase=connect"] >= 2
    assert found["relayd_smtp_connections_total policy=opportunistic proof=none version=none"] == 1
    assert found["relayd_dns_queries_total kind=MX result=found"] >= 2
    assert found["relayd_commit_jobs_count"] >= 2
    assert 0 < found["relayd_site_back_off_seconds site=" + site_of(found, "mx.dead.test")] <= 3600
    assert found["relayd_queue_recipients age=5 status=deferred"] == 1
    assert (found["relayd_healthy"], found["relayd_sites_backing_off"]) == (1, 1)
    assert found["relayd_workers"] == found["relayd_workers_wanted"] == world.processes
    assert found["relayd_stuck_seconds"] == 0
    assert found["process_resident_memory_bytes"] > 0


def site_of(found: dict[str, float], name: str) -> str:
    return next(key.partition("site=")[2] for key in found if key.startswith(f"relayd_site_window site={name}"))


def test_health_follows_what_happens(world: World, mx: Exchanger) -> None:
    page = Page(world)
    mx.on_data = lambda envelope, address: "451 4.3.0 later"

    with world.relaying() as daemon:
        assert page.health() == (200, [])
        assert page.get("/readyz") == (200, '{"ready": true, "why": []}\n')
        world.send("bob@example.test")
        daemon.logged("status=deferred")
        assert page.health() == (200, [])  # that is the other side's

        (world.spool / "queue").rename(world.spool / "elsewhere")
        status, why = page.health()
        assert (status, why[-1]) == (503, "the spool cannot be written: No such file or directory")
        (world.spool / "elsewhere").rename(world.spool / "queue")
        wait_until(lambda: page.health() == (200, []), "that it recovers")


def test_while_it_stops_it_says_so(world: World, mx: Exchanger) -> None:
    page = Page(world)
    stalled = []

    def stall(envelope: object, address: str) -> str:
        stalled.append(address)
        wait_until(lambda: page.get("/readyz")[0] == 503, "that it is stopping")
        return "250 2.0.0 taken"

    mx.on_data = lambda envelope, address: in_thread(stall, envelope, address)
    with world.relaying() as daemon:
        world.send("bob@example.test")
        wait_until(lambda: stalled, "the message")
        daemon.terminate()
        wait_until(lambda: page.get("/healthz") == (503, '{"healthy": false, "why": ["relayd is stopping"]}\n'), "that")
        assert page.get("/readyz")[0] == 503


async def in_thread(function: Any, *arguments: Any) -> str:
    answer: str = await asyncio.to_thread(function, *arguments)
    return answer


def test_a_port_in_use_keeps_no_mail_waiting_and_is_had_later(world: World, mx: Exchanger) -> None:
    page = Page(world)
    with socket.socket() as other:
        other.bind(("127.0.0.1", page.port))
        other.listen()
        with world.relaying() as daemon:
            daemon.logged(f'event=degraded part=http reason="127.0.0.1:{page.port}: Address already in use"')
            world.send("bob@example.test")
            wait_until(lambda: mx.taken, "mail")
            assert "http" in world.command("doctor").stdout

            other.close()
            daemon.logged("event=restored part=http")
            assert page.health() == (200, [])


def test_a_reload_turns_it_on_moves_it_and_turns_it_off(world: World, mx: Exchanger) -> None:
    world.configure()
    with world.relaying() as daemon:
        page = Page(world)
        daemon.reload()
        wait_until(lambda: answers(page), "that it is on")
        world.send("bob@example.test")
        wait_until(lambda: page.samples()["relayd_delivered_total"] == 1, "the figure")

        before, page = page, Page(world)
        daemon.reload()
        wait_until(lambda: answers(page), "that it has moved")
        assert not answers(before)
        assert page.samples()["relayd_delivery_age_seconds_count"] == 1

        world.configure()
        daemon.reload()
        wait_until(lambda: not answers(page), "that it is off")


def answers(page: Page) -> bool:
    try:
        return page.get("/readyz")[0] == 200
    except OSError:
        return False


def test_with_a_token_only_who_shows_it_learns_anything(world: World, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hush\n")
    token.chmod(0o400)
    page = Page(world)
    page.section["token_file"] = str(token)
    world.configure(http=page.section)

    with world.relaying() as daemon:
        assert page.get("/metrics")[0] == 401
        assert page.get("/metrics", Authorization="Bearer hush")[0] == 200
        assert page.get("/healthz") == (200, '{"healthy": true}\n')

        token.chmod(0o600)
        token.write_text("other\n")
        daemon.reload()
        wait_until(lambda: page.get("/metrics", Authorization="Bearer other")[0] == 200, "the other token")
        assert page.get("/metrics", Authorization="Bearer hush")[0] == 401
        assert "hush" not in daemon.log


def test_a_unix_socket_that_a_killed_daemon_left_is_taken_over(world: World, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    world.configure(http={"listen": f"unix:{path}"})
    with world.daemon() as killed:
        killed.ready()
        killed.kill()
    assert path.exists()

    with world.relaying():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: any.example\r\nConnection: close\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")

    assert not path.exists()


def test_without_http_nothing_of_it_is_loaded(world: World) -> None:
    """aiohttp and prometheus_client cost memory and time at the start; who has no use for them pays nothing."""
    world.configure()
    with world.relaying() as daemon:
        mapped = Path(f"/proc/{daemon.pid}/maps").read_text()

    assert "uvloop" in mapped
    assert "aiohttp" not in mapped


def test_once_ends_though_the_page_is_open(world: World, mx: Exchanger) -> None:
    page = Page(world)
    world.send("bob@example.test")

    done = subprocess.run(
        world.daemon("--once").command, capture_output=True, text=True, timeout=60, check=False, env=os.environ
    )

    assert done.returncode == 0, done.stderr
    assert len(mx.taken) == 1
    assert not answers(page)
