"""What refusals mean, by the words of real servers: from their sources, their postmasters' pages, and logs."""

# ruff: noqa: E501  # a server's words are kept as they came

from __future__ import annotations

import re
import time
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.refusal import (
    LONGEST,
    MOST,
    MOST_CONNECTIONS,
    SHORTEST,
    Refusal,
    asked_delay,
    refusal,
    stated_connections,
)
from relayd.mail.reply import Reply

GREYLISTED = """
450 4.2.0 <ann@example.org>: Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/help/example.org.html
450 4.7.1 <ann@example.org>: Recipient address rejected: Greylisted for 300 seconds (see http://isg.ee.ethz.ch/tools/postgrey/help/example.org.html)
450 4.2.0 <ann@example.org>: Recipient address rejected: example.org greylisted for 60 seconds by ZEROSPAM
450 <ann@example.org>: Recipient address rejected: Greylisted for 181 seconds
451 4.7.1 <ann@example.org>: Recipient address rejected: Greylisted for 5 minutes
451 4.7.1 Greylisting in action, please come back in 00:04:59
451 4.7.1 Greylisting in action, please come back later
452 4.1.1 <ann@example.org> Greylisting in action, please come back later
450 4.7.1 <ann@example.org>: Recipient address rejected: Greylisted by greyfix 0.4.0, try again in 30 seconds. See http://www.kim-minh.com/pub/greyfix/ for more information.
450 <ann@example.org>: Recipient address rejected: Policy Rejection- Hotkey Greylisting in progress ... Please try again after 2 minutes
450 <mx.example.com[192.0.2.1]>: Client host rejected: Policy Rejection- GreyList learning. Please try later.
450 <ann@example.org>: Recipient address rejected: Greylisting in action. Please try delivery again in 240 seconds.
451 Greylisting enabled, try again in 1 minutes
451 sender/recip/ip triad greylisted; retry AFTER A DECENT INTERVAL will succeed
451 4.3.0 Temporarily greylisted as anti-spam measure.  Please try again.
451 <ann@example.org>: Recipient address rejected: Service is greylisted.  Waiting for retransmit.
451 You have been greylisted. This is part of our standard anti-spam measures and your mail system should automatically try again later. We will accept this mail from you in 3 minutes.
450 greylisted
451 4.7.1 Try again later
451 4.7.1 Try again later (greylist)
451 4.7.1 Service unavailable - try again later
451 4.7.1 Temporarily rejected. Try again later.
451 Temporary failure, please try again later.
451 Internal resource temporarily unavailable - https://community.mimecast.com/docs/DOC-1369#451 [Aj3QXapeMpqZYaeFwWhjzw.us32]
451 Internal resources are temporarily unavailable - https://community.mimecast.com/docs/DOC-1369#451
421 4.7.0 Graylisted, please try again later
"""

