"""MTA-STS (RFC 8461; RFC.md R32): the daemon from outside, at mail exchangers and policy hosts with flaws of all kinds.

The policy hosts listen on port 443, which takes root.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.https import Handler, HttpsServer, answering, policy_host_address
from tests.support.process import Daemon, wait_until
from tests.support.smtp import Answer, Authority, Script, ScriptedServer, serving
from tests.support.world import World, with_and_without_workers
from tests.wire.test_tls import trusting


def unavailable() -> str:
    """Say why no policy host can listen here, empty if one can."""
    try:
        with socket.create_server((policy_host_address(), 443)):
            return ""
    except OSError as error:
        return f"port 443: {error.strerror}"


pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "-")

SELDOM = {"first": "1h", "max": "1h"}
OFTEN = {"first": "300ms", "max": "300ms"}
D = "example.test"
MX1, MX2 = "mx1.example.test", "mx2.example.test"
POLICY_HOST = f"mta-sts.{D}"
PATH = "/.well-known/mta-sts.txt"
STARTTLS = "250-mx.test\n250-PIPELINING\n250-8BITMIME\n250 STARTTLS"
WITHOUT = "250-mx.test\n250 8BITMIME"


def policy(mode: str = "enforce", *mx: str, max_age: int = 604800) -> bytes:
    hosts = "".join(f"mx: {host}\r\n" for host in mx or (MX1, MX2))
    return f"version: STSv1\r\nmode: {mode}\r\n{hosts}max_age: {max_age}\r\n".encode()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


class Scene:
    """A domain, its mail exchangers, its policy host; and the daemon's surroundings."""

    def __init__(self, world: World, authority: Authority, stack: ExitStack) -> None:
        self.world = world
        self.authority = authority
        self.stack = stack
        self.environment = trusting(authority.pem, world.directory)
        self.exchangers: list[ScriptedServer] = []

    def exchanger(
        self, name: str, *, named: str = "", by: Authority | None = None, expired: bool = False, **replies: Script
    ) -> ScriptedServer:
        """Add a mail exchanger with a certificate for `named`; `name` is what the DNS calls it."""
        context = (by or self.authority).server(named or name, expired=expired)
        at = f"127.0.3.{len(self.exchangers) + 1}"
        server = ScriptedServer({"EHLO": STARTTLS, **replies}, tls=context, host=at, port=self.world.port)
        self.stack.enter_context(serving(self.world.run, server))
        self.world.port = server.port
        self.exchangers.append(server)
        self.world.dns.a(name, at)
        return server

    def domain(self, *names: str, name: str = D) -> None:
        self.world.dns.mx(name, *((10 * number, host) for number, host in enumerate(names, 1)))

    @contextmanager
    def policy_host(
        self,
        answer: bytes | Handler,
        *names: str,
        named: str = "",
        by: Authority | None = None,
        expired: bool = False,
        number: int = 0,
    ) -> Iterator[HttpsServer]:
        """Serve a policy while the context lasts, at the policy hosts `names`; with a certificate for `named`."""
        names = names or (POLICY_HOST,)
        context = (by or self.authority).server(*((named,) if named else names), expired=expired)
        server = HttpsServer(context, host=policy_host_address(number), port=443)
        server.answers[PATH] = answer
        for name in names:
            self.world.dns.a(name, server.host)
        self.world.run(server.__aenter__())
        try:
            yield server
        finally:
            self.world.run(server.__aexit__(None, None, None))

    def publish(self, version: str = "1", *, name: str = D) -> None:
        self.world.dns.txt(f"_mta-sts.{name}", f"v=STSv1; id={version};")

    @contextmanager
    def relaying(self, retry: dict[str, str] | None = None, **sections: Any) -> Iterator[Daemon]:
        self.world.configure(retry=retry or SELDOM, timeouts={"starttls": "2s"}, **sections)
        with self.world.relaying(environment=self.environment) as daemon:
            yield daemon

    def reported(self) -> dict[str, Reported]:
        """Return what the daemon, which has ended, would report to each domain."""
        said = json.loads(self.world.command("tls-report", "--json").stdout)
        found: dict[str, Reported] = {}
        for each in said["counted"]:
            for policy in each["report"]["policies"]:
                kind = policy["policy"]["policy-type"]
                results = found.setdefault(each["domain"], {})
                for failure in policy.get("failure-details", []):
                    host = failure.get("receiving-mx-hostname", "")
                    results.setdefault((kind, host), set()).add(failure["result-type"])
        return found

    @property
    def known(self) -> Path:
        """The policy as the daemon keeps it."""
        return self.world.spool / "mta-sts" / D


