"""EHLO, STARTTLS and AUTH, played (RFC.md R9, R19, R20)."""

from __future__ import annotations

import base64

import pytest

from relayd.mail.outcome import Deferred, Failed, Scope
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.mail.route import Credentials, Site
from relayd.mail.tls import Demand, TlsPolicy, TlsResult
from relayd.relay.capabilities import Capabilities
from relayd.relay.opening import Opened, opening
from relayd.relay.saying import Encrypt, TlsFailed
from tests.relay.kit import a_site

SECRET = Credentials(username="relay", password="hunter2")
EHLO = "EHLO relay.example.org"
PLAIN = "250-mx\n250 AUTH PLAIN"
WITH_TLS = "250-mx\n250 STARTTLS"


def talk(
    site: Site, *replies: str, encrypted: bool = False, starttls: bool = True, token: str = ""
) -> tuple[list[str], Opened | Deferred | Failed | TlsFailed | None]:
    """Play an opening; return what was said (`TLS` for the handshake) and how it ended, None if it did not."""
    said: list[str] = []
    left = [parsed(reply) for reply in replies]
    steps = opening(
        "relay.example.org", site, Demand(level=site.tls), encrypted=encrypted, starttls=starttls, token=token
    )
    try:
        step = next(steps)
        while True:
            said.append("TLS" if isinstance(step, Encrypt) else step.octets.decode().removesuffix("\r\n"))
            if isinstance(step, Encrypt):
                step = steps.send(Reply(220))
            elif left:
                step = steps.send(left.pop(0))
            else:
                return said, None
    except StopIteration as stop:
        assert not left
        result: Opened | Deferred | Failed | TlsFailed = stop.value
        return said, result


def parsed(text: str) -> Reply:
    lines = text.split("\n")
    return Reply.parse(int(lines[0][:3]), "\n".join(line[4:] for line in lines))


def site(tls: TlsPolicy = TlsPolicy.NONE, credentials: Credentials | None = None, configured: bool = False) -> Site:
    return a_site(25, tls=tls, credentials=credentials, configured=configured)


def test_ehlo_tells_what_the_server_offers() -> None:
    assert talk(site(), "250-mx\n250 PIPELINING") == ([EHLO], Opened(Capabilities(pipelining=True), False))


def test_a_mail_exchanger_that_has_our_name_is_ourselves() -> None:
    """H17."""
    _, result = talk(site(), "250-RELAY.example.org hello\n250 PIPELINING")

    assert isinstance(result, Failed)
    assert result.dsn == EnhancedStatus(5, 4, 6)


def test_a_smart_host_may_be_called_what_it_likes() -> None:
    _, result = talk(site(configured=True), "250-relay.example.org hello\n250 PIPELINING")

    assert isinstance(result, Opened)


@pytest.mark.parametrize("code", [500, 501, 502, 504, 550])
def test_helo_follows_where_ehlo_is_refused_for_good(code: int) -> None:
    said, result = talk(site(), f"{code} what", "250-mx\n250 PIPELINING")
    assert said == [EHLO, "HELO relay.example.org"]
    assert result == Opened(Capabilities(), False)


@pytest.mark.parametrize("code", [421, 450, 451])
def test_helo_does_not_follow_where_ehlo_is_refused_for_now(code: int) -> None:
    assert talk(site(), f"{code} later") == ([EHLO], Deferred(Reply(code, "later"), Scope.HOST))


def test_a_reply_of_the_wrong_class_to_ehlo_is_a_protocol_error() -> None:
    _, result = talk(site(), "354 what")
    assert isinstance(result, Deferred)
    assert result.scope is Scope.HOST


@pytest.mark.parametrize("policy", [TlsPolicy.OPPORTUNISTIC, TlsPolicy.REQUIRE, TlsPolicy.VERIFY])
def test_ehlo_is_said_again_after_tls_and_what_was_offered_before_is_forgotten(policy: TlsPolicy) -> None:
    said, result = talk(site(policy), "250-mx\n250-STARTTLS\n250 SIZE 1", "220 go", "250-mx\n250 STARTTLS")
    assert said == [EHLO, "STARTTLS", "TLS", EHLO]
    assert result == Opened(Capabilities(starttls=True), True)