THROTTLED = """
421-4.7.28 [192.0.2.1] Our system has detected an unusual rate of|421-4.7.28 unsolicited mail originating from your IP address. To protect our|421-4.7.28 users from spam, mail sent from your IP address has been temporarily|421-4.7.28 rate limited. Please visit|421 4.7.28 https://support.google.com/mail/?p=UnsolicitedRateLimitError - gsmtp
421-4.7.0 [192.0.2.1      15] Our system has detected an unusual rate of|421-4.7.0 unsolicited mail originating from your IP address. To protect our|421-4.7.0 users from spam, mail sent from your IP address has been temporarily|421 4.7.0 rate limited. - gsmtp
421-4.7.0 [192.0.2.1] Our system has detected an unusual amount of|421 4.7.0 unsolicited mail originating from your IP address.
421-4.7.26 This mail has been rate limited because it is unauthenticated. Gmail|421 4.7.26 requires all senders to authenticate with either SPF or DKIM.
550 5.7.28 Our system has detected an unusual rate of unsolicited mail
421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints - 4.16.55.1; see https://postmaster.yahooinc.com/error-codes
421 4.7.0 [TS01] Messages from 192.0.2.1 temporarily deferred due to user complaints - 4.16.55.1; see http://postmaster.yahoo.com/421-ts01.html
421 4.7.0 [TS02] Messages from 192.0.2.1 temporarily deferred
421 Message from (192.0.2.1) temporarily deferred - 4.16.50. Please refer to http://help.yahoo.com/help/us/mail/defer/defer-06.html
421 [IPTS04] Messages from (192.0.2.1) temporarily deferred due to unexpected volume or user complaints
451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation. For e-mail delivery information, see https://aka.ms/postmaster (S775) [Name=Protocol Filter Agent][AGT=PFA]
451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (S77714) [BL6PEPF0001AB50.namprd04.prod.outlook.com 2024-07-14T14:44:43.083Z 08DCA36F759CD546]
451 4.7.501 Access denied, please try again later
421 RP-001 (SNT004-MC1F43) Unfortunately, some messages from 192.0.2.1 weren't sent. The mail server IP connecting to Outlook.com server has exceeded the rate limit allowed.
421 4.4.2 Message submission rate for this client has exceeded the configured limit
421 4.1.0 192.0.2.1 Throttled - try again later. Please see http://postmaster.comcast.net/smtp-error-codes.php#RL000003
421 web.de (mxweb113) Nemesis ESMTP Service not available|421 Reject due to policy restrictions Please try again later. Too many messages have been received in a short period of time. Please try again in a few hours and reduce the sending rate.
421 Rate limit reached. Please try again later
421 mwinf5c04 ME Service refuse. Veuillez essayer plus tard. service refused, please try later. OFR_999 [999]
421 mwinf5c04 ME Service refuse. Veuillez essayer plus tard. Service refused, please try later. OFR004_105 [105]
421 4.7.1 Messages to ann@icloud.com deferred due to excessive volume. Try again later - https://support.apple.com/en-us/HT204137
421 Too many spams from your IP (192.0.2.1), please visit http://postmaster.free.fr/
451 too many errors from your ip (192.0.2.1), please visit http://postmaster.free.fr/
451 4.7.1 Received too many messages from a new or untrusted IP: 192.0.2.1 (Z27/80343E7) (G28)
454 Throttling failure: Maximum sending rate exceeded.
454 Throttling failure: Daily message quota exceeded.
452 4.3.2 Connection rate limit exceeded.
450 4.7.1 Error: too much mail from 192.0.2.1
450 4.7.1 Error: too many recipients from 192.0.2.1
451 4.7.1 Ratelimit "user" exceeded
450 4.7.1 <ann@example.org>: Recipient address rejected: Policy Rejection- Quota Exceeded.
450 too frequent connects from 192.0.2.1, please try again later.
451 Domain example.com has exceeded the max emails per hour (150/150 (100%)) allowed.
451 4.7.1 Hourly limit exceeded
452 Too many recipients received this hour. Please see the mail policy
550 Connection frequency limited
421 HL:IFC
451 MI:SFQ 163 smtp
421 4.7.1 : (DYN:T1) http://postmaster.info.aol.com/errors/421dynt1.html
451 Resources restricted, please try again slower
"""

CROWDED = """
421 Too many concurrent SMTP connections; please try again later.
421 Too many concurrent SMTP connections from this IP address; please try again later.
421 4.7.0 mx1.example.org Error: too many connections from 192.0.2.1
421 4.3.2 Too many open connections.
421 4.3.2 mx1.example.org Too many SMTP sessions for this host
421 #4.4.5 Too many connections from your host.
421 #4.4.5 Too many connections to this listener.
421 4.3.2 VPOP3 Too many connections from your IP address - try later
421 4.7.0 Too many concurrent connections
421 4.3.2 The maximum number of concurrent connections per resource forest has exceeded a limit, closing transmission channel. example.com. PRX8 [example.com]
432 4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/concurrent_sending for more information.
451 4.7.652 The mail server [192.0.2.1] has exceeded the maximum number of connections. (S3115)
421 RP-003 The mail server IP connecting to Outlook.com server has exceeded the connection limit allowed.
421 4.4.5 Service unavailable, concurrency limit reached
421 Trop de connexions, veuillez verifier votre configuration. Too many connections, slow down. OFR004_104 [104]
421 Trop de connexions
421 Server busy, too many connections
421 Too many sessions opened
421 4.3.2 Connection refused, too many sessions from 192.0.2.1. Please lower the number of concurrent sessions. IB007
421 imta01.example.org BigPond Inbound Connection refused too many sessions
421 mx.example.org Too many simultaneous sessions
450 too many connections from your IP
450 mx.example.org 192.0.2.1 has too many connections
421 You made too many connections
421 /32 connection limit exceeded
421 HL:ICC
421 4.3.2 All screening ports are busy
421 4.3.2 All server ports are busy
554 5.7.0 Too many connections from 192.0.2.1
"""