@pytest.fixture
def scene(world: World, authority: Authority) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(world, authority, stack)


def in_clear(server: ScriptedServer) -> list[str]:
    """What was said over connections that were never encrypted."""
    return [verb for connection in server.connections if not connection.encrypted for verb in connection.verbs]


def untouched(server: ScriptedServer) -> bool:
    """Whether no message was even begun."""
    return not any("MAIL" in connection.verbs for connection in server.connections)


FLAWS: dict[str, dict[str, Any]] = {
    "another name": {"named": "other.test"},
    "the domain's name": {"named": "DOMAIN"},
    "another authority": {"by": Authority()},
    "expired": {"expired": True},
    "no STARTTLS": {"EHLO": WITHOUT},
    "STARTTLS refused": {"STARTTLS": "454 4.7.0 not now"},
    "handshake cut off": {"STARTTLS": Answer("220 go", then="close")},
    "HELO only": {"EHLO": "502 5.5.1 what"},
}
MODES = ("enforce", "testing", "enforce, and a second host")
flawed = pytest.mark.parametrize("flaw", FLAWS)


Reported = dict[tuple[str, str], set[str]]  # what went wrong, by kind of policy and host
RESULTS = {
    "another name": "certificate-host-mismatch",
    "the domain's name": "certificate-host-mismatch",
    "another authority": "certificate-not-trusted",
    "expired": "certificate-expired",
    "no STARTTLS": "starttls-not-supported",
    "STARTTLS refused": "starttls-not-supported",
    "handshake cut off": "validation-failure",
    "HELO only": "starttls-not-supported",
}


@dataclass(frozen=True, slots=True)
class Case:
    """What became of a message: the first line of the log about it, the host with the flaw, and what is reported."""

    line: str
    host: ScriptedServer
    report: Reported


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> dict[tuple[str, str], Case]:
    """A domain for each flaw of its mail exchanger, in each mode, all served by one daemon; a message to each."""
    table = {f"d{number}.test": case for number, case in enumerate(itertools.product(MODES, FLAWS))}
    with World(tmp_path_factory.mktemp("mta-sts"), processes=1) as world, ExitStack() as stack:
        scene = Scene(world, authority, stack)
        hosts = {}
        for domain, (mode, flaw) in table.items():
            kind: dict[str, Any] = {key: domain if value == "DOMAIN" else value for key, value in FLAWS[flaw].items()}
            hosts[domain] = scene.exchanger(f"mx1.{domain}", **kind)
            scene.domain(f"mx1.{domain}", name=domain)
            if mode.endswith("host"):
                scene.exchanger(f"mx2.{domain}")
                scene.domain(f"mx1.{domain}", f"mx2.{domain}", name=domain)
            scene.publish(name=domain)

        async def of_each(request: web.Request) -> web.StreamResponse:
            domain = request.host.removeprefix("mta-sts.")
            return web.Response(body=policy(table[domain][0].split(",")[0], f"*.{domain}"), content_type="text/plain")

        with scene.policy_host(of_each, *(f"mta-sts.{domain}" for domain in table)), scene.relaying() as daemon:
            world.send(*(f"bob@{domain}" for domain in table))
            lines = {domain: daemon.logged(rf"r=bob@{domain} status=").string for domain in table}
            listed = [each for message in world.queue() for each in message["recipients"]]
            waiting = {each["address"] for each in listed if each["status"] == "deferred"}
            assert waiting == {f"bob@{domain}" for domain in table if table[domain][0] == "enforce"}
            assert "status=failed" not in daemon.log
        found = scene.reported()
    return {case: Case(lines[domain], hosts[domain], found[domain]) for domain, case in table.items()}


