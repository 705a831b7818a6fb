"""The status page in a real browser, of a daemon at work.

With RELAYD_SCREENSHOTS=DIRECTORY it leaves pictures there.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Browser, needs_chromium
from tests.support.process import Daemon
from tests.support.world import Exchanger, World
from tests.wire.test_http import free_port

pytestmark = needs_chromium

HOSTILE = '<img src=x onerror="document.title=1"><script>alert(1)</script>'


@pytest.fixture
def mx(world: World) -> Exchanger:
    exchanger = world.exchanger("mx.example.test")
    for domain in ("example.test", "sender.test"):
        world.domain(domain, exchanger)
    world.domain("gone.test", world.exchanger("mx.gone.test", alive=False))

    def answer(envelope: object, address: str) -> str:
        if address.startswith("bad"):
            return f"550 5.1.1 {HOSTILE}"
        return "451 4.7.1 Greylisted, come back in 5 minutes" if address.startswith("grey") else "250 2.1.5 Ok"

    exchanger.on_rcpt = answer
    return exchanger


class Site:
    """Where the page is, and a daemon with traffic."""

    def __init__(self, world: World, daemon: Daemon, url: str) -> None:
        self.world = world
        self.daemon = daemon
        self.url = url


@contextmanager
def serving(world: World, token: str = "") -> Iterator[Site]:
    """Run a daemon with the page, and some mail every moment."""
    port = free_port()
    section: dict[str, Any] = {"listen": f"127.0.0.1:{port}"}
    if token:
        path = world.directory / "token"
        path.write_text(token)
        path.chmod(stat.S_IRUSR)
        section["token_file"] = str(path)
    world.configure(http=section, retry={"first": "1h", "max": "1h"})
    over = threading.Event()

    def send() -> None:
        while not over.wait(0.1):
            world.send("bob@example.test")

    sender = threading.Thread(target=send)
    with world.relaying() as daemon:
        sender.start()
        try:
            yield Site(world, daemon, f"http://127.0.0.1:{port}/")
        finally:
            over.set()
            sender.join()


@contextmanager
def seen(site: Site, directory: Path, **options: Any) -> Iterator[Browser]:
    """Look at the page, live; at the end it has complained of nothing, and asked nobody else."""
    with Browser(directory, **options) as browser:
        browser.open(site.url)
        yield browser
        assert browser.console == []
        assert {url for url in browser.requests if not url.startswith((site.url, "data:"))} == set()


def pictured(browser: Browser, name: str) -> None:
    if directory := os.environ.get("RELAYD_SCREENSHOTS"):
        browser.screenshot(Path(directory) / f"{name}.png")


def live(browser: Browser) -> None:
    browser.until(lambda: browser.text("#link") == "live", "the stream")


def delivered(browser: Browser) -> float:
    first = browser.text("#tiles b")
    return float(first) if first not in ("", "–") else 0.0


def test_it_shows_what_is_going_on_and_goes_on_showing_it(world: World, mx: Exchanger, tmp_path: Path) -> None:
    with serving(world) as site, seen(site, tmp_path / "b") as browser:
        world.send("grey@example.test")
        world.send("ann@gone.test")
        live(browser)
        browser.until(lambda: delivered(browser) > 0, "a rate")
        browser.until(lambda: "Greylisted" in browser.text("#setbacks"), "the deferral")
        browser.until(lambda: "mx.gone.test" in browser.text("#sites"), "the dead site")
        browser.until(lambda: "deferred" in browser.text("#ages"), "what waits")
        assert browser.text("#verdict-title") == "Mail flows"
        path = "document.querySelector('#flow .s-delivered').getAttribute('d')"
        before = browser.run(path)
        browser.until(lambda: browser.run(path) != before, "the next sample")
        assert browser.run("document.querySelectorAll('#answer button').length") == 0  # no verb without a token
        pictured(browser, "light")


def test_a_message_is_searched_explained_and_shown_by_keyboard_alone(
    world: World, mx: Exchanger, tmp_path: Path
) -> None:
    with serving(world) as site, seen(site, tmp_path / "b", dark=True) as browser:
        world.send("grey@example.test")
        site.daemon.logged("r=grey@example.test status=deferred")
        live(browser)
        browser.press("/", *"grey@example.test", "Enter")
        browser.until(lambda: "Waits for: retry-time" in browser.text("#answer"), "the explanation")
        answer = browser.text("#answer")
        assert "Greylisted, come back in 5 minutes" in answer
        assert "What was said up to" in answer
        assert browser.run("document.activeElement.id") == "answer"
        for _ in range(3):
            if browser.run("document.activeElement.tagName") != "SUMMARY":
                browser.press("Tab")
        browser.press("Enter")
        browser.until(lambda: "RCPT TO:<grey@example.test>" in browser.text("#answer details"), "what was said")
        pictured(browser, "dark")
        browser.press("Escape")
        assert browser.run("document.getElementById('answer').hidden")
        assert browser.run("getComputedStyle(document.documentElement).backgroundColor") == "rgb(15, 19, 24)"


def test_what_a_server_says_is_text_and_nothing_else(world: World, mx: Exchanger, tmp_path: Path) -> None:
    with serving(world) as site, seen(site, tmp_path / "b") as browser:
        world.send("bad@example.test")
        live(browser)
        browser.until(lambda: HOSTILE in browser.text("#setbacks"), "the refusal")
        browser.run("document.querySelector('#setbacks button').click()")
        browser.until(lambda: HOSTILE in browser.text("#answer"), "the answer")
        assert browser.run("document.querySelectorAll('img, #answer script, #setbacks script').length") == 0


def test_on_a_phone_nothing_is_wider_than_it(world: World, mx: Exchanger, tmp_path: Path) -> None:
    with serving(world) as site, seen(site, tmp_path / "b", width=360, height=2400) as browser:
        world.send("grey@example.test")
        world.send("ann@gone.test")
        live(browser)
        browser.until(lambda: "Greylisted" in browser.text("#setbacks"), "the deferral")
        browser.run("explain('grey@example.test')")
        browser.until(lambda: "Waits for" in browser.text("#answer"), "the explanation")
        assert browser.run("document.documentElement.scrollWidth") <= 360
        pictured(browser, "phone")


def test_whoever_cannot_see_it_is_told_what_each_thing_is(world: World, mx: Exchanger, tmp_path: Path) -> None:
    with serving(world) as site, seen(site, tmp_path / "b") as browser:
        world.send("grey@example.test")
        live(browser)
        browser.until(lambda: "Greylisted" in browser.text("#setbacks"), "the deferral")
        nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
        told = [
            (str(node["role"]["value"]), str(node.get("name", {}).get("value", "")))
            for node in nodes
            if not node["ignored"] and "role" in node
        ]

    for role in ("button", "textbox", "link", "searchbox", "image", "img", "region"):
        assert [name for each, name in told if each == role and not name] == [], role
    roles = {role for role, _ in told}
    assert {"main", "banner", "search", "status", "heading", "columnheader"} <= roles
    assert any(role in ("image", "img") and "at the last: accepted" in name for role, name in told)


def test_with_a_token_it_asks_for_it_and_messages_can_be_acted_on(world: World, mx: Exchanger, tmp_path: Path) -> None:
    with serving(world, token="open-sesame") as site, Browser(tmp_path / "b") as browser:
        world.send("grey@example.test")
        site.daemon.logged("r=grey@example.test status=deferred")
        browser.open(site.url)
        browser.until(lambda: browser.run("document.getElementById('token-dialog')?.open === true"), "the question")
        browser.press(*"open-sesame", "Enter")
        live(browser)
        browser.run("explain('grey@example.test')")
        browser.until(lambda: "Hold" in browser.text("#answer"), "the verbs")
        browser.run("[...document.querySelectorAll('#answer button')].find((b) => b.textContent === 'Hold').click()")
        browser.until(lambda: "Waits for: hold" in browser.text("#answer"), "the hold")
        browser.run(
            "[...document.querySelectorAll('#answer button')].find((b) => b.textContent.startsWith('Remove')).click()"
        )
        browser.until(lambda: browser.run("document.getElementById('ask-dialog').open"), "the question")
        browser.press("Tab", "Enter") if browser.run("document.activeElement.id") == "ask-yes" else browser.run(
            "document.getElementById('ask-yes').click()"
        )
        browser.until(lambda: "it waits for nothing" in browser.text("#answer"), "the end")


def test_a_daemon_that_goes_away_is_told_of_and_found_again(world: World, mx: Exchanger, tmp_path: Path) -> None:
    port = free_port()
    world.configure(http={"listen": f"127.0.0.1:{port}"})
    with Browser(tmp_path / "b") as browser:
        with world.relaying():
            browser.open(f"http://127.0.0.1:{port}/")
            live(browser)
        browser.until(lambda: browser.text("#link").startswith("connection lost"), "the loss")
        with world.relaying():
            live(browser)