def test_tls_is_never_begun_under_none_nor_where_it_is_there_already() -> None:
    assert talk(site(), WITH_TLS)[0] == [EHLO]
    assert talk(site(TlsPolicy.REQUIRE), WITH_TLS, encrypted=True) == (
        [EHLO],
        Opened(Capabilities(starttls=True), True),
    )


@pytest.mark.parametrize("code", [454, 500, 501, 502, 550])
def test_opportunistic_goes_on_in_clear_where_starttls_is_refused(code: int) -> None:
    said, result = talk(site(TlsPolicy.OPPORTUNISTIC), WITH_TLS, f"{code} no")
    assert said == [EHLO, "STARTTLS"]
    assert result == Opened(Capabilities(starttls=True), False)


@pytest.mark.parametrize("code", [250, 354])
@pytest.mark.parametrize("policy", [TlsPolicy.OPPORTUNISTIC, TlsPolicy.REQUIRE])
def test_a_reply_to_starttls_that_is_neither_yes_nor_no_spoils_the_connection(policy: TlsPolicy, code: int) -> None:
    assert isinstance(talk(site(policy), WITH_TLS, f"{code} hm")[1], TlsFailed)


@pytest.mark.parametrize("policy", [TlsPolicy.REQUIRE, TlsPolicy.VERIFY])
@pytest.mark.parametrize(
    "replies", [["250 mx"], [WITH_TLS, "454 no"], [WITH_TLS, "502 no"], ["502 no EHLO", "250 mx"], [WITH_TLS, "421 no"]]
)
def test_where_tls_is_required_there_is_no_other_way_in(policy: TlsPolicy, replies: list[str]) -> None:
    result = talk(site(policy), *replies)[1]
    if isinstance(result, TlsFailed):
        assert result.result is TlsResult.STARTTLS_NOT_SUPPORTED
        result = result.outcome
    assert isinstance(result, Deferred)
    assert result.scope is Scope.HOST