class TestEnforced:
    @with_and_without_workers
    def test_mail_goes_to_a_host_of_the_policy_that_proves_its_name(self, scene: Scene) -> None:
        mx = scene.exchanger(MX1)
        scene.domain(MX1)
        scene.publish()
        with scene.policy_host(policy()) as host, scene.relaying() as daemon:
            scene.world.send(f"bob@{D}")
            daemon.logged(r"status=delivered .*tls=1\.3/verified")
            (request,) = host.requests
            assert (request.method, request.host, request.path) == ("GET", POLICY_HOST, PATH)

        assert len(mx.taken) == 1

    def test_a_pattern_stands_for_one_label(self, scene: Scene) -> None:
        mx = scene.exchanger("a.b.example.test")
        scene.domain("a.b.example.test")
        scene.publish()
        with scene.policy_host(policy("enforce", "*.example.test")), scene.relaying() as daemon:
            scene.world.send(f"bob@{D}")
            daemon.logged(r"status=deferred .*MTA-STS: a\.b\.example\.test is not a mail exchanger")
        assert mx.connections == []

    @flawed
    def test_a_host_that_proves_nothing_gets_nothing(self, cases: dict[tuple[str, str], Case], flaw: str) -> None:
        case = cases["enforce", flaw]
        assert re.search(r"status=deferred dsn=4\.\d+\.\d+ ", case.line)
        assert case.host.connections
        assert untouched(case.host)

    @flawed
    def test_the_next_host_is_tried(self, cases: dict[tuple[str, str], Case], flaw: str) -> None:
        case = cases["enforce, and a second host", flaw]
        assert re.search(r"status=delivered .*n=1 .*host=mx2\..*tls=1\.3/verified", case.line)
        assert case.host.connections
        assert untouched(case.host)

    @flawed
    def test_each_failure_is_reported_under_its_name(self, cases: dict[tuple[str, str], Case], flaw: str) -> None:
        for mode in MODES:
            case = cases[mode, flaw]
            ((kind, host), results), *others = case.report.items()
            assert (kind, host[:4], others) == ("sts", "mx1.", [])
            assert results == {RESULTS[flaw]}

    def test_a_host_that_the_policy_does_not_name_is_not_even_asked(self, scene: Scene) -> None:
        stray, meant = scene.exchanger(MX1), scene.exchanger(MX2)
        scene.domain(MX1, MX2)
        scene.publish()
        with scene.policy_host(policy("enforce", MX2)), scene.relaying() as daemon:
            scene.world.send(f"bob@{D}")
            daemon.logged(rf"status=delivered .*host={MX2} ")
        assert (stray.connections, len(meant.taken)) == ([], 1)
        assert scene.reported() == {D: {("sts", MX1): {"validation-failure"}}}

    def test_the_reason_can_be_asked_for(self, scene: Scene) -> None:
        scene.exchanger(MX1)
        scene.domain(MX1)
        scene.publish()
        reason = f"MTA-STS: {MX1} is not a mail exchanger of the domain's policy"
        with scene.policy_host(policy("enforce", MX2)), scene.relaying() as daemon:
            scene.world.send(f"bob@{D}")
            daemon.logged(rf"r=bob@{D} status=deferred dsn=4\.7\.5 .*{reason}")
            assert reason in scene.world.command("explain", D).stdout
            said = json.loads(scene.world.command("route", D, "--json").stdout)
            assert said["mta_sts"] == {"mode": "enforce", "hosts": []}
            assert said["site"].endswith("#mta-sts:-")
        assert json.loads(scene.known.read_text())["id"] == "1"

    @pytest.mark.parametrize("flaw", ["another name", "no STARTTLS"])
    def test_mail_that_waited_long_enough_bounces_and_no_sooner(self, scene: Scene, flaw: str) -> None:
        mx = scene.exchanger(MX1, **FLAWS[flaw])
        scene.domain(MX1)
        scene.publish()
        with scene.policy_host(policy()), scene.relaying({**OFTEN, "lifetime": "4s", "warn_after": "0s"}) as daemon:
            scene.world.send(f"bob@{D}")
            daemon.logged(rf"r=bob@{D} status=deferred")
            began = datetime.now(UTC)
            daemon.logged(rf"r=bob@{D} status=failed")
            assert datetime.now(UTC) - began > timedelta(seconds=2)
        assert untouched(mx)

    @with_and_without_workers
    def test_a_domain_without_a_policy_shares_hosts_and_nothing_else(self, scene: Scene) -> None:
        mx = scene.exchanger(MX1, EHLO=WITHOUT)
        scene.domain(MX1)
        scene.domain(MX1, name="lax.test")
        scene.publish()
        with scene.policy_host(policy()), scene.relaying() as daemon:
            scene.world.send("bob@lax.test", f"bob@{D}")
            daemon.logged("r=bob@lax.test status=delivered")
            daemon.logged(rf"r=bob@{D} status=deferred")
            scene.world.send("eve@lax.test")
            daemon.logged("r=eve@lax.test status=delivered")

        assert [message.recipients for message in mx.taken] == [["RCPT TO:<bob@lax.test>"], ["RCPT TO:<eve@lax.test>"]]

    def test_the_operator_may_know_better(self, scene: Scene) -> None:
        scene.exchanger(MX1, EHLO=WITHOUT)
        scene.domain(MX1)
        scene.publish()
        rules: dict[str, Any] = {"tls.domain": [{"match": [D], "mta_sts": False}]}
        with scene.policy_host(policy()) as host, scene.relaying(**rules) as daemon:
            scene.world.send(f"bob@{D}")
            daemon.logged(rf"r=bob@{D} status=delivered")
            assert host.requests == []


