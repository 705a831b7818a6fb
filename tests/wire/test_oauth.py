"""OAuth: the daemon from outside, between a token server and a smart host that takes tokens only."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.oauth import PATH, TokenServer
from tests.support.process import Daemon, wait_until
from tests.support.smtp import Authority, Script, ScriptedServer, TokenCheck, serving
from tests.support.world import World, with_and_without_workers
from tests.wire.test_tls import SMART, in_clear, trusting

LOGIN = "login.test"
USER = "relay@example.test"
SECRET = "s3cret-of-the-client"
REFRESH = "r3fresh-token-of-the-user"
QUICK = {"first": "300ms", "max": "500ms"}
SELDOM = {"first": "1h", "max": "1h"}


def ehlo(*mechanisms: str) -> str:
    return f"250-mx.test\n250-8BITMIME\n250-STARTTLS\n250 AUTH {' '.join(mechanisms)}"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


class Smart:
    """A smart host, a token server, and a daemon's configuration and environment for both."""

    def __init__(self, world: World, authority: Authority, check: TokenCheck, replies: dict[str, Script]) -> None:
        self.world = world
        self.check = check
        self.tokens = TokenServer(authority.server(LOGIN))
        script: dict[str, Script] = {"EHLO": ehlo("XOAUTH2", "PLAIN"), "AUTH": check, **replies}
        self.server = ScriptedServer(script, tls=authority.server(SMART))
        self.environment = trusting(authority.pem, world.directory)
        self.refresh = world.directory / "refresh"

    def configure(self, retry: dict[str, str], **fields: Any) -> None:
        world = self.world
        route = {
            "name": "provider",
            "match": ["*"],
            "hosts": [f"{SMART}:{self.server.port}"],
            "tls": "verify",
            "username": USER,
            "oauth_token_url": f"https://{LOGIN}:{self.tokens.port}{PATH}",
            "oauth_client_id": "us",
            "oauth_client_secret_file": str(secret(world.directory / "client-secret", SECRET)),
            **fields,
        }
        world.configure(route=[route], retry=retry)

    def with_refresh_token(self, text: str = REFRESH) -> dict[str, str]:
        return {"oauth_refresh_token_file": str(secret(self.refresh, text))}

    def verbs(self) -> list[str]:
        return [verb for connection in self.server.connections for verb in connection.verbs]


def secret(path: Path, text: str) -> Path:
    path.write_text(text + "\n", encoding="utf-8")
    path.chmod(0o600)
    return path


@contextmanager
def a_smart_host(
    world: World,
    authority: Authority,
    good: set[str] | None = None,
    *,
    error: bytes = TokenCheck.ERROR,
    **replies: Script,
) -> Iterator[Smart]:
    smart = Smart(world, authority, TokenCheck(USER, good, error=error), replies)
    world.dns.a(SMART, "127.0.0.1")
    world.dns.a(LOGIN, "127.0.0.1")
    with serving(world.run, smart.server):
        world.run(smart.tokens.__aenter__())
        try:
            yield smart
        finally:
            world.run(smart.tokens.__aexit__(None, None, None))


def never_told(smart: Smart, daemon: Daemon, *more: str) -> None:
    """No secret and no token, in any form in which it is sent, is in what others can see."""
    seen = {"log": daemon.log}
    for words in (["check-config"], ["queue", "list", "--json"], ["explain", "bob@example.test"], ["doctor"]):
        said = smart.world.command(*words)
        seen[" ".join(words)] = said.stdout + said.stderr
    for path in smart.world.spool.glob("queue.db*"):
        seen[path.name] = path.read_bytes().decode("latin-1")
    sent = [f"user={USER}\1auth=Bearer {token}\1\1".encode() for token in smart.tokens.given]
    forms = [SECRET, REFRESH, *smart.tokens.given, *(b64encode(each).decode().rstrip("=") for each in sent), *more]
    forms.append(b64encode(f"us:{SECRET}".encode()).decode())
    assert not [(where, form) for where, text in seen.items() for form in forms if form in text]


@with_and_without_workers
@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
def test_one_token_serves_many_relayers(world: World, authority: Authority, mechanism: str) -> None:
    with a_smart_host(world, authority, EHLO=ehlo(mechanism)) as smart:
        smart.configure(QUICK, oauth_scope="https://mail.test/ offline")
        with world.relaying(environment=smart.environment) as daemon:
            for number in range(30):
                world.send(f"bob{number}@example.test")
            wait_until(lambda: len(smart.server.taken) == 30, "all mail")
            never_told(smart, daemon)

        assert len(smart.server.connections) > 1
        assert set(smart.check.verdicts) == {(mechanism, "token-1-of-the-server", True)}
        [form] = smart.tokens.requested
        assert form == {
            "grant_type": "client_credentials",
            "scope": "https://mail.test/ offline",
            "client_id": "us",
            "client_secret": SECRET,
        }


