"""`relayd route` and `relayd probe`, from the command line: what they say of a way, and that probing sends nothing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.smtp import Answer, Authority, Script, ScriptedServer, serving
from tests.support.world import World

TLS = "250-mx.test\n250-PIPELINING\n250-SIZE 1000000\n250-8BITMIME\n250-CHUNKING\n250 STARTTLS"
MX = "mx.example.test"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@contextmanager
def an_exchanger(world: World, authority: Authority, name: str = MX, **replies: Script) -> Iterator[ScriptedServer]:
    """The mail exchanger of example.test, with a certificate for `name`; the route `smart` leads to it, too."""
    server = ScriptedServer({"EHLO": TLS, **replies}, tls=authority.server(name))
    with serving(world.run, server):
        world.dns.a(MX, "127.0.0.1")
        world.dns.mx("example.test", (10, MX))
        yield server


def configure(world: World, authority: Authority, port: int, policy: str = "opportunistic", **sections: Any) -> None:
    ca = world.directory / "ca.pem"
    ca.write_bytes(authority.pem)
    world.configure(relay={"port": port}, tls={"policy": policy, "ca_file": str(ca)}, **sections)


def asked(world: World, *words: str) -> tuple[int, Any]:
    said = world.command(*words, "--json")
    assert not said.stderr, said.stderr
    return said.returncode, json.loads(said.stdout)


def lines(said: subprocess.CompletedProcess[str]) -> list[str]:
    assert not said.stderr, said.stderr
    return said.stdout.splitlines()


class TestRoute:
    def test_it_says_where_mail_goes_and_what_is_demanded(self, world: World) -> None:
        first, second = world.exchanger("mx1.example.test"), world.exchanger("mx2.example.test")
        world.domain("example.test", first, second)
        world.configure(**{"tls.domain": [{"match": ["example.test"], "policy": "verify"}]})

        code, way = asked(world, "route", "Bob@Example.Test")

        assert code == 0
        assert (way["destination"], way["configured"], way["failure"]) == ("example.test", "verify", None)
        assert way["site"] == f"mx1.example.test:{world.port};mx2.example.test:{world.port}#verify"
        hosts = way["hosts"]
        assert [(host["host"], host["preference"]) for host in hosts] == [
            ("mx1.example.test", 1),
            ("mx2.example.test", 2),
        ]
        assert hosts[0]["addresses"] == [first.address]
        assert hosts[0]["demand"]["level"] == "verify"
        assert hosts[0]["dane"]["verdict"] == "none"
        text = lines(world.command("route", "example.test"))
        assert text[0] == f"example.test, to the site {way['site']}"
        assert f"1. mx1.example.test:{world.port}" in text
        assert "  demands     encryption, and a certificate for mx1.example.test by an authority that is trusted" in (
            line.removesuffix(" (configured)") for line in text
        )

    def test_a_route_of_the_configuration_is_one_too(self, world: World) -> None:
        world.configure(route=[{"name": "smart", "match": ["*"], "hosts": ["smtps://192.0.2.1"], "tls": "none"}])

        code, way = asked(world, "route", "bob@example.test")

        assert (code, way["site"]) == (0, "route:smart")
        assert (way["hosts"][0]["addresses"], way["hosts"][0]["implicit_tls"]) == (["192.0.2.1"], True)

    def test_what_would_fail_and_what_would_wait_have_their_exit_codes(self, world: World) -> None:
        world.configure()
        world.dns.mx("null.test", (0, "."))
        code, way = asked(world, "route", "null.test")
        assert (code, way["failure"]["outcome"], way["hosts"]) == (69, "failed", [])
        assert "null MX" in world.command("route", "null.test").stdout

        world.dns.servfail("broken.test")
        code, way = asked(world, "route", "bob@broken.test")
        assert (code, way["failure"]["outcome"]) == (75, "deferred")

    @pytest.mark.parametrize("command", ["route", "probe"])
    def test_what_is_no_address_is_refused(self, world: World, command: str) -> None:
        world.configure()

        said = world.command(command, "bob@-")

        assert said.returncode == 65
        assert said.stdout == ""
        assert "Traceback" not in said.stderr


class TestProbe:
    @pytest.mark.parametrize(("policy", "tls"), [("opportunistic", "1.3/encrypted"), ("verify", "1.3/verified")])
    def test_it_goes_up_to_mail_and_no_further(self, world: World, authority: Authority, policy: str, tls: str) -> None:
        with an_exchanger(world, authority) as server:
            configure(world, authority, server.port, policy)

            code, found = asked(world, "probe", "bob@example.test")
            text = lines(world.command("probe", "example.test"))

            assert code == 0
            (probe,) = found["probes"]
            assert (probe["accepted"], probe["tls"], probe["failure"]) == (True, tls, None)
            assert probe["cipher"].startswith("TLS_")
            assert probe["offers"] == ["PIPELINING", "CHUNKING", "8BITMIME", "SIZE 1000000"]
            assert probe["plan"] == "chunked"
            assert text[-1] == "Mail would be let in."
            for connection in server.connections:
                assert connection.verbs == ["EHLO", "STARTTLS", "EHLO", "QUIT"]

    def test_a_policy_that_is_not_met_is_said_to_keep_mail_waiting(self, world: World, authority: Authority) -> None:
        with an_exchanger(world, authority, "other.test") as server:
            configure(world, authority, server.port, "verify")

            code, found = asked(world, "probe", "example.test")
            text = lines(world.command("probe", "example.test"))

            assert code == 75
            assert "Hostname mismatch" in found["probes"][0]["failure"]
            assert text[-1] == "No host lets us in now: mail would wait."
            assert not any("MAIL" in connection.verbs for connection in server.connections)

    def test_the_next_host_is_tried_and_with_all_every_one(self, world: World, authority: Authority) -> None:
        with an_exchanger(world, authority, greeting=[Answer("554 not you"), Answer("220 mx")] * 2) as server:
            world.dns.mx("example.test", (10, MX), (20, "mx2.example.test"))
            world.dns.a("mx2.example.test", "127.0.0.1")
            configure(world, authority, server.port)

            code, found = asked(world, "probe", "example.test")
            assert (code, [probe["accepted"] for probe in found["probes"]]) == (0, [False, True])
            server.connections.clear()
            code, found = asked(world, "probe", "--all", "example.test")
            assert (code, [probe["accepted"] for probe in found["probes"]]) == (0, [False, True])

    def test_a_password_is_tried_and_never_shown(self, world: World, authority: Authority, tmp_path: Path) -> None:
        secret = tmp_path / "password"
        secret.write_text("hunter2\n")
        secret.chmod(0o400)
        ehlo = TLS.replace("250-CHUNKING", "250-AUTH PLAIN")
        with an_exchanger(world, authority, EHLO=ehlo, AUTH=Answer("535 no: hunter2")) as server:
            route = {"name": "smart", "match": ["*"], "hosts": [f"{MX}:{server.port}"], "tls": "verify"}
            configure(world, authority, 1, route=[route | {"username": "relay", "password_file": str(secret)}])

            said = world.command("probe", "example.test")

            assert said.returncode == 75
            assert "AUTH PLAIN: 535" in said.stdout
            assert "hunter2" not in said.stdout + said.stderr