class TestTesting:
    @flawed
    def test_mail_goes_whatever_the_host_proves(self, cases: dict[tuple[str, str], Case], flaw: str) -> None:
        case = cases["testing", flaw]
        assert re.search(r"status=delivered .*n=1 ", case.line)
        assert len(case.host.taken) == 1

    def test_a_proof_is_asked_for_first(self, scene: Scene) -> None:
        good, bad = scene.exchanger(MX1), scene.exchanger(MX2, named="other.test")
        scene.domain(MX1)
        scene.domain(MX2, name="bad.test")
        scene.publish()
        scene.world.dns.txt("_mta-sts.bad.test", "v=STSv1; id=1")
        scene.world.dns.a("mta-sts.bad.test", policy_host_address())
        names = (POLICY_HOST, "mta-sts.bad.test")
        with scene.policy_host(policy("testing"), *names), scene.relaying() as daemon:
            scene.world.send(f"bob@{D}")
            daemon.logged(rf"r=bob@{D} status=delivered .*tls=1\.3/verified")
            scene.world.send("bob@bad.test")
            daemon.logged(r"r=bob@bad\.test status=delivered .*tls=1\.3/encrypted")
        assert (len(good.connections), len(bad.connections)) == (1, 2)

    def test_a_host_that_the_policy_does_not_name_is_used_all_the_same(self, scene: Scene) -> None:
        scene.exchanger(MX1, EHLO=WITHOUT)
        scene.domain(MX1)
        scene.publish()
        with scene.policy_host(policy("testing", MX2)), scene.relaying() as daemon:
            scene.world.send(f"bob@{D}")
            daemon.logged(rf"r=bob@{D} status=delivered")
        assert scene.reported() == {D: {("sts", MX1): {"validation-failure"}}}


NO_POLICIES: dict[str, dict[str, Any]] = {
    "mode none": {"answer": policy("none")},
    "404": {"answer": answering(404)},
    "redirect": {"answer": answering(302, Location="/other")},
    "another type": {"answer": answering(200, policy(), Content_Type="text/html")},
    "no policy": {"answer": b"<html>"},
    "too large": {"answer": policy() + b"x: y\r\n" * 11_000},
    "too old": {"answer": policy(max_age=31557601)},
    "another name": {"named": "www.example.test"},
    "another authority": {"by": Authority()},
    "expired": {"expired": True},
    "two records": {"records": ("v=STSv1; id=1", "v=STSv1; id=2")},
    "bad id": {"records": ("v=STSv1; id=1-2",)},
    "no id": {"records": ("v=STSv1;",)},
    "another version": {"records": ("v=STSv2; id=1",)},
    "no record": {"records": ()},
}


UNFETCHED = {
    **dict.fromkeys(("404", "redirect", "too large"), "sts-policy-fetch-error"),
    **dict.fromkeys(("another type", "no policy", "too old"), "sts-policy-invalid"),
    **dict.fromkeys(("another name", "another authority", "expired"), "sts-webpki-invalid"),
}