@with_and_without_workers
def test_a_token_is_renewed_before_it_expires(world: World, authority: Authority) -> None:
    with a_smart_host(world, authority) as smart:
        smart.configure(QUICK, **smart.with_refresh_token())
        smart.tokens.expires_in = 2
        with world.relaying(environment=smart.environment) as daemon:
            while len(smart.tokens.given) < 3:
                before = len(smart.server.taken)
                world.send("bob@example.test")
                wait_until(lambda before=before: len(smart.server.taken) > before, "the mail")  # type: ignore[misc]
            never_told(smart, daemon)
            assert "status=deferred" not in daemon.log

        assert all(right for _, _, right in smart.check.verdicts)
        assert {form["refresh_token"] for form in smart.tokens.requested} == {REFRESH}


@with_and_without_workers
def test_a_token_that_was_revoked_is_replaced_once_and_at_once(world: World, authority: Authority) -> None:
    with a_smart_host(world, authority, {"token-2-of-the-server"}) as smart:
        smart.configure(SELDOM)
        with world.relaying(environment=smart.environment) as daemon:
            world.send("bob@example.test")
            daemon.logged(r"status=delivered .*n=1 ")
            never_told(smart, daemon)

        assert [right for _, _, right in smart.check.verdicts] == [False, True]
        first, second = smart.server.connections
        assert "MAIL" not in first.verbs
        assert second.encrypted


@with_and_without_workers
def test_a_server_that_refuses_every_token_gets_two_and_is_then_left_alone(world: World, authority: Authority) -> None:
    with a_smart_host(world, authority, set(), error=b'{"status":"401","for":"token-2-of-the-server"}') as smart:
        smart.configure(SELDOM)
        with world.relaying(environment=smart.environment) as daemon:
            world.send("bob@example.test")
            line = daemon.logged(r"r=bob@example.test status=deferred dsn=4\.7\.8 .*").string
            assert "535" in line
            assert "401" in line
            never_told(smart, daemon)

        assert len(smart.check.verdicts) == len(smart.tokens.given) == 2
        assert "MAIL" not in smart.verbs()


@with_and_without_workers
@pytest.mark.parametrize("stage", ["AUTH", "RCPT"])
def test_a_server_that_says_the_token_back_does_not_bring_it_into_the_open(
    world: World, authority: Authority, stage: str
) -> None:
    heard: list[str] = []

    def echoing(line: str) -> str:
        """Refuse with what was said, and with the token as the server knows it."""
        heard.append(line)
        told = smart.tokens.given[-1]
        if stage == "RCPT" and line.startswith("AUTH"):
            return "235 2.7.0 welcome"
        code = "535 5.7.8" if stage == "AUTH" else "450 4.2.0"
        return f"{code.replace(' ', '-')} bad: {heard[0]}\n{code} {told} is no token"

    replies: dict[str, Any] = dict.fromkeys({"AUTH", stage}, echoing)
    with a_smart_host(world, authority, **replies) as smart:
        smart.configure(SELDOM)
        with world.relaying(environment=smart.environment) as daemon:
            world.send("bob@example.test")
            assert "[password] is no token" in daemon.logged("r=bob@example.test status=deferred .*").string
            never_told(smart, daemon)


def test_a_server_that_cannot_judge_now_costs_no_token(world: World, authority: Authority) -> None:
    with a_smart_host(world, authority, AUTH="454 4.7.0 later") as smart:
        smart.configure(SELDOM)
        with world.relaying(environment=smart.environment) as daemon:
            world.send("bob@example.test")
            daemon.logged("r=bob@example.test status=deferred .*454")

        assert len(smart.server.connections) == len(smart.tokens.given) == 1


@with_and_without_workers
def test_a_revoked_consent_is_told_with_what_to_do_and_mended_by_a_reload(world: World, authority: Authority) -> None:
    with a_smart_host(world, authority) as smart:
        smart.configure(QUICK, **smart.with_refresh_token())
        smart.tokens.refresh_token = "another-refresh-token"
        with world.relaying(environment=smart.environment) as daemon:
            world.send("bob@example.test")
            advice = f"invalid_grant .*put the new refresh token into {smart.refresh}, and reload relayd"
            daemon.logged(f"event=degraded .*tokens of route provider.*{advice}")
            daemon.logged(f"r=bob@example.test status=deferred .*route provider: .*{advice}")
            wait_until(lambda: daemon.log.count("r=bob@example.test status=deferred") >= 2, "another attempt")
            assert len(smart.tokens.requests) == 1  # not for every attempt
            assert "invalid_grant" in world.command("explain", "bob@example.test").stdout
            assert smart.server.connections == []

            secret(smart.refresh, "another-refresh-token")
            daemon.reload()
            daemon.logged("status=delivered")
            daemon.logged("event=restored .*tokens of route provider")
            never_told(smart, daemon, "another-refresh-token")