def test_what_failed_before_is_not_tried_again_and_never_lets_a_required_policy_through() -> None:
    assert talk(site(TlsPolicy.OPPORTUNISTIC), WITH_TLS, starttls=False)[0] == [EHLO]
    assert isinstance(talk(site(TlsPolicy.REQUIRE), WITH_TLS, starttls=False)[1], TlsFailed)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class TestAuth:
    """RFC 4954."""

    def test_plain_is_one_command(self) -> None:
        said, result = talk(site(TlsPolicy.VERIFY, SECRET), "250-mx\n250 AUTH LOGIN PLAIN", "235 ok", encrypted=True)
        assert said[1:] == ["AUTH PLAIN " + b64("\0relay\0hunter2")]
        assert isinstance(result, Opened)

    def test_login_answers_two_questions(self) -> None:
        replies = ["250-mx\n250 AUTH LOGIN", "334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6", "235 ok"]
        said, result = talk(site(TlsPolicy.VERIFY, SECRET), *replies, encrypted=True)
        assert said[1:] == ["AUTH LOGIN", b64("relay"), b64("hunter2")]
        assert isinstance(result, Opened)

    def test_cram_md5_never_says_the_password(self) -> None:
        challenge = b64("<1896.697170952@postoffice.example.net>")
        replies = ["250-mx\n250 AUTH CRAM-MD5", f"334 {challenge}", "235 ok"]
        said, result = talk(
            site(TlsPolicy.VERIFY, Credentials(username="tim", password="tanstaaftanstaaf")), *replies, encrypted=True
        )
        assert said[2] == b64("tim 3dbc88f0624776a737b39093f6eb6427")
        assert isinstance(result, Opened)

    def test_cram_md5_is_preferred_where_the_operator_said_no_tls(self) -> None:
        said, _ = talk(site(TlsPolicy.NONE, SECRET, configured=True), "250-mx\n250 AUTH PLAIN CRAM-MD5", "500 no")
        assert said[1] == "AUTH CRAM-MD5"

    @pytest.mark.parametrize("replies", [["535 5.7.8 no"], ["454 4.7.0 later"], ["334 more"], ["334 more", "334 more"]])
    def test_a_failure_is_the_hosts(self, replies: list[str]) -> None:
        plain = "250-mx\n250 AUTH PLAIN"
        result = talk(site(TlsPolicy.VERIFY, SECRET), plain, replies[0], encrypted=True)[1]
        assert isinstance(result, Deferred)
        assert (result.scope, result.dsn) == (Scope.HOST, EnhancedStatus(4, 7, 8))

    def test_a_challenge_that_is_none_is_the_hosts_failure(self) -> None:
        result = talk(site(TlsPolicy.VERIFY, SECRET), "250-mx\n250 AUTH CRAM-MD5", "334 a", encrypted=True)[1]
        assert isinstance(result, Deferred)

    def test_a_response_that_is_too_long_for_a_command_follows_on_a_line_of_its_own(self) -> None:
        """RFC 4954 section 4: the AUTH command keeps to the 512 octets of a command line."""
        secret, fits = Credentials(username="relay", password="p" * 400), Credentials(username="r", password="p" * 369)
        said, result = talk(site(TlsPolicy.VERIFY, secret), PLAIN, "334 ", "235 ok", encrypted=True)
        assert said[1:] == ["AUTH PLAIN", b64("\0relay\0" + "p" * 400)]
        assert isinstance(result, Opened)

        said, _ = talk(site(TlsPolicy.VERIFY, fits), PLAIN, "235 ok", encrypted=True)
        assert len(said[1]) == 507
        assert said[1].startswith("AUTH PLAIN AHI")

    @pytest.mark.parametrize("listed", [("LOGIN",), ("CRAM-MD5", "LOGIN")])
    def test_only_what_the_route_lists_is_used(self, listed: tuple[str, ...]) -> None:
        secret = Credentials(username="relay", password="hunter2", mechanisms=listed)
        said, _ = talk(site(TlsPolicy.VERIFY, secret), "250-mx\n250 AUTH PLAIN LOGIN", "500 no", encrypted=True)
        assert said[1] == "AUTH LOGIN"

        said, result = talk(site(TlsPolicy.VERIFY, secret), PLAIN, encrypted=True)
        assert len(said) == 1
        assert isinstance(result, Deferred)

    @pytest.mark.parametrize("ehlo", ["250 mx", "250-mx\n250 AUTH GSSAPI"])
    def test_without_a_mechanism_there_is_no_mail(self, ehlo: str) -> None:
        result = talk(site(TlsPolicy.VERIFY, SECRET), ehlo, encrypted=True)[1]
        assert isinstance(result, Deferred)
        assert result.dsn.category == 4

    def test_a_password_does_not_go_over_clear_text_unasked(self) -> None:
        said, result = talk(site(TlsPolicy.OPPORTUNISTIC, SECRET, configured=True), "250-mx\n250 AUTH PLAIN")
        assert said == [EHLO]
        assert isinstance(result, Deferred)


BOTH = "250-mx\n250 AUTH PLAIN XOAUTH2 OAUTHBEARER"
NOT_GOOD = "334 " + b64('{"status":"400","schemes":"Bearer","scope":"https://mail.test/"}')


def with_token(
    *replies: str, listed: tuple[str, ...] = (), username: str = "relay", token: str = "t0ken", encrypted: bool = True
) -> tuple[list[str], Opened | Deferred | Failed | TlsFailed | None]:
    credentials = Credentials(username=username, oauth=True, mechanisms=listed)
    return talk(site(TlsPolicy.OPPORTUNISTIC, credentials), *replies, encrypted=encrypted, token=token)


