"""Why has my message not arrived?  The questions of docs/operations.md, asked of a daemon that has that trouble.

With `-s` it prints what the page shows.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.process import Daemon, wait_until
from tests.support.world import Exchanger, World

REFUSED = "550 5.1.1 <nobody@example.net>: no such user here"
GREYLISTED = "451 4.7.1 Greylisted, please come back in 5 minutes"


@pytest.fixture
def mx(world: World) -> Exchanger:
    exchanger = world.exchanger("mx.example.net")
    for domain in ("example.net", "secure.example"):
        world.domain(domain, exchanger)
    world.domain("gone.example", world.exchanger("mx.gone.example", alive=False))

    def answer(envelope: object, address: str) -> str:
        if address.startswith("nobody"):
            return REFUSED
        return GREYLISTED if address.startswith("grey") else "250 2.1.5 Ok"

    exchanger.on_rcpt = answer
    return exchanger


@pytest.fixture
def daemon(world: World, mx: Exchanger) -> Iterator[Daemon]:
    world.configure(
        **{"tls.domain": [{"match": ["secure.example"], "policy": "verify"}]}, retry={"first": "1m", "max": "1h"}
    )
    with world.relaying() as running:
        yield running


def asked(world: World, *words: str) -> str:
    """Return what a command says."""
    done = world.command(*words)
    print(f"\n$ relayd {' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def id_in(daemon: Daemon, recipient: str) -> str:
    return daemon.logged(rf"q=(\w+) r={recipient} status")[1]


def test_a_greylisted_message(world: World, daemon: Daemon) -> None:
    world.send("grey@example.net")
    daemon.logged("r=grey@example.net status=deferred")

    said = asked(world, "explain", "grey@example.net")
    assert "> closed  retry-time" in said
    assert GREYLISTED in said
    assert "It waits for the retry-time until " in said
    assert GREYLISTED in asked(world, "history", "grey@example.net")


def test_a_dead_site(world: World, daemon: Daemon) -> None:
    world.send("ann@gone.example")
    daemon.logged("event=site-backs-off")

    said = asked(world, "explain", "ann@gone.example")
    assert "  closed  back-off" in said
    assert "Connection refused" in said
    assert "Connection refused" in asked(world, "probe", "gone.example")


def test_a_refused_recipient(world: World, daemon: Daemon) -> None:
    world.send("nobody@example.net")
    daemon.logged("r=nobody@example.net status=failed")

    assert REFUSED in asked(world, "explain", "nobody@example.net")
    said = asked(world, "history", "nobody@example.net")
    assert "to nobody@example.net: failed" in said
    assert REFUSED in said


def test_a_policy_that_cannot_be_met(world: World, daemon: Daemon) -> None:
    world.send("bob@secure.example")
    daemon.logged("event=site-backs-off")

    said = asked(world, "explain", "bob@secure.example")
    assert "  closed  policy " in said
    assert "not met: TLS is required, and the server does not offer STARTTLS" in said
    assert "verify" in asked(world, "route", "secure.example")


def test_a_held_message(world: World, daemon: Daemon) -> None:
    world.send("grey@example.net")
    message = id_in(daemon, "grey@example.net")
    world.command("queue", "hold", message)

    said = asked(world, "explain", "grey@example.net")
    assert "> closed  hold" in said
    assert f"relayd queue release {message}" in said


def test_a_rejected_file(world: World, daemon: Daemon) -> None:
    world.drop(b"To: bob@example.net\n\nno sender\n", "invoice-17.eml")
    wait_until(lambda: list((world.spool / "rejected").glob("*.reason.txt")), "the rejection")

    said = asked(world, "explain", "invoice-17.eml")
    assert said == "invoice-17.eml is in rejected/: there is no sender; add X-Sender, Sender or From.\n"
    assert "1 file was not understood: invoice-17.eml" in asked(world, "doctor")
