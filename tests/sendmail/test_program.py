"""The command as programs call it: what is dropped, what is told, and with which exit code."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from pathlib import Path

import pytest

from relayd.mail.address import Address
from relayd.mail.key import SubmissionKey
from relayd.mail.recipient import Notify
from tests.sendmail.support import Sendmail
from tests.support.process import ROOT


def test_php_hands_a_message_over(sendmail: Sendmail) -> None:
    header = b"To: bob@example.net, Eve <eve@example.net>\r\nSubject: x\r\nBcc: mal@example.net\r\n"
    content = header + b"\r\nhello\r\n.\r\nmore\r\n"

    done = sendmail("-t", "-i", "-fbounce@example.org", content=content)

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    message, sent = sendmail.message()
    assert message.envelope.reverse_path == Address.parse("bounce@example.org")
    assert sendmail.recipients() == ["bob@example.net", "eve@example.net", "mal@example.net"]
    assert sent.endswith(b"\r\n\r\nhello\r\n.\r\nmore\r\n")
    assert b"mal@" not in sent
    assert message.body.canonical


def test_cron_hands_a_message_over(sendmail: Sendmail) -> None:
    content = b'From: "(Cron Daemon)" <root>\nTo: root\nSubject: Cron\n\noutput\n'

    done = sendmail(*["-FCronDaemon", "-i", "-odi", "-oem", "-oi", "-t", "-f", "root"], content=content)

    assert (done.returncode, done.stderr) == (0, b"")
    assert sendmail.message()[0].envelope.reverse_path == Address.parse("root@origin.example")
    assert sendmail.recipients() == ["ops@example.org", "d@example.org"]
    header = b'From: "(Cron Daemon)" <root@origin.example>\r\nTo: root@origin.example\r\n'
    assert sendmail.message()[1].startswith(header), "elsewhere nobody would know who root is"


def test_mutt_hands_a_message_over(sendmail: Sendmail) -> None:
    words = "-oem -oi -f me@example.org -N failure,delay -R hdrs -V id=1 -- bob@example.net duty"

    assert sendmail(*words.split()).returncode == 0

    envelope = sendmail.message()[0].envelope
    assert (envelope.ret, envelope.envid) == ("HDRS", "id+3D1")
    assert {each.notify for each in envelope.recipients} == {Notify.FAILURE | Notify.DELAY}
    assert sendmail.recipients() == ["bob@example.net", "d@example.org"]


def test_recipients_of_the_command_line_and_of_the_header_are_added(sendmail: Sendmail) -> None:
    done = sendmail("-t", "bob@example.net,Eve <eve@example.net>", content=b"Cc: ann@example.org\n\nhello\n")

    assert done.returncode == 0
    assert sendmail.recipients() == ["bob@example.net", "eve@example.net", "ann@example.org"]


def test_without_t_the_header_names_nobody(sendmail: Sendmail) -> None:
    assert sendmail("bob@example.net", content=b"To: ann@example.org\n\nhello\n").returncode == 0

    assert sendmail.recipients() == ["bob@example.net"]


def test_of_a_message_that_was_sent_again_those_of_the_newest_block_get_it(sendmail: Sendmail) -> None:
    content = b"Resent-To: new@example.net\nResent-From: a@example.org\nTo: old@example.net\n\nhello\n"

    assert sendmail("-t", content=content).returncode == 0

    assert sendmail.recipients() == ["new@example.net"]


@pytest.mark.parametrize("words", [["-f", ""], ["-f", "<>"], ["-f<>"]], ids=range(3))
def test_the_null_sender(sendmail: Sendmail, words: list[str]) -> None:
    assert sendmail(*words, "bob@example.net").returncode == 0

    message, sent = sendmail.message()
    assert message.envelope.reverse_path is None
    assert b"From:" not in sent  # the daemon writes one
    assert b"From: MAILER-DAEMON@relay.example.org" in message.body.prefix


def test_who_calls_is_the_sender_if_nobody_is_named(sendmail: Sendmail) -> None:
    assert sendmail("bob@example.net").returncode == 0

    message, sent = sendmail.message()
    assert message.envelope.reverse_path == Address(getpass.getuser(), "origin.example")
    assert f"<{getpass.getuser()}@origin.example>".encode() in sent or b"From: " in sent


@pytest.mark.parametrize(
    ("words", "env", "line"),
    [
        (["-F", "Ann Other"], {}, b"From: Ann Other <ann@example.org>\r\n"),
        (["-F", 'A "B", C'], {}, b'From: "A \\"B\\", C" <ann@example.org>\r\n'),
        (["-F", "J\u00f6rg"], {}, b"From: =?utf-8?b?SsO2cmc=?= <ann@example.org>\r\n"),
        (["-F", "Ann\nTo: eve@x.example"], {}, b'From: "Ann To: eve@x.example" <ann@example.org>\r\n'),
        ([], {"NAME": "From Environment"}, b"From: From Environment <ann@example.org>\r\n"),
        ([b"-F\xff"], {}, b"From: ann@example.org\r\n"),
    ],
    ids=range(6),
)
def test_from_is_added_with_the_full_name(
    sendmail: Sendmail, words: list[str | bytes], env: dict[str, str], line: bytes
) -> None:
    done = sendmail(*words, "-fann@example.org", "bob@example.net", env=env)

    assert done.returncode == 0, done.stderr
    assert sendmail.message()[1].startswith((line, line.replace(b"From: ann", b"From: root <ann")))


def test_a_dot_alone_ends_it_unless_i_is_given(sendmail: Sendmail) -> None:
    assert sendmail("bob@example.net", content=b"\na\n.\nb\n").returncode == 0

    assert sendmail.message()[1].endswith(b"\r\n\r\na\r\n")


def test_an_empty_message_is_one(sendmail: Sendmail) -> None:
    assert sendmail("bob@example.net", content=b"").returncode == 0

    assert sendmail.message()[1].endswith(b"@origin.example>\r\n\r\n") or sendmail.message()[1].endswith(b"\r\n\r\n")


def test_a_key_goes_with_it_and_where_no_daemon_runs_nothing_is_printed(sendmail: Sendmail) -> None:
    done = sendmail("--key", "order 7", "bob@example.net")

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert sendmail.message()[0].key == SubmissionKey(os.geteuid(), "order 7")


@pytest.mark.parametrize(
    ("words", "content", "code", "told"),
    [
        ([], b"", 64, "no recipients: name them on the command line, or say -t"),
        (["-t"], b"Subject: x\n\nhello\n", 64, "no recipients in the header: To, Cc and Bcc name none"),
        (["-t"], b"To: undisclosed-recipients:;\n\nhello\n", 64, "no recipients in the header"),
        (["-Z"], b"", 64, "-Z: no such option"),
        (["a b@example.net"], b"", 65, "the recipient cannot be read as addresses: 'a b@example.net'"),
        (["bob@-example.net"], b"", 65, "the recipient has an address that cannot be used"),
        (["bob@example.net\nX-Receiver: eve@example.com"], b"", 65, "the recipient cannot be read as addresses"),
        (["-f", "a@example.org\nX-Receiver: eve@example.com", "bob"], b"", 65, "the sender cannot be read"),
        (["-f", "a@example.org,b@example.org", "bob"], b"", 65, "the sender is not one address"),
        (["-f", "a@@", "bob"], b"", 65, "the sender has an address that cannot be used"),
        (["-t"], b"To: a b@example.net\n\nhello\n", 65, "To cannot be read as addresses"),
        (["bob"], b"X-Relayd-Deadline: soon\n\nhello\n", 65, "X-Relayd-Deadline is neither"),
        (["bob"], b"Received: x\n" * 100, 65, "a mail loop"),
        (["-bv"], b"", 64, "no recipients to be verified"),
        (["-q"], b"", 69, "no relayd answers"),
    ],
    ids=range(15),
)
def test_what_would_be_rejected_later_is_told_at_once(
    sendmail: Sendmail, words: list[str], content: bytes, code: int, told: str
) -> None:
    done = sendmail(*words, content=content)

    assert (done.returncode, done.stdout) == (code, b"")
    assert done.stderr.decode().startswith(f"sendmail: {told}")
    assert done.stderr.count(b"\n") == 1
    assert sendmail.files == []


def test_a_message_that_is_too_large_is_not_taken(tmp_path: Path) -> None:
    sendmail = Sendmail(tmp_path, {"max_message_size": "100KiB"})

    done = sendmail("bob@example.net", content=b"\n" + b"x" * 100 * 1024)

    assert (done.returncode, sendmail.files) == (69, [])
    assert done.stderr == b"sendmail: the message is larger than 102400 octets\n"


def test_a_large_message_passes_through_in_little_memory(sendmail: Sendmail) -> None:
    content = b"Subject: x\n\n" + b"0123456789abcde\n" * 2_500_000
    program = """