OTHER = """
450 4.3.2 Service currently unavailable
421 4.3.2 Service not available, closing transmission channel
421 Temporary failure, please try again later.
421 4.7.0 Try again later, closing connection.
421 4.7.0 me.com Error: too many errors
421-4.7.0 [192.0.2.1] Our system has detected that this message is suspicious|421 4.7.0 due to the very low reputation of the sending domain.
421 Max message per connection reached, closing transmission channel
421 too many messages in this connection
421 #4.x.2 Too many messages for this session
450 4.2.1 The user you are trying to contact is receiving mail at a rate that|450 4.2.1 prevents additional messages from being delivered.
450 User is receiving mail too quickly
450 4.2.1 The recipient has exceeded message rate limit. Try again later.
450 4.7.1 Client host rejected: cannot find your reverse hostname, [192.0.2.1]
450 4.7.1 <relay>: Helo command rejected: Host not found
451 4.7.1 <ann@example.org>: Recipient address rejected: User is over quota, try again later
450 4.1.8 <ann@example.org>: Sender address rejected: Domain not found
450 4.2.0 <ann@example.org> - Recipient temporarily unavailable
451 4.3.0 Mail server temporarily rejected message. - gsmtp
451 4.7.0 Temporary server error. Please try again later. PRX4 NextHop: example.com
451 4.7.5 Certificate validation failed
451 Temporary local problem - please try again later
452 4.5.3 Too many recipients
452 4.3.1 Insufficient system resources (TSTE)
452 4.4.5 Insufficient disk space; try again later
452 4.2.2 The email account that you tried to reach is over quota.
454 4.7.0 TLS not available due to local problem
550 5.1.1 <ann@example.org>: no such user
550 5.7.1 Greylisting is for others; you are blocked
250 2.0.0 queued; greylisted, rate limited, too many connections
354 greylisted
"""

CASES = [
    (line, meaning)
    for meaning, lines in (
        (Refusal.GREYLISTED, GREYLISTED),
        (Refusal.THROTTLED, THROTTLED),
        (Refusal.CROWDED, CROWDED),
        (Refusal.OTHER, OTHER),
    )
    for line in lines.strip().splitlines()
]
REPLIES = st.builds(Reply.parse, st.integers(200, 599), st.text(max_size=300))
FRAGMENTS = st.sampled_from(
    [
        *("try ", "again ", "in ", "wait ", "for ", "5 minutes ", "1h", "00:00:01", "greylist", "greylisted "),
        *("too many ", "smtp ", "concurrent ", "connections ", "maximum ", "number ", "of ", "limit ", "(", "1", ".1"),
        *("messages ", "per ", "this ", "recipient ", "temporarily ", "a", " ", "\n", "x.", "x;", "[", "tss", "{"),
    ]
)


def reply(line: str) -> Reply:
    """Parse what a server wrote, the ends of its lines as `|`."""
    code, text = int(line[:3]), re.sub(r"\|[0-9]{3}[- ]", "\n", line[4:])
    return Reply.parse(code, text)


def heard(text: str) -> Reply:
    return Reply.parse(451, text)