@with_and_without_workers
def test_a_refresh_token_that_is_replaced_survives_a_restart(world: World, authority: Authority) -> None:
    with a_smart_host(world, authority) as smart:
        smart.configure(QUICK, **smart.with_refresh_token())
        smart.tokens.rotating = True
        smart.tokens.refresh_token = REFRESH
        for count in (1, 2):
            with world.relaying(environment=smart.environment) as daemon:
                world.send("bob@example.test")
                daemon.logged("status=delivered")
                assert smart.refresh.read_text() == f"refresh-{count + 1}-of-the-server\n"
                never_told(smart, daemon, f"refresh-{count + 1}-of-the-server")


def test_a_token_server_that_cannot_be_trusted_gets_nothing(world: World, authority: Authority) -> None:
    with a_smart_host(world, authority) as smart:
        smart.tokens = TokenServer(Authority().server(LOGIN))
        world.run(smart.tokens.__aenter__())
        try:
            smart.configure(SELDOM)
            with world.relaying(environment=smart.environment) as daemon:
                world.send("bob@example.test")
                daemon.logged("r=bob@example.test status=deferred .*no answer from https://login.test")
                never_told(smart, daemon)
            assert smart.tokens.requests == []
        finally:
            world.run(smart.tokens.__aexit__(None, None, None))


class TestNothingIsSentWithoutAuth:
    """A server without it, without the mechanism, or with STARTTLS stripped."""

    @with_and_without_workers
    @pytest.mark.parametrize(
        ("offered", "fields"),
        [
            ("250-mx.test\n250 STARTTLS", {}),
            (ehlo("PLAIN", "LOGIN", "CRAM-MD5"), {}),
            (ehlo("XOAUTH2"), {"auth": ["OAUTHBEARER"]}),
            ("250-mx.test\n250 AUTH XOAUTH2 OAUTHBEARER", {"tls": "opportunistic"}),
            ("250-mx.test\n250 AUTH XOAUTH2 OAUTHBEARER", {"tls": "verify"}),
        ],
        ids=["no AUTH", "no mechanism", "not listed", "stripped", "stripped, enforced"],
    )
    def test_it_waits(self, world: World, authority: Authority, offered: str, fields: dict[str, Any]) -> None:
        with a_smart_host(world, authority, EHLO=offered) as smart:
            smart.configure(SELDOM, **fields)
            with world.relaying(environment=smart.environment) as daemon:
                world.send("bob@example.test")
                daemon.logged(r"r=bob@example.test status=deferred dsn=4\.7\.\d+ ")

            assert not {"AUTH", "MAIL"} & set(smart.verbs())
            assert smart.server.messages == []

    def test_in_clear_text_only_where_the_route_says_so(self, world: World, authority: Authority) -> None:
        with a_smart_host(world, authority, EHLO="250-mx.test\n250 AUTH XOAUTH2") as smart:
            smart.configure(SELDOM, tls="none")
            with world.relaying(environment=smart.environment) as daemon:
                world.send("bob@example.test")
                daemon.logged("status=delivered")

            assert "AUTH" in in_clear(smart.server)


def test_probe_gets_a_token_of_its_own_and_keeps_a_refresh_token_that_is_replaced(
    world: World, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_smart_host(world, authority) as smart:
        smart.configure(SELDOM, **smart.with_refresh_token())
        smart.tokens.rotating = True
        smart.tokens.refresh_token = REFRESH
        for name, value in smart.environment.items():
            monkeypatch.setenv(name, value)
        said = world.command("probe", "bob@example.test", "--json")

        assert json.loads(said.stdout)["probes"][0]["accepted"], said.stdout
        assert smart.refresh.read_text() == "refresh-2-of-the-server\n"
        assert "token-1" not in said.stdout + said.stderr

        smart.tokens.refresh_token = "elsewhere"
        said = world.command("probe", "bob@example.test")
        assert said.returncode == 75
        assert "invalid_grant" in said.stdout
        assert "refresh-2" not in said.stdout + said.stderr


@pytest.mark.parametrize("mode", [0o400, 0o440])
def test_secrets_may_be_the_units_credentials(world: World, authority: Authority, tmp_path: Path, mode: int) -> None:
    """As systemd puts them for LoadCredential=: in a directory of the unit's own."""
    with a_smart_host(world, authority) as smart:
        directory = tmp_path / "credentials"
        directory.mkdir()
        secret(directory / "client", SECRET).chmod(mode)
        smart.configure(SELDOM, oauth_client_secret_file="$CREDENTIALS_DIRECTORY/client")
        for words in (["check-config"], ["doctor"]):  # by hand, outside the unit
            assert "CREDENTIALS_DIRECTORY" not in world.command(*words).stdout + world.command(*words).stderr
        with world.relaying(environment=smart.environment | {"CREDENTIALS_DIRECTORY": str(directory)}) as daemon:
            world.send("bob@example.test")
            daemon.logged("status=delivered")
            never_told(smart, daemon)

        assert smart.tokens.requested[0]["client_secret"] == SECRET
        with world.daemon(environment=smart.environment) as daemon:
            assert daemon.wait() == 78
            assert "oauth_client_secret_file: there is no $CREDENTIALS_DIRECTORY" in daemon.log