from relayd.__main__ import main
try:
    main()
finally:
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""

    done = subprocess.run(
        [sys.executable, "-c", program, "sendmail", "bob@example.net"],
        input=content,
        capture_output=True,
        env=sendmail.environment(),
        timeout=60,
        check=True,
    )

    assert int(done.stdout) < 60_000, "KiB"
    (file,) = sendmail.files
    assert file.stat().st_size > len(content)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (None, "No such file or directory"),
        ("[relay\n", "Expected"),
        ("relay = 1\n", "relay: must be a table"),
        ("[relay]\nspool = 1\n", "relay.spool: must be a text"),
        ('[relay]\nmax_message_size = "many"\n', "must be a size"),
        ('[relay]\nhostname = "-"\n', "not a domain name"),
        ("[aliases]\nroot = 1\n", "aliases.root: must be an address"),
    ],
    ids=range(7),
)
def test_a_configuration_that_cannot_be_used_is_told(sendmail: Sendmail, config: str | None, told: str) -> None:
    sendmail.config.unlink()
    if config is not None:
        sendmail.config.write_text(config)

    done = sendmail("bob@example.net")

    assert done.returncode == 78
    assert done.stderr.decode().startswith(f"sendmail: {sendmail.config}: ")
    assert told in done.stderr.decode()


