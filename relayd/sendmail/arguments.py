"""The command line of sendmail, as callers write it: single letters, together or apart, values attached or not.

Pure.  The first word that is no option begins the recipients, `--` ends the options (getopt(3), as Postfix has it).
What other sendmails take and need not be done here is taken and has no effect.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from relayd.mail.key import is_key
from relayd.mail.recipient import Notify
from relayd.sendmail.failure import EX_USAGE, Failure

USAGE = """\
Usage: relayd sendmail [-ti] [-f SENDER] [-F NAME] [-N DSN] [-R full|hdrs] [-V ENVID] [--key KEY] [RECIPIENT]...
       relayd sendmail -bs | -bp | -bv RECIPIENT... | -q

Takes a message from standard input and drops it for relayd.  When it ends with 0 the message is on the disk.
relayd does the same where it is called sendmail, by a link.

  -t             recipients from To, Cc and Bcc, and those named here
  -i, -oi        a line with a dot alone does not end the message
  -f, -r SENDER  whom notifications go to; '' or '<>' for nobody
  -F NAME        of the sender, for a message without From
  -N DSN         when to be notified: never, or of success, failure, delay, with commas
  -R full|hdrs   how much of the message comes back in a notification
  -V ENVID       an identifier that comes back in a notification
  --key KEY      a second message with this key, within 24 hours, is not sent; prints the queue id of the first
  -bs            speak SMTP on standard input and output
  -bp            list the queue, as mailq does
  -bv            say what becomes of recipients, and send nothing
  -q             let relayd look at its queue now
  -C, --config FILE  the configuration (default: RELAYD_CONFIG, or /etc/relayd/config.toml)
"""

_VALUED = frozenset("ABCFLNORVXbefhopr")  # the next word, or the rest of this one
_BARE = frozenset("GIUcimntvx")
_MAX_ENVID = 100  # characters, as sent (RFC 3461 section 4.4)
_MODES_REFUSED = {"d": "relayd runs as a service", "D": "relayd runs as a service", "t": "there is no test mode"}


class Mode(Enum):
    """What is to be done."""

    DELIVER = "m"
    SMTP = "s"
    LIST = "p"
    VERIFY = "v"
    ALIASES = "i"  # nothing: they are read from the configuration
    WAKE = "q"
    HELP = "h"


_BY_NAME = {"mailq": Mode.LIST, "newaliases": Mode.ALIASES}
NAMES = ("sendmail", *_BY_NAME)  # under which the program is that command


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """What was asked for.  `sender` is None if it was not given, empty for nobody; `envid` is in xtext."""

    mode: Mode = Mode.DELIVER
    sender: str | None = None
    full_name: str = ""
    from_header: bool = False
    dot_ends: bool = True
    notify: str = ""
    ret: str = ""
    envid: str = ""
    key: str = ""
    config: str = ""
    recipients: tuple[str, ...] = ()


def read_arguments(name: str, words: Sequence[str]) -> Invocation:
    """Return what a command line asks for, of a program called `name`.

    Raises:
        Failure: it is wrong.
    """
    invocation = Invocation(mode=_BY_NAME.get(name, Mode.DELIVER))
    left = list(words)
    while left and left[0].startswith("-") and left[0] != "-":
        word = left.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            invocation = _long(invocation, word, left)
        else:
            for letter, value in _letters(word, left):
                invocation = _letter(invocation, letter, value)
    return _checked(replace(invocation, recipients=tuple(left)))


def _letters(word: str, left: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the options of one word, with their values; one that is the next word is taken from `left`."""
    rest = word[1:]
    while rest:
        letter, rest = rest[0], rest[1:]
        if letter == "q":
            yield letter, rest
            return
        if letter == "h" and not rest and not left:
            yield "?", ""
            return
        if letter in _VALUED:
            if not rest and not left:
                raise _wrong(f"-{letter} needs a value")
            yield letter, rest or left.pop(0)
            return
        if letter not in _BARE:
            raise _wrong(f"-{letter}: no such option")
        yield letter, ""


def _letter(invocation: Invocation, letter: str, value: str) -> Invocation:
    match letter:
        case "t":
            return replace(invocation, from_header=True)
        case "i":
            return replace(invocation, dot_ends=False)
        case "o" if value == "i":
            return replace(invocation, dot_ends=False)
        case "f" | "r":
            return replace(invocation, sender="" if value == "<>" else value)
        case "F":
            return replace(invocation, full_name=value)
        case "N":
            return replace(invocation, notify=_notify(value))
        case "R":
            return replace(invocation, ret=_ret(value))
        case "V":
            return replace(invocation, envid=_envid(value))
        case "C":
            return replace(invocation, config=value)
        case "b":
            return replace(invocation, mode=_mode(value))
        case "?":
            return replace(invocation, mode=Mode.HELP)
        case "I":
            return replace(invocation, mode=Mode.ALIASES)
        case "q" if value[:1] in ("I", "R", "S"):
            raise _wrong(f"-q{value[0]} is not implemented; use relayd queue retry ID...")
        case "q":
            return replace(invocation, mode=Mode.WAKE)
        case _:
            return invocation


def _long(invocation: Invocation, word: str, left: list[str]) -> Invocation:
    name, equals, value = word.partition("=")
    if name == "--help" and not equals:
        return replace(invocation, mode=Mode.HELP)
    if name not in ("--key", "--config"):
        raise _wrong(f"{name}: no such option")
    if not equals and not left:
        raise _wrong(f"{name} needs a value")
    value = value if equals else left.pop(0)
    if name == "--config":
        return replace(invocation, config=value)
    if not is_key(value):
        raise _wrong("a key has 1 to 255 printable characters of ASCII, and no space at its ends")
    return replace(invocation, key=value)


def _mode(value: str) -> Mode:
    if value in _MODES_REFUSED:
        raise _wrong(f"-b{value}: {_MODES_REFUSED[value]}")
    if value not in (Mode.DELIVER.value, Mode.SMTP.value, Mode.LIST.value, Mode.VERIFY.value, Mode.ALIASES.value):
        raise _wrong(f"-b{value}: no such mode")
    return Mode(value)


def _notify(value: str) -> str:
    try:
        Notify.parse(value)
    except ValueError:
        raise _wrong("-N takes never, or success, failure and delay with commas between them") from None
    return value.upper()


def _ret(value: str) -> str:
    if value.upper() not in ("FULL", "HDRS"):
        raise _wrong("-R takes full or hdrs")
    return value.upper()


def _envid(value: str) -> str:
    """Return the value in xtext (RFC 3461 section 4)."""
    xtext = "".join(each if "!" <= each <= "~" and each not in "+=" else f"+{ord(each):02X}" for each in value)
    if not (value and value.isascii() and value.isprintable()) or len(xtext) > _MAX_ENVID:
        raise _wrong(f"-V takes up to {_MAX_ENVID} printable characters of ASCII")
    return xtext


def _checked(invocation: Invocation) -> Invocation:
    if invocation.from_header and invocation.mode is not Mode.DELIVER:
        raise _wrong("-t is for messages from standard input alone")
    if invocation.recipients and invocation.mode not in (Mode.DELIVER, Mode.VERIFY, Mode.ALIASES, Mode.HELP):
        raise _wrong("recipients are for messages from standard input alone")
    if invocation.key and invocation.mode is not Mode.DELIVER:
        raise _wrong("--key is for messages from standard input alone")
    return invocation


def _wrong(text: str) -> Failure:
    return Failure(EX_USAGE, f"{text}; sendmail --help tells more")
