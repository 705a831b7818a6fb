"""`relayd history` after real attempts: what became of each recipient, and what was said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.process import wait_until
from tests.support.world import Exchanger, World, a_message, with_and_without_workers


@pytest.fixture
def mx(world: World) -> Exchanger:
    exchanger = world.exchanger("mx.example.test")
    world.domain("example.test", exchanger)
    return exchanger


def history(world: World, subject: str) -> Any:
    done = world.command("history", subject, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def said(transcript: dict[str, Any]) -> list[str]:
    return [f"{line['speaker']}: {line['text']}" for line in transcript["lines"]]


@with_and_without_workers
def test_a_greylisted_message_shows_both_attempts_and_what_was_said_in_the_first(world: World, mx: Exchanger) -> None:
    asked: list[str] = []

    def greylist(envelope: object, address: str) -> str:
        asked.append(address)
        return "451 4.7.1 greylisted, come back in 1 second" if len(asked) == 1 else "250 2.1.5 ok"

    mx.on_rcpt = greylist
    world.configure(retry={"first": "1s", "greylist": "1s"})
    with world.relaying() as daemon:
        world.send("bob@example.test")
        daemon.logged("r=bob@example.test status=delivered")
        (message,) = history(world, "bob@example.test")
        assert message == history(world, message["id"])
        text = world.command("history", message["id"]).stdout

    (recipient,) = message["recipients"]
    first, second = recipient["timeline"]
    assert (first["status"], first["reply"]) == ("deferred", "451 4.7.1 greylisted, come back in 1 second")
    assert (second["status"], second["reply"]) == ("delivered", "250 2.0.0 taken")
    assert first["host"] == second["host"] == f"mx.example.test[{mx.address}]:{world.port}"
    assert message["arrived"] < first["at"] < second["at"] <= message["finished"]
    (transcript,) = message["transcripts"]
    lines = said(transcript)
    assert lines[0] == f"nobody: connecting to {first['host']}"
    assert "we: EHLO relay.test" in lines
    assert "we: RCPT TO:<bob@example.test>" in lines
    assert "server: 451 4.7.1 greylisted, come back in 1 second" in lines
    assert f"< {first['reply']}" in text


@with_and_without_workers
def test_a_site_out_of_reach_shows_what_was_tried(world: World) -> None:
    dead = world.exchanger("mx.gone.test", alive=False)
    world.domain("gone.test", dead)
    with world.relaying() as daemon:
        world.send("bob@gone.test")
        daemon.logged("event=site-backs-off")
        wait_until(lambda: world.queue()[0]["recipients"][0]["status"] == "deferred", "the deferral")
        (message,) = history(world, "bob@gone.test")

    attempt, *_ = message["recipients"][0]["timeline"]
    assert attempt["status"] == "deferred"
    assert "Connection refused" in attempt["reply"]
    lines = said(message["transcripts"][0])
    assert lines[0].startswith("nobody: connecting to mx.gone.test[")
    assert "Connection refused" in lines[1]


def test_each_recipient_has_its_own_timeline_and_a_refused_one_its_transcript(world: World, mx: Exchanger) -> None:
    mx.on_rcpt = lambda envelope, address: "550 5.1.1 nobody here" if "bad" in address else "250 2.1.5 ok"
    with world.relaying() as daemon:
        world.send("good@example.test", "bad@example.test")
        daemon.logged("r=bad@example.test status=failed")
        (message,) = history(world, "bad@example.test")
        everyone = history(world, message["id"])

    assert [recipient["address"] for recipient in message["recipients"]] == ["bad@example.test"]
    good, bad = everyone["recipients"]
    assert [(each["status"], each["reply"]) for each in good["timeline"]] == [("delivered", "250 2.0.0 taken")]
    assert [(each["status"], each["reply"]) for each in bad["timeline"]] == [("failed", "550 5.1.1 nobody here")]
    assert "server: 550 5.1.1 nobody here" in said(everyone["transcripts"][0])


@pytest.mark.parametrize(("kept", "transcripts"), [("none", 0), ("failures", 0), ("all", 1)])
def test_the_setting_says_of_which_attempts_a_transcript_is_kept(
    world: World, mx: Exchanger, kept: str, transcripts: int
) -> None:
    world.configure(relay={"transcripts": kept})
    with world.relaying() as daemon:
        world.drop(a_message("bob@example.test") + b"a secret of the letter\n")
        daemon.logged("r=bob@example.test status=delivered")
        (message,) = history(world, "bob@example.test")

    assert "secret" not in json.dumps(message)
    (attempt,) = message["recipients"][0]["timeline"]
    assert (attempt["status"], attempt["reply"]) == ("delivered", "250 2.0.0 taken")
    assert len(message["transcripts"]) == transcripts


def test_who_is_unknown_is_told_so(world: World, mx: Exchanger) -> None:
    with world.relaying():
        nobody = world.command("history", "nobody@example.test")
        nothing = world.command("history", "01M8EN8NFW42WTV05MWR")

    assert (nobody.returncode, nothing.returncode) == (65, 65)
    assert "no message to nobody@example.test in the queue, or finished within relay.history" in nobody.stderr
    assert "no message 01M8EN8NFW42WTV05MWR in the queue or its history" in nothing.stderr