def test_the_configuration_is_named_in_any_of_three_ways(sendmail: Sendmail, tmp_path: Path) -> None:
    other = Sendmail(tmp_path / "other")

    assert sendmail("-C", str(other.config), "bob@example.net").returncode == 0
    assert sendmail("--config", str(other.config), "bob@example.net").returncode == 0
    command = [sys.executable, "-m", "relayd", "--config", str(other.config), "sendmail", "-i", "--", "bob@example.net"]
    subprocess.run(command, input=b"\nhello\n", env=sendmail.environment(), timeout=60, check=True)

    assert (len(other.files), sendmail.files) == (3, [])


def test_by_the_names_of_links_it_is_those_commands(sendmail: Sendmail) -> None:
    assert sendmail.called("sendmail", "-i", "bob@example.net").returncode == 0
    assert len(sendmail.files) == 1
    (sendmail.directory / "bin" / "sendmail").unlink()
    assert sendmail.called("newaliases").returncode == 0
    queue = sendmail.called("mailq")
    assert (queue.returncode, b"has relayd run there?" in queue.stderr) == (70, True)


def test_it_verifies_without_sending(sendmail: Sendmail) -> None:
    done = sendmail("-bv", "root", "Bob <bob@EXAMPLE.net>")

    assert done.stdout.decode().splitlines() == [
        "root: ops@example.org",
        "root: d@example.org",
        "bob@example.net: bob@example.net",
    ]
    assert sendmail.files == []


def test_it_starts_without_what_it_does_not_need(sendmail: Sendmail) -> None:
    program = (
        "import sys; from relayd.__main__ import run_sendmail as run; run('sendmail', ['bob']); print(*sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        input=b"",
        capture_output=True,
        env=sendmail.environment(),
        timeout=60,
        check=True,
    )

    imported = set(done.stdout.decode().split())
    assert "relayd.sendmail.program" in imported
    assert not imported & {"asyncio", "pydantic", "click", "aiohttp", "relayd.config", "relayd.daemon", "ctypes"}


def test_with_the_standard_descriptors_closed_no_message_goes_astray(sendmail: Sendmail) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "{sys.executable}" -m relayd sendmail -Z bob <&- >&- 2>&-'],
        env=sendmail.environment(),
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 64

    done = subprocess.run(
        ["sh", "-c", f'exec "{sys.executable}" -m relayd sendmail bob <&- >&- 2>&-'],
        env=sendmail.environment(),
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert sendmail.message()[1].endswith(b"\r\n\r\n")