class TestAuthWithAToken:
    """RFC 7628, and what Google calls XOAUTH2."""

    def test_the_standard_is_preferred(self) -> None:
        said, result = with_token(BOTH, "235 ok")
        assert said[1:] == ["AUTH OAUTHBEARER " + b64("n,a=relay,\1auth=Bearer t0ken\1\1")]
        assert isinstance(result, Opened)

    def test_a_name_with_a_comma_is_a_saslname(self) -> None:
        """RFC 5801 section 4."""
        assert with_token(BOTH, "235 ok", username="a=b,c")[0][1] == "AUTH OAUTHBEARER " + b64(
            "n,a=a=3Db=2Cc,\1auth=Bearer t0ken\1\1"
        )

    def test_xoauth2_is_as_google_has_it(self) -> None:
        said, result = with_token("250-mx\n250 AUTH XOAUTH2", "235 ok", username="someuser@example.com")
        assert said[1:] == ["AUTH XOAUTH2 " + b64("user=someuser@example.com\1auth=Bearer t0ken\1\1")]
        assert isinstance(result, Opened)

    @pytest.mark.parametrize(("mechanism", "answer"), [("XOAUTH2", ""), ("OAUTHBEARER", "AQ==")])
    def test_what_is_wrong_with_it_is_answered_and_told(self, mechanism: str, answer: str) -> None:
        said, result = with_token(BOTH, NOT_GOOD, "535 5.7.8 no", listed=(mechanism,))
        assert said[2:] == [answer]
        assert isinstance(result, Deferred)
        assert result.reply == Reply.parse(535, "5.7.8 no")
        assert (result.scope, result.dsn) == (Scope.HOST, EnhancedStatus(4, 7, 8))
        assert '"status":"400"' in str(result)

    @pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
    def test_what_a_server_says_of_it_is_one_short_line_without_the_token(self, mechanism: str) -> None:
        words = "a\r\nb\x1b[2J\u202e" + "x" * 170 + " t0ken-t0ken-t0ken-t0ken-t0ken-t0ken " + "y" * 1000
        token = "t0ken-t0ken-t0ken-t0ken-t0ken-t0ken"
        _, result = with_token(BOTH, "334 " + b64(words), "535 no", listed=(mechanism,), token=token)
        assert str(result).isprintable()
        assert len(str(result)) < 300
        assert "t0ken" not in str(result)

    @pytest.mark.parametrize("challenge", ["334 ", "334 ***", "334 " + base64.b64encode(b"\xff\xfe").decode()])
    def test_an_error_that_is_none_does_no_harm(self, challenge: str) -> None:
        assert isinstance(with_token(BOTH, challenge, "535 no")[1], Deferred)

    def test_a_server_that_asks_on_and_on_is_left(self) -> None:
        said, result = with_token(BOTH, NOT_GOOD, NOT_GOOD)
        assert len(said) == 3
        assert isinstance(result, Deferred)

    def test_a_long_token_follows_on_a_line_of_its_own_and_may_be_refused_there(self) -> None:
        long = "t" * 2000
        said, result = with_token(BOTH, "334 ", NOT_GOOD, "535 no", token=long)
        assert said[1:] == ["AUTH OAUTHBEARER", b64(f"n,a=relay,\1auth=Bearer {long}\1\1"), "AQ=="]
        assert isinstance(result, Deferred)

    def test_one_that_is_too_long_for_any_line_is_not_sent(self) -> None:
        said, result = with_token(BOTH, token="t" * 10_000)
        assert len(said) == 1
        assert isinstance(result, Deferred)

    def test_it_does_not_go_over_clear_text(self) -> None:
        said, result = with_token(BOTH, encrypted=False)
        assert said == [EHLO]
        assert isinstance(result, Deferred)

    def test_a_password_mechanism_is_none_for_it(self) -> None:
        said, result = with_token("250-mx\n250 AUTH PLAIN LOGIN CRAM-MD5")
        assert len(said) == 1
        assert isinstance(result, Deferred)