@dataclass(frozen=True, slots=True)
class Lacking:
    """What became of a message to a domain without a policy: the line of the log about it, the paths that were asked of
    the policy host, and what is reported."""

    line: str
    asked: set[str]
    report: Reported


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> dict[str, Lacking]:
    """A domain for each lack, all served by one daemon; its policy host would have an enforced policy but for that."""
    with World(tmp_path_factory.mktemp("mta-sts"), processes=0) as world, ExitStack() as stack:
        scene = Scene(world, authority, stack)
        scene.exchanger(MX1, EHLO=WITHOUT)
        servers = {}
        for number, (lack, serve) in enumerate(NO_POLICIES.items()):
            domain = f"d{number}.test"
            scene.domain(MX1, name=domain)
            if records := serve.get("records", ("v=STSv1; id=1",)):
                world.dns.txt(f"_mta-sts.{domain}", *records)
            name = f"mta-sts.{domain}"
            server = stack.enter_context(
                scene.policy_host(
                    serve.get("answer", policy()),
                    name,
                    named=serve.get("named", name),
                    by=serve.get("by"),
                    expired="expired" in serve,
                    number=number,
                )
            )
            server.answers["/other"] = policy()
            servers[lack] = server
        with scene.relaying() as daemon:
            world.send(*(f"bob@d{number}.test" for number in range(len(servers))))
            lines = [daemon.logged(rf"r=bob@d{number}\.test status=").string for number in range(len(servers))]
        reported = scene.reported()
    asked = {lack: {request.path for request in server.requests} for lack, server in servers.items()}
    return {
        lack: Lacking(line, asked[lack], reported.get(f"d{number}.test", {}))
        for number, (lack, line) in enumerate(zip(NO_POLICIES, lines, strict=True))
    }


class TestWithoutAPolicy:
    @pytest.mark.parametrize("lack", NO_POLICIES)
    def test_mail_goes_as_if_there_were_none(self, lacking: dict[str, Lacking], lack: str) -> None:
        assert re.search("status=delivered .*n=1", lacking[lack].line)
        assert lacking[lack].asked == ({PATH} if "answer" in NO_POLICIES[lack] else set())

    @pytest.mark.parametrize("lack", NO_POLICIES)
    def test_what_cannot_be_fetched_is_reported(self, lacking: dict[str, Lacking], lack: str) -> None:
        told = {("sts", ""): {UNFETCHED[lack]}} if lack in UNFETCHED else {}
        assert {key: results for key, results in lacking[lack].report.items() if key[0] == "sts"} == told

    def test_nobody_listens_at_the_policy_host(self, scene: Scene) -> None:
        scene.exchanger(MX1, EHLO=WITHOUT)
        scene.domain(MX1)
        scene.publish()
        scene.world.dns.a(POLICY_HOST, policy_host_address())
        with scene.relaying() as daemon:
            scene.world.send(f"bob@{D}")
            daemon.logged(rf"r=bob@{D} status=delivered .*n=1")