@pytest.mark.parametrize(("line", "meaning"), CASES)
def test_real_words_have_their_meaning(line: str, meaning: Refusal) -> None:
    assert refusal(reply(line)) is meaning


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Greylisted for 300 seconds (see http://postgrey.schweikert.ch/help/example.org.html)", 300),
        ("4.7.1 Greylisting in action, please come back in 00:04:59", 299),
        ("4.7.1 Greylisting in action, please come back in 01:00:00", 3600),
        ("<ann@example.org>: Recipient address rejected: Greylisted for 5 minutes", 300),
        ("Greylisted by greyfix 0.4.0, try again in 30 seconds. See http://www.kim-minh.com/pub/greyfix/", 30),
        ("Hotkey Greylisting in progress ... Please try again after 2 minutes", 120),
        ("Greylisting in action. Please try delivery again in 240 seconds.", 240),
        ("Greylisting enabled, try again in 1 minutes", 60),
        ("You have been greylisted. We will accept this mail from you in 3 minutes.", 180),
        ("example.org greylisted for 60 seconds by ZEROSPAM", 60),
        ("4.2.0 Sender address rejected: Greylisted for 25 sec.", 25),
        ("greylisted, see http://example.org/grey or wait 300 seconds", 300),
        ("greylisted; please retry in 4m 59s", 299),
        ("greylisted, retry after 2 min", 120),
        ("4.7.1 greylisted, try again in 60s", 60),
        ("please wait 1h30m", 5400),
        ("come back in 1 hour and 5 minutes", 3900),
        ("come back in an hour", 3600),
        ("try again in at least 10 minutes", 600),
        ("Too many messages. Try again in 92 seconds.", 92),
        ("temporarily deferred for 15 minutes", 900),
        ("temporarily blocked for 1 day", 86400),
        # no time, or none that anybody means
        ("Greylisted, see http://postgrey.schweikert.ch/help/example.org.html", None),
        ("Please try again in a few hours and reduce the sending rate.", None),
        ("retry AFTER A DECENT INTERVAL will succeed", None),
        ("greylisted for 0 seconds", None),
        ("greylisted for 2 days", None),
        ("try again in 100:00:00", None),
        ("try again in 999999 hours", None),
        ("only 5 recipients per 5 minutes allowed", None),
        ("You sent too many mails in the last 10 minutes", None),
        ("try again in 5 messages", None),
        ("the limit is 300 seconds", None),
        ("", None),
    ],
)
def test_the_time_that_is_asked_for_is_read(text: str, seconds: int | None) -> None:
    assert asked_delay(heard(text)) == (None if seconds is None else timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("4.7.0 Too many connections (max 10)", 10),
        ("Too many connections, max 10 connections per IP", 10),
        ("Too many connections from 192.0.2.1, limit is 5", 5),
        ("too many concurrent sessions (limit: 20)", 20),
        ("no more than 3 concurrent connections, try later", 3),
        ("Maximum number of connections (10) exceeded for 192.0.2.1", 10),
        ("Maximum connections exceeded (5 per ip)", 5),
        ("Connection limit of 30 reached", 30),
        ("Comcast allows 25 simultaneous connections per sending IP address", 25),
        ("Too many sessions: 4 sessions are allowed", 4),
        ("too many connections, only 1 connection at a time", 1),
        # none, or no number that is one
        ("Too many concurrent SMTP connections; please try again later.", None),
        ("Too Many Connections (8) From This IP", None),
        ("the maximum number of connections from 192.0.2.1 is exceeded", None),
        ("maximum number of connections for 10.0.0.1 exceeded", None),
        ("too many connections, limit 10/min", None),
        ("too many connections: max 20 connections per minute", None),
        ("too many connections, limit 100 messages", None),
        ("too many connections (limit: 0)", None),
        ("too many connections (limit: 99999)", None),
        ("too many messages (limit: 20)", None),
        ("greylisted: too many connections (limit: 20)", None),
    ],
)
def test_the_limit_that_is_stated_is_read(text: str, limit: int | None) -> None:
    assert stated_connections(heard(text)) == limit


def test_what_comes_late_in_a_reply_is_not_looked_at() -> None:
    assert refusal(heard("x" * (MOST - 20) + " greylisted ")) is Refusal.GREYLISTED
    assert refusal(heard("x" * MOST + " greylisted ")) is Refusal.OTHER


@given(REPLIES)
def test_any_reply_has_a_meaning_within_bounds(anything: Reply) -> None:
    assert isinstance(refusal(anything), Refusal)
    delay, limit = asked_delay(anything), stated_connections(anything)
    assert delay is None or SHORTEST <= delay <= LONGEST
    assert limit is None or 1 <= limit <= MOST_CONNECTIONS


@given(st.lists(FRAGMENTS, min_size=1, max_size=6).map("".join), st.integers(0, 20))
def test_no_text_of_32_kib_takes_long(unit: str, prefix: int) -> None:
    hostile = heard(("x " * prefix + unit * (32 * 1024 // len(unit)))[: 32 * 1024])

    began = time.process_time()
    for question in (refusal, asked_delay, stated_connections):
        question(hostile)

    assert time.process_time() - began < 0.2  # seconds; it takes some 0.002
