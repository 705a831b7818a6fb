"""`relayd queue`, without a daemon; beside one it is shown in tests/wire/test_daemon.py."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from relayd.cli import acting
from relayd.mail.deadline import DeadlineMode
from relayd.mail.recipient import Status
from tests.cli.situations import CommandLine, Said, messages, waiting
from tests.spool.mail import NOW, a_message, by
from tests.support.process import ROOT

MESSAGE_KEYS = {
    *("id", "arrived", "sender", "size", "held", "hold_reason", "in_flight", "deadline", "deadline_mode", "finished"),
    "recipients",
}
RECIPIENT_KEYS = {
    *("address", "status", "attempts", "due", "reply", "dsn", "host", "attempted", "possible_duplicate"),
}


def piped(relayd: CommandLine, command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell's pipeline in which `relayd` is the command with its configuration; all its exit codes count."""
    program = f'relayd() {{ "{sys.executable}" -m relayd --config "{relayd.config}" "$@"; }}; set -o pipefail; '
    return subprocess.run(
        ["bash", "-c", program + command],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


# looking


def test_a_list_has_a_line_for_each_message_and_each_recipient(relayd: CommandLine) -> None:
    message = waiting(relayd, "ann@one.example", "bob@one.example")

    assert relayd("queue", "list").out.splitlines() == [
        f"{message.id}  2026-11-22T12:00:00Z       110  sender@origin.example",
        "  ann@one.example  deferred, 1 attempt, due 2026-11-22T12:01:00Z: 450 4.2.1 not now",
        "  bob@one.example  deferred, 1 attempt, due 2026-11-22T12:01:00Z: 450 4.2.1 not now",
        "1 message",
    ]


def test_an_empty_queue_is_listed_as_such(relayd: CommandLine) -> None:
    relayd.queue()

    assert relayd("queue", "list").out == "0 messages\n"
    assert relayd("queue", "list", "--json").json == []


def test_a_list_for_programs_has_stable_keys(relayd: CommandLine) -> None:
    message = waiting(relayd)

    [listed] = relayd("queue", "list", "--json").json

    assert set(listed) == MESSAGE_KEYS
    assert set(listed["recipients"][0]) == RECIPIENT_KEYS
    assert (listed["id"], listed["arrived"]) == (message.id, "2026-11-22T12:00:00.000Z")
    assert listed["recipients"][0]["due"] == "2026-11-22T12:01:00.000Z"


def test_a_list_may_be_limited_to_the_oldest(relayd: CommandLine) -> None:
    oldest = a_message(arrived=NOW - timedelta(days=1))
    relayd.queue(*messages(2), oldest)

    assert [each["id"] for each in relayd("queue", "list", "--limit", "1", "--json").json] == [oldest.id]


def test_a_deadline_is_listed_and_shown(relayd: CommandLine) -> None:
    message = a_message(deadline=by(NOW + timedelta(hours=2), DeadlineMode.RETURN))
    relayd.queue(message)

    (first, *_) = relayd("queue", "list").out.splitlines()
    shown = relayd("queue", "show", message.id, "--json").json

    assert first.endswith("  (deadline 2026-11-22T14:00:00Z)")
    assert (shown["deadline"], shown["deadline_mode"]) == ("2026-11-22T14:00:00.000Z", "return")


def test_a_message_from_the_null_path_is_shown_as_such(relayd: CommandLine) -> None:
    message = a_message(sender=None)
    relayd.queue(message)

    assert " <>\n" in relayd("queue", "list").out
    assert relayd("queue", "show", message.id, "--json").json["sender"] == ""


@pytest.mark.parametrize("command", [["list"], ["show", "ID"]])
def test_an_escape_sequence_in_a_reply_is_printed_harmlessly(relayd: CommandLine, command: list[str]) -> None:
    message = waiting(relayd, reply="450 \x1b[31mred\x1b]0;title\x07 \x9b2J\r\nq=forged [bold]")

    said = relayd("queue", *(message.id if word == "ID" else word for word in command))

    assert "450 ?[31mred?]0;title? ?2J??q=forged [bold]\n" in said.out
    assert all(line.isprintable() for line in said.out.split("\n"))


def test_an_escape_sequence_in_a_reply_reaches_a_program_as_it_came(relayd: CommandLine) -> None:
    message = waiting(relayd, reply="450 \x1b[31mred")

    said = relayd("queue", "show", message.id, "--json")

    assert "\x1b" not in said.out
    assert said.json["recipients"][0]["reply"] == "450 \x1b[31mred"


def test_a_finished_message_is_shown_with_the_same_keys(relayd: CommandLine) -> None:
    message = a_message()
    relayd.queue(message)
    relayd.attempt(message, Status.DELIVERED, reply="250 2.0.0 taken")

    shown = relayd("queue", "show", message.id, "--json").json

    assert set(shown) == {*MESSAGE_KEYS, "header"}
    assert set(shown["recipients"][0]) == RECIPIENT_KEYS
    assert shown["finished"] == "2026-11-22T12:00:00.000Z"
    assert relayd("queue", "list", "--json").json == []


def test_a_message_is_shown_a_fact_to_a_line(relayd: CommandLine) -> None:
    message = waiting(relayd)

    shown = relayd("queue", "show", message.id).out.splitlines()

    assert shown[0].split() == ["id:", message.id]
    assert "recipient:" in shown
    assert "  reply:              450 4.2.1 not now" in shown


def test_who_has_seen_enough_of_a_list_is_not_complained_to(relayd: CommandLine) -> None:
    relayd.queue(*messages(3000))

    done = piped(relayd, "relayd queue list | head -1; relayd queue list --json | head -1")

    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 2)