class TestAPolicyThatIsKnown:
    """Nobody who has the DNS and the network can take a policy away that we have seen (RFC 8461 section 10.2)."""

    @pytest.mark.parametrize("left", ["nothing", "the record", "a new record", "an error", "SERVFAIL"])
    def test_outlives_a_restart_and_whatever_becomes_of_its_host(self, scene: Scene, left: str) -> None:
        mx = scene.exchanger(MX1, EHLO=[STARTTLS, STARTTLS])  # then without STARTTLS
        scene.domain(MX1)
        scene.publish()
        with scene.policy_host(policy()), scene.relaying() as daemon:
            scene.world.send(f"ann@{D}")
            daemon.logged(rf"r=ann@{D} status=delivered .*verified")
        match left:
            case "nothing":
                scene.world.dns.remove(f"_mta-sts.{D}")
                scene.world.dns.remove(POLICY_HOST)
            case "a new record":
                scene.publish("2")
            case "SERVFAIL":
                scene.world.dns.servfail(f"_mta-sts.{D}")
        lying = scene.policy_host(answering(500)) if left == "an error" else contextlib.nullcontext()
        with lying, scene.relaying() as daemon:
            scene.world.send(f"bob@{D}")
            daemon.logged(rf"r=bob@{D} status=deferred")
        assert [message.recipients for message in mx.taken] == [[f"RCPT TO:<ann@{D}>"]]

    def test_is_forgotten_when_it_has_aged(self, scene: Scene) -> None:
        scene.exchanger(MX1, EHLO=WITHOUT)
        scene.domain(MX1)
        scene.publish()
        with scene.policy_host(policy()), scene.relaying(OFTEN) as daemon:
            scene.world.send(f"ann@{D}")
            daemon.logged(rf"r=ann@{D} status=deferred")
        kept = json.loads(scene.known.read_text())
        fetched = datetime.fromisoformat(kept["fetched"])
        for days, status in ((6, "deferred"), (8, "delivered")):
            kept["fetched"] = (fetched - timedelta(days=days)).isoformat()
            scene.known.write_text(json.dumps(kept))
            with scene.relaying(OFTEN) as daemon:
                scene.world.send(f"d{days}@{D}")
                daemon.logged(rf"r=d{days}@{D} status={status}")
        assert not scene.known.exists()

    def test_that_is_damaged_is_told_of_and_fetched_anew(self, scene: Scene) -> None:
        scene.exchanger(MX1)
        scene.domain(MX1)
        scene.publish()
        scene.known.parent.mkdir(parents=True)
        scene.known.write_bytes(b"\x00" * 512)
        with scene.policy_host(policy()), scene.relaying() as daemon:
            daemon.logged(r"event=warning about=tls\.mta_sts .*damaged")
            scene.world.send(f"ann@{D}")
            daemon.logged(r"status=delivered .*verified")
        assert json.loads(scene.known.read_text())["policy"][1] == "mode: enforce"


class TestAPolicyThatChanges:
    @with_and_without_workers
    def test_lets_mail_go_that_the_one_before_kept_waiting(self, scene: Scene) -> None:
        mx = scene.exchanger(MX1, EHLO=WITHOUT)
        scene.domain(MX1)
        scene.publish()
        with scene.policy_host(policy()) as host, scene.relaying(OFTEN) as daemon:
            scene.world.send(f"bob@{D}")
            daemon.logged(rf"r=bob@{D} status=deferred")
            host.answers[PATH] = policy("none")
            scene.publish("2")
            daemon.reload()  # else the record's TTL has to pass
            daemon.logged(rf"r=bob@{D} status=delivered")
        assert len(mx.taken) == 1

    def test_counts_as_soon_as_the_record_says_so(self, scene: Scene) -> None:
        scene.exchanger(MX1, EHLO=WITHOUT)
        scene.domain(MX1)
        scene.world.dns.ttl = 0
        scene.publish()
        with scene.policy_host(policy("testing")) as host, scene.relaying() as daemon:
            scene.world.send(f"ann@{D}")
            daemon.logged(rf"r=ann@{D} status=delivered")
            host.answers[PATH] = policy()
            scene.publish("2")
            wait_until(lambda: self.is_enforced(scene, daemon), "the new policy", timeout=30)

    def is_enforced(self, scene: Scene, daemon: Daemon) -> bool:
        scene.world.send(f"bob@{D}")
        return "enforce" in scene.known.read_text() and "status=deferred" in daemon.log


def test_a_policy_host_that_does_not_answer_keeps_mail_waiting_for_seconds_only(scene: Scene) -> None:
    scene.exchanger(MX1, EHLO=WITHOUT)
    scene.domain(MX1)
    scene.publish()
    scene.world.dns.a(POLICY_HOST, policy_host_address())
    scene.domain(MX1, name="quick.test")
    with socket.create_server((policy_host_address(), 443)), scene.relaying() as daemon:
        scene.world.send(f"bob@{D}")
        scene.world.send("ann@quick.test")
        daemon.logged(r"r=ann@quick\.test status=delivered")
        assert f"r=bob@{D}" not in daemon.log
        daemon.logged(rf"r=bob@{D} status=delivered", timeout=30)


def test_where_it_is_switched_off_nobody_is_asked(scene: Scene) -> None:
    scene.exchanger(MX1, EHLO=WITHOUT)
    scene.domain(MX1)
    scene.publish()
    with scene.policy_host(policy()) as host, scene.relaying(tls={"mta_sts": False}) as daemon:
        scene.world.send(f"bob@{D}")
        daemon.logged(rf"r=bob@{D} status=delivered")
        assert host.requests == []
    assert scene.world.dns.asked(f"_mta-sts.{D}") == 0
