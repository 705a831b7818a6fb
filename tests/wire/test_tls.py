"""TLS and AUTH: the daemon from outside, at servers with certificates and passwords of their own."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.mta import HOSTNAME, Exim
from tests.support.process import Daemon
from tests.support.smtp import Answer, Authority, PasswordCheck, Script, ScriptedServer, serving
from tests.support.world import World, wait_until

SELDOM = {"first": "1h", "max": "1h"}
SMART = HOSTNAME  # the smart host
STARTTLS = "250-mx.test\n250-PIPELINING\n250-8BITMIME\n250 STARTTLS"
PASSWORD = "hunter2 of ümlaut"
ENFORCED = ["require", "verify"]
MECHANISMS = ["PLAIN", "LOGIN", "CRAM-MD5"]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def trusted(authority: Authority, tmp_path: Path) -> dict[str, str]:
    """The environment of a daemon that trusts the authority, and nobody else."""
    return trusting(authority.pem, tmp_path)


def trusting(pem: bytes, directory: Path) -> dict[str, str]:
    (directory / "ca.pem").write_bytes(pem)
    (directory / "no-others").mkdir(exist_ok=True)
    return {"SSL_CERT_FILE": str(directory / "ca.pem"), "SSL_CERT_DIR": str(directory / "no-others")}


@contextmanager
def a_server(
    world: World, authority: Authority, name: str = SMART, *, implicit_tls: bool = False, **replies: Script
) -> Iterator[ScriptedServer]:
    script: dict[str, Script] = {"EHLO": STARTTLS, **replies}
    server = ScriptedServer(script, tls=authority.server(name), implicit_tls=implicit_tls)
    with serving(world.run, server):
        yield server


def relay_to(world: World, port: int, *, scheme: str = "", host: str = SMART, **fields: Any) -> None:
    world.dns.a(SMART, "127.0.0.1")
    route = {"name": "r", "match": ["*"], "hosts": [f"{scheme}{host}:{port}"], **fields}
    world.configure(route=[route], retry=SELDOM, timeouts={"starttls": "500ms"})


def with_password(world: World, password: str = PASSWORD) -> dict[str, str]:
    path = world.directory / "password"
    path.write_text(password + "\n", encoding="utf-8")
    path.chmod(0o600)
    return {"username": "relay", "password_file": str(path)}


def in_clear(server: ScriptedServer) -> list[str]:
    """The verbs that were said over connections that were never encrypted."""
    return [verb for connection in server.connections if not connection.encrypted for verb in connection.verbs]


class TestPolicies:
    """none, opportunistic, require, verify."""

    @pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "implicit"])
    @pytest.mark.parametrize(
        ("policy", "told"),
        [("opportunistic", "1.3/encrypted"), ("require", "1.3/encrypted"), ("verify", "1.3/verified")],
    )
    def test_mail_goes_encrypted_to_a_server_that_can(
        self, world: World, authority: Authority, trusted: dict[str, str], policy: str, told: str, implicit: bool
    ) -> None:
        with a_server(world, authority, implicit_tls=implicit) as server:
            relay_to(world, server.port, scheme="smtps://" if implicit else "", tls=policy)
            with world.relaying(environment=trusted) as daemon:
                world.send("bob@example.test")
                daemon.logged(f"status=delivered .*tls={told}")

            (connection,) = server.connections
            assert connection.encrypted
            assert connection.verbs.count("STARTTLS") == (not implicit)

    def test_none_makes_no_attempt(self, world: World, authority: Authority) -> None:
        with a_server(world, authority) as server:
            relay_to(world, server.port, tls="none")
            with world.relaying() as daemon:
                world.send("bob@example.test")
                assert "tls=" not in daemon.logged("status=delivered").string

            assert "STARTTLS" not in in_clear(server)

    @pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "implicit"])
    @pytest.mark.parametrize("flaw", ["another name", "another authority"])
    def test_verify_sends_nothing_to_a_server_that_proves_nothing(
        self, world: World, authority: Authority, trusted: dict[str, str], flaw: str, implicit: bool
    ) -> None:
        name = "other.test" if flaw == "another name" else SMART
        certifier = Authority() if flaw == "another authority" else authority
        with a_server(world, certifier, name, implicit_tls=implicit) as server:
            relay_to(world, server.port, scheme="smtps://" if implicit else "", tls="verify")
            with world.relaying(environment=trusted) as daemon:
                world.send("bob@example.test")
                daemon.logged(r"r=bob@example.test status=deferred dsn=4\.7\.\d+ .*certificate")

            assert server.messages == []
            assert "MAIL" not in [verb for connection in server.connections for verb in connection.verbs]

    @pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
    def test_verify_takes_a_certificate_for_an_address(
        self, world: World, authority: Authority, trusted: dict[str, str], host: str
    ) -> None:
        address = host.strip("[]")
        server = ScriptedServer({"EHLO": STARTTLS}, tls=authority.server(address), host=address)
        with serving(world.run, server):
            relay_to(world, server.port, host=host, tls="verify")
            with world.relaying(environment=trusted) as daemon:
                world.send("bob@example.test")
                daemon.logged(r"status=delivered .*tls=1\.3/verified")


class TestHandshakesThatFail:
    """Clear text only where the policy allows it, and only on a new connection."""

    @pytest.mark.parametrize("then", ["close", "reset", "stall"])
    def test_opportunistic_falls_back_and_remembers(self, world: World, authority: Authority, then: str) -> None:
        with a_server(world, authority, STARTTLS=Answer("220 go", then=then)) as server:
            relay_to(world, server.port, tls="opportunistic")
            with world.relaying() as daemon:
                world.send("bob@example.test")
                assert "tls=" not in daemon.logged(r"r=bob@example.test status=delivered .*n=1").string
                world.send("eve@example.test")
                daemon.logged(r"r=eve@example.test status=delivered .*n=1")

            tried, fell_back, remembered = server.connections
            assert tried.verbs == ["EHLO", "STARTTLS"]
            for connection in (fell_back, remembered):
                assert connection.verbs == ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"]

    @pytest.mark.parametrize("code", ["454 4.7.0 not now", "502 5.5.1 what"])
    def test_opportunistic_goes_on_where_starttls_is_refused(
        self, world: World, authority: Authority, code: str
    ) -> None:
        with a_server(world, authority, STARTTLS=code) as server:
            relay_to(world, server.port, tls="opportunistic")
            with world.relaying() as daemon:
                world.send("bob@example.test")
                daemon.logged("status=delivered")

            assert server.connections[0].verbs[:3] == ["EHLO", "STARTTLS", "MAIL"]

    @pytest.mark.parametrize("policy", ENFORCED)
    @pytest.mark.parametrize(
        "replies",
        [
            {"STARTTLS": Answer("220 go", then="close")},
            {"STARTTLS": Answer("220 go", then="stall")},
            {"STARTTLS": Answer(b"220 go\r\n250-SIZE 1\r\n250 AUTH PLAIN\r\n", then="stall")},
            {"STARTTLS": "454 4.7.0 not now"},
            {"STARTTLS": "250 what"},
            {"EHLO": "250-mx.test\n250 PIPELINING"},
            {"EHLO": "502 5.5.1 what"},
        ],
        ids=["close", "stall", "injected", "454", "250", "stripped", "HELO only"],
    )
    def test_where_tls_is_required_nothing_goes_in_clear(
        self, world: World, authority: Authority, policy: str, replies: dict[str, Any]
    ) -> None:
        with a_server(world, authority, **replies) as server:
            relay_to(world, server.port, tls=policy)
            with world.relaying() as daemon:
                world.send("bob@example.test")
                daemon.logged(r"r=bob@example.test status=deferred dsn=4\.\d+\.\d+ ")
                assert "status=delivered" not in daemon.log

            assert server.connections
            assert not {"MAIL", "RCPT", "DATA"} & set(in_clear(server))
            assert server.messages == []


class TestAuth:
    """A route with a password never sends without it, and never says it where it could be heard."""

    def ehlo(self, *mechanisms: str) -> str:
        return f"{STARTTLS.replace('250 STARTTLS', '250-STARTTLS')}\n250 AUTH {' '.join(mechanisms)}"

    def never_told(self, daemon: Daemon, password: str) -> None:
        """The log has the password in none of the shapes in which it goes over the wire."""
        plain, login = f"\0relay\0{password}".encode(), password.encode()
        digest = hmac.new(login, PasswordCheck.CHALLENGE, "md5").hexdigest()
        shapes = [password, digest, *(base64.b64encode(shape).decode() for shape in (plain, login))]
        assert not [shape for shape in shapes if shape in daemon.log]

    @pytest.mark.parametrize("mechanism", MECHANISMS)
    def test_the_right_password_lets_mail_through(
        self, world: World, authority: Authority, trusted: dict[str, str], mechanism: str
    ) -> None:
        check = PasswordCheck("relay", PASSWORD)
        with a_server(world, authority, EHLO=self.ehlo(mechanism), AUTH=check) as server:
            relay_to(world, server.port, tls="verify", **with_password(world))
            with world.relaying(environment=trusted) as daemon:
                world.send("bob@example.test")
                daemon.logged("status=delivered")
                self.never_told(daemon, PASSWORD)

            assert check.verdicts == [(mechanism, True)]
            assert [connection.encrypted for connection in server.connections] == [True]

    @pytest.mark.parametrize("mechanism", MECHANISMS)
    def test_a_wrong_password_defers_and_nothing_is_sent(
        self, world: World, authority: Authority, trusted: dict[str, str], mechanism: str
    ) -> None:
        check = PasswordCheck("relay", PASSWORD)
        with a_server(world, authority, EHLO=self.ehlo(mechanism), AUTH=check) as server:
            relay_to(world, server.port, tls="verify", **with_password(world, "guess"))
            with world.relaying(environment=trusted) as daemon:
                world.send("bob@example.test")
                daemon.logged(r"r=bob@example.test status=deferred dsn=4\.7\.\d+ ")
                self.never_told(daemon, "guess")

            assert check.verdicts == [(mechanism, False)]
            assert "MAIL" not in [verb for connection in server.connections for verb in connection.verbs]

    @pytest.mark.parametrize("mechanism", MECHANISMS)
    def test_a_server_that_falls_silent_does_not_bring_the_password_into_the_log(
        self, world: World, authority: Authority, trusted: dict[str, str], mechanism: str
    ) -> None:
        check = PasswordCheck("relay", PASSWORD)

        def silent(line: str) -> Answer:
            answer = check(line)
            return Answer(answer) if answer.startswith("334") else Answer(then="stall")

        with a_server(world, authority, EHLO=self.ehlo(mechanism), AUTH=silent) as server:
            relay_to(world, server.port, tls="verify", **with_password(world))
            world.config_path.write_text(world.config_path.read_text().replace('"500ms"', '"500ms"\n"ehlo" = "500ms"'))
            with world.relaying(environment=trusted) as daemon:
                world.send("bob@example.test")
                daemon.logged(rf"status=deferred .*AUTH {mechanism}")
                self.never_told(daemon, PASSWORD)
                listed = world.command("queue", "list", "--json").stdout
                assert base64.b64encode(PASSWORD.encode()).decode() not in listed

    @pytest.mark.parametrize("offered", ["250-mx.test\n250 STARTTLS", "250-mx.test\n250-STARTTLS\n250 AUTH GSSAPI"])
    def test_mail_is_never_sent_where_auth_is_not_offered(
        self, world: World, authority: Authority, trusted: dict[str, str], offered: str
    ) -> None:
        with a_server(world, authority, EHLO=offered) as server:
            relay_to(world, server.port, tls="verify", **with_password(world))
            with world.relaying(environment=trusted) as daemon:
                world.send("bob@example.test")
                daemon.logged(r"r=bob@example.test status=deferred dsn=4\.7\.\d+ ")

            assert server.connections[0].verbs == ["EHLO", "STARTTLS", "EHLO", "QUIT"]

    def test_a_handshake_that_failed_once_does_not_stop_the_route_for_long(
        self, world: World, authority: Authority
    ) -> None:
        check = PasswordCheck("relay", PASSWORD)
        once = [Answer("220 go", then="close")]
        with a_server(world, authority, EHLO=self.ehlo("PLAIN"), AUTH=check, STARTTLS=once) as server:
            relay_to(world, server.port, tls="opportunistic", **with_password(world))
            with world.relaying() as daemon:
                world.send("bob@example.test")
                daemon.logged(r"r=bob@example.test status=deferred .*TLS")
                assert world.command("queue", "retry", "--all").returncode == 0
                daemon.logged(r"status=delivered .*tls=1\.3/encrypted")

            assert not {"AUTH", "MAIL"} & set(in_clear(server))


class AuthenticatingExim(Exim):
    """Exim that takes mail of authenticated clients only, by one mechanism, over TLS only."""

    def __init__(self, mechanism: str) -> None:
        super().__init__()
        self.mechanism = mechanism

    def prepare(self) -> list[str]:
        """The harness' configuration, with an authenticator."""
        command = super().prepare()
        config = self.directory / "exim.conf"
        text = config.read_text(encoding="utf-8").replace(
            "acl_smtp_rcpt = accept\n", "acl_smtp_rcpt = rcpt\nauth_advertise_hosts = ${if eq{$tls_in_cipher}{}{}{*}}\n"
        )
        driver = "cram_md5" if self.mechanism == "CRAM-MD5" else "plaintext"
        lines = ["begin acl", "rcpt:", "  accept authenticated = *", "  deny message = 5.7.1 authenticate first"]
        lines += ["begin authenticators", "only:", f"  driver = {driver}", f"  public_name = {self.mechanism}"]
        lines.append("  server_set_id = $auth1")
        match self.mechanism:
            case "PLAIN":
                lines.append("  server_condition = ${if and{{eq{$auth2}{relay}}{eq{$auth3}{hunter2}}}}")
            case "LOGIN":
                lines.append("  server_prompts = Username:: : Password::")
                lines.append("  server_condition = ${if and{{eq{$auth1}{relay}}{eq{$auth2}{hunter2}}}}")
            case _:
                lines.append("  server_secret = ${if eq{$auth1}{relay}{hunter2}fail}")
        config.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")
        return command


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_exim_is_authenticated_to(world: World, mechanism: str, tmp_path: Path) -> None:
    with AuthenticatingExim(mechanism) as exim:
        environment = trusting(exim.ca.cert_pem.bytes(), tmp_path)
        relay_to(world, exim.port, tls="verify", **with_password(world, "hunter2"))
        with world.relaying(environment=environment) as daemon:
            world.send("bob@example.test")
            daemon.logged(r"status=delivered .*tls=1\.3/verified")
        assert len(exim.wait_for(1)) == 1


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_exim_refuses_a_wrong_password(world: World, mechanism: str, tmp_path: Path) -> None:
    with AuthenticatingExim(mechanism) as exim:
        environment = trusting(exim.ca.cert_pem.bytes(), tmp_path)
        relay_to(world, exim.port, tls="verify", **with_password(world, "guess"))
        with world.relaying(environment=environment) as daemon:
            world.send("bob@example.test")
            daemon.logged(r"r=bob@example.test status=deferred dsn=4\.7\.8 .*535")
        wait_until(lambda: "authenticator failed" in exim.log, "Exim's word on it")
        assert exim.messages() == []