def test_a_long_queue_is_listed_without_being_kept_in_memory(relayd: CommandLine) -> None:
    peaks = []
    for count in (1, 6000):
        relayd.queue(*messages(count))
        words = [sys.executable, "-c", PEAK, "--config", str(relayd.config), "queue", "list"]
        done = subprocess.run(
            words, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=True
        )
        peaks.append(int(done.stderr))

    assert peaks[1] - peaks[0] < 6000  # KiB; the messages as objects would be several times that


PEAK = """
import resource, sys
from relayd.__main__ import run
run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


# acting


@pytest.mark.parametrize(
    ("verb", "key", "done"),
    [
        ("hold", "held", "held"),
        ("release", "released", "released"),
        ("retry", "retried", "to be tried now"),
        ("remove", "removed", "removed"),
    ],
)
def test_a_verb_tells_to_how_many_messages_it_was_done(relayd: CommandLine, verb: str, key: str, done: str) -> None:
    first, second = a_message(), a_message()
    relayd.queue(first, second)

    assert relayd("queue", verb, first.id, "--json").json == {key: 1, "missing": [], "daemon": False}
    assert relayd("queue", verb, second.id, second.id).out == f"1 {done}; no daemon is running\n"


def test_a_held_message_says_why(relayd: CommandLine) -> None:
    message = a_message()
    relayd.queue(message)
    relayd("queue", "hold", message.id)

    [listed] = relayd("queue", "list", "--json").json

    assert (listed["held"], listed["hold_reason"]) == (True, "held by an operator")
    assert f"(held by an operator)\n  {message.envelope.recipients[0].address}" in relayd("queue", "list").out


def test_of_several_messages_the_missing_are_named_and_the_others_done(relayd: CommandLine) -> None:
    message = a_message()
    relayd.queue(message)

    said = relayd("queue", "remove", "nothing", message.id, "\x1b[2J")

    assert (said.code, said.out) == (65, "1 removed; no daemon is running\n")
    assert said.err == "relayd: no message nothing in the queue\nrelayd: no message ?[2J in the queue\n"


def test_all_means_all_in_pieces_too(relayd: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acting, "PIECE", 3)
    relayd.queue(*messages(10))

    assert relayd("queue", "remove", "--all", "--json").json["removed"] == 10
    assert relayd("queue", "list", "--json").json == []


def test_of_a_selection_what_is_held_is_released(relayd: CommandLine) -> None:
    held, other = a_message("a@one.example"), a_message("b@one.example")
    relayd.queue(held, other)
    relayd("queue", "hold", held.id)

    assert relayd("queue", "release", "--domain", "one.example", "--yes").out.startswith("1 released")
    assert relayd("queue", "release", "--all").out.startswith("0 released")


def test_all_of_nothing_is_nothing(relayd: CommandLine) -> None:
    relayd.queue()

    assert relayd("queue", "retry", "--all").code == 0


# selecting


def test_what_is_listed_can_be_selected(relayd: CommandLine) -> None:
    one, two = a_message("ann@one.example"), a_message("bob@sub.two.example", sender=None)
    relayd.queue(one, two)
    waiting(relayd, "cyd@three.example")

    def found(*options: str) -> list[str]:
        return sorted(each["recipients"][0]["address"] for each in relayd("queue", "list", "--json", *options).json)

    assert found("--domain", "one.example") == ["ann@one.example"]
    assert found("--domain", "*.TWO.example") == ["bob@sub.two.example"]
    assert found("--to", "bob@sub.two.example") == ["bob@sub.two.example"]
    assert found("--sender", "<>") == ["bob@sub.two.example"]
    assert found("--sender", "origin.example", "--status", "queued") == ["ann@one.example"]
    assert found("--status", "deferred") == ["cyd@three.example"]
    assert found("--older", "1s", "--sender", "sender@origin.example") == ["ann@one.example", "cyd@three.example"]
    assert found("--younger", "1s") == []


def test_what_is_selected_is_counted_first_and_done_when_that_is_agreed_to(relayd: CommandLine) -> None:
    relayd.queue(a_message("ann@one.example", "bob@two.example"), a_message("cyd@three.example"))

    asked = relayd("queue", "hold", "--domain", "one.example")
    done = relayd("queue", "hold", "--domain", "one.example", "--yes")

    assert (asked.code, asked.out) == (64, "")
    assert (
        "1 message, 2 recipients waiting (1 of them elsewhere); to hold it without being asked, give --yes" in asked.err
    )
    assert done.out == "1 held; no daemon is running\n"
    assert [each["held"] for each in relayd("queue", "list", "--json").json].count(True) == 1


@pytest.mark.parametrize(("answer", "held"), [("y", 1), ("n", 0)])
def test_on_a_terminal_it_is_asked(relayd: CommandLine, answer: str, held: int) -> None:
    relayd.queue(a_message())

    program = f"{sys.executable} -m relayd --config {relayd.config} queue hold --domain one.example"
    child, terminal = pty.fork()
    if child == 0:
        os.environ["PYTHONPATH"] = str(ROOT)
        os.execvp("sh", ["sh", "-c", program])
    said = b""
    while b"[y/N]" not in said:
        said += os.read(terminal, 1000)
    os.write(terminal, answer.encode() + b"\n")
    with suppress(OSError):  # the end of a terminal
        while more := os.read(terminal, 1000):
            said += more
    os.waitpid(child, 0)

    assert b"1 message, 1 recipient waiting: hold all of it? [y/N]" in said
    assert [each["held"] for each in relayd("queue", "list", "--json").json].count(True) == held


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--domain", "a b"], "a pattern is a domain, *.domain or *, not 'a b'"),
        (["--to", "nobody"], "not local-part@domain"),
        (["--older", "4"], 'must be a duration as "30s", "5m", "4h" or "5d", not \'4\''),
        (["--status", "lost"], "status is queued, deferred, held, in-flight, not 'lost'"),
        (["--domain", "one.example", "ID"], "name messages by id, or say which by options, or give --all"),
    ],
)
def test_a_selection_that_makes_no_sense_is_a_usage_error(relayd: CommandLine, option: list[str], words: str) -> None:
    relayd.queue()

    said = relayd("queue", "hold", *option)

    assert said.code == 64
    assert words in said.err


def test_a_message_is_removed_with_a_bounce(relayd: CommandLine) -> None:
    message = a_message()
    relayd.queue(message)

    assert relayd("queue", "remove", "--bounce", message.id, "--json").json["bounced"] == 1

    [recipient] = relayd("queue", "show", message.id, "--json").json["recipients"]
    assert (recipient["status"], recipient["reply"]) == ("failed", "removed by an operator")


def test_a_message_is_redirected_to_a_route_that_there_is(relayd: CommandLine) -> None:
    message = a_message()
    relayd.queue(message)

    said = relayd("queue", "redirect", "--route", "spare", message.id)

    assert (said.code, said.err) == (65, "relayd: no route spare in the configuration; there are: none\n")
    with relayd.config.open("a") as config:
        config.write('[[route]]\nname = "spare"\nmatch = []\nhosts = ["192.0.2.1"]\n')
    assert relayd("queue", "redirect", "--route", "spare", message.id).out == "1 redirected; no daemon is running\n"
    assert relayd("explain", message.id, "--json").json["explanations"][0]["destination"] == "spare/one.example"
    relayd("queue", "redirect", "--route", "-", message.id)
    assert relayd("explain", message.id, "--json").json["explanations"][0]["destination"] == "one.example"


def test_a_view_is_shown_again_and_again_until_it_is_interrupted(relayd: CommandLine) -> None:
    message = a_message()
    relayd.queue(message)
    watching = subprocess.Popen(
        [sys.executable, "-m", "relayd", "--config", str(relayd.config), "queue", "list", "--watch", "0.2"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None

    seen = 0
    for line in watching.stdout:
        seen += message.id in line
        if seen == 2:
            break
    watching.send_signal(signal.SIGINT)

    assert watching.wait(timeout=30) == 0


# what goes wrong


@pytest.mark.parametrize(
    "words",
    [
        ["hold"],
        ["hold", "--all", "ID"],
        ["show"],
        ["list", "--limit", "0"],
        ["list", "--nothing"],
        ["nothing"],
    ],
)
def test_a_wrong_command_is_a_usage_error(relayd: CommandLine, words: list[str]) -> None:
    relayd.queue()

    said = relayd("queue", *words)

    assert (said.code, said.out) == (64, "")
    assert said.err.startswith("Usage: relayd queue")


@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["show", "X"], ["hold", "X"], ["retry", "--all"]])
def test_without_a_queue_the_commands_say_where_they_looked(relayd: CommandLine, words: list[str]) -> None:
    said = relayd("queue", *words)

    assert (said.code, said.out) == (70, "")
    assert said.err == f"relayd: there is no queue at {relayd.spool}: has relayd run there?\n"


def test_a_queue_that_is_none_is_not_touched(relayd: CommandLine) -> None:
    relayd.spool.mkdir()
    (relayd.spool / "queue.db").write_bytes(b"not a database, but long enough to be taken for one" * 50)

    said = relayd("queue", "list")

    assert said.code == 70
    assert said.err.startswith(f"relayd: {relayd.spool}/queue.db: ")
    assert (relayd.spool / "queue.db").read_bytes().startswith(b"not a database")


def test_a_message_that_is_not_there_is_told(relayd: CommandLine) -> None:
    relayd.queue()

    said = relayd("queue", "show", "\x1b[2Jnothing")

    assert (said.code, said.err) == (65, "relayd: no message ?[2Jnothing in the queue or its history\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
@pytest.mark.parametrize(
    ("spool_mode", "words"),
    [(0o700, "Permission denied"), (0o755, "only root and relayd's own user may use it")],
)
def test_who_may_not_use_the_queue_is_told_so(capsys: pytest.CaptureFixture[str], spool_mode: int, words: str) -> None:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are not open to other users
        relayd = CommandLine(Path(directory), capsys)
        relayd.queue(*messages(1))
        Path(directory).chmod(0o755)
        relayd.spool.chmod(spool_mode)
        (relayd.spool / "queue.db").chmod(0o600)

        said = as_nobody(lambda: relayd("queue", "list"))

    assert (said.code, said.out) == (71, "")
    assert words in said.err


def as_nobody(act: Callable[[], Said]) -> Said:
    """Do something in a child that has given up its privileges."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            act()  # imports what it needs: an interpreter in a home directory is not everybody's to read
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            said = act()
            os.write(write, json.dumps([said.code, said.out, said.err]).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return Said(*json.loads(text))


# counting


def test_stats_tell_what_waits_and_what_has_finished(relayd: CommandLine) -> None:
    waiting(relayd, "ann@one.example", "bob@one.example")
    held, done = a_message(), a_message(arrived=datetime.now(UTC) - timedelta(seconds=90))
    relayd.queue(held, done)
    relayd("queue", "hold", held.id)
    relayd("queue", "remove", "--bounce", done.id)
    relayd("queue", "remove", done.id)

    said = relayd("queue", "stats", "--json").json
    lines = relayd("queue", "stats").out.splitlines()

    assert {how: counts["total"] for how, counts in said["waiting"].items()} == {
        "queued": 0,
        "deferred": 2,
        "held": 1,
        "in-flight": 0,
    }
    assert lines[1].split()[:2] == ["waiting", "3"]
    assert "sites out of reach: 0" in lines


def test_stats_tell_how_long_it_took(relayd: CommandLine) -> None:
    message = a_message()
    relayd.queue(message)
    relayd.attempt(message, Status.DELIVERED, at=NOW + timedelta(seconds=45))

    said = relayd("queue", "stats", "--since", "36500d", "--json").json["finished"]

    assert said["messages"] == 1
    assert said["recipients"] == {"delivered": 1, "failed": 0, "removed": 0}
    assert said["median_seconds"] == said["slow_seconds"] == 45
    assert "half within 45 s, 95 % within 45 s" in relayd("queue", "stats", "--since", "36500d").out
    assert relayd("queue", "stats").out.endswith("0 messages; recipients: 0 delivered, 0 failed, 0 removed\n")
