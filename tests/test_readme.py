"""What README.md and the pages of docs/ say is true: their commands are run, what they name exists."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from relayd.cli.queue import queue
from relayd.cli.root import COMMANDS
from relayd.config import load
from relayd.sections import SECTIONS, RouteSection
from tests.support.process import ROOT
from tests.support.world import Exchanger, World, octets, wait_until

README = ROOT / "README.md"
OPERATIONS = ROOT / "docs" / "operations.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, heading: str, language: str) -> list[str]:
    """Return the fenced blocks of a language below a heading."""
    section = page.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# dropping a message


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as built:
        yield built


@pytest.fixture
def mx(world: World) -> Exchanger:
    """Where mail for example.net and example.com goes."""
    exchanger = world.exchanger("mx.example.net")
    for domain in ("example.net", "example.com"):
        world.domain(domain, exchanger)
    return exchanger


def delivered(mx: Exchanger, *recipients: str) -> tuple[str | None, str]:
    """Wait until all have got the message; return its sender and its content."""
    wait_until(lambda: {one for each in mx.taken for one in each.rcpt_tos} >= set(recipients), f"mail for {recipients}")
    assert sorted(one for each in mx.taken for one in each.rcpt_tos) == sorted(recipients)
    return mx.taken[0].mail_from, octets(mx.taken[0]).decode()


def test_the_shells_example_of_the_readme_delivers(world: World, mx: Exchanger) -> None:
    (example,) = blocks(README, "Drop a message", "sh")

    with world.relaying():
        subprocess.run(["bash", "-e", "-c", example], cwd=world.directory, check=True, timeout=30)
        sender, content = delivered(mx, "bob@example.net")

    assert sender == "ann@example.org"
    assert "Subject: hello\r\n" in content
    assert content.endswith("\r\n\r\nHello, Bob.\r\n")


def test_pythons_example_of_the_readme_delivers(world: World, mx: Exchanger) -> None:
    (example,) = blocks(README, "Drop a message", "python")

    with world.relaying():
        subprocess.run([sys.executable, "-c", example], cwd=world.directory, check=True, timeout=30)
        sender, content = delivered(mx, "bob@example.net")

    assert sender == "ann@example.org"
    assert content.endswith("\r\n\r\nHello, Bob.\r\n")


def test_the_example_of_the_operators_page_delivers(world: World, mx: Exchanger) -> None:
    (example,) = blocks(OPERATIONS, "Drop a message", "sh")

    with world.relaying():
        here = example.replace("/var/spool/relayd", str(world.spool))
        subprocess.run(["bash", "-e", "-c", here], cwd="/", check=True, timeout=30)
        sender, content = delivered(mx, "bob@example.net")

    assert sender == "ann@example.org"
    assert "X-Sender" not in content
    assert "X-Receiver" not in content


def test_what_dot_net_writes_into_its_pickup_directory_is_delivered(world: World, mx: Exchanger) -> None:
    """SmtpClient creates GUID.eml under its final name and writes on: envelope, header, body, all in CRLF."""
    (example,) = blocks(README, "Drop a message", "csharp")
    directory = re.search(r'PickupDirectoryLocation = "/var/spool/relayd(.*?)"', example)
    assert directory is not None

    with world.relaying() as daemon:
        with (world.spool / directory[1].strip("/") / f"{uuid.uuid4()}.eml").open("w", newline="\r\n") as file:
            for part in DOT_NET.split("\n\n"):
                file.write(part + "\n\n")
                file.flush()
                world.send("eve@example.com")  # the daemon looks, and sees a file that is being written
                daemon.logged("r=eve@example.com status=delivered")
                daemon.lines.clear()
                assert "bob@example.net" not in [one for each in mx.taken for one in each.rcpt_tos]
        wait_until(lambda: mx.taken[-1].rcpt_tos[0] != "eve@example.com", "the message of .NET")

    taken = mx.taken[-1]
    assert (taken.mail_from, sorted(taken.rcpt_tos)) == ("ann@example.org", ["bob@example.net", "secret@example.net"])
    assert octets(taken).endswith(b"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nHello, Bob.\r\n\r\n")
    assert b"secret" not in octets(taken)


DOT_NET = """\
X-Sender: ann@example.org
X-Receiver: bob@example.net
X-Receiver: secret@example.net
MIME-Version: 1.0
From: ann@example.org
To: bob@example.net
Date: 22 Nov 2026 12:00:00 +0000
Subject: hello
Content-Type: text/plain; charset=us-ascii
Content-Transfer-Encoding: quoted-printable

Hello, Bob."""


def test_the_envelope_lines_of_the_readme_are_understood(world: World, mx: Exchanger) -> None:
    section = README.read_text(encoding="utf-8").split("\n## Drop a message\n")[1]
    lines = re.search(r"```\n(X-Sender: .*?)```", section, re.DOTALL)
    assert lines is not None

    with world.relaying():
        world.drop(f"{lines[1]}From: ann@example.org\nSubject: hello\n\nHello.\n".encode())
        sender, content = delivered(mx, "bob@example.net", "cy@example.com")

    assert sender == "bounces@example.org"
    assert "X-" not in content


# installing it


def test_the_configuration_that_the_readme_makes_has_the_services_spool(tmp_path: Path) -> None:
    block = blocks(README, "Install it as a service", "sh")[0]
    line = next(line for line in block.splitlines() if line.startswith("sed "))
    made = tmp_path / "config.toml"

    subprocess.run(
        ["bash", "-e", "-c", line.replace("/etc/relayd/config.toml", str(made))], cwd=ROOT, check=True, timeout=30
    )

    assert load(made).spool == Path("/var/spool/relayd")


@pytest.mark.parametrize("page", [README, OPERATIONS], ids=name_of)
def test_what_the_pages_copy_is_there(page: Path) -> None:
    copied = re.findall(r"^cp (?:-r )?(\S+)", page.read_text(encoding="utf-8"), re.MULTILINE)

    assert copied
    assert [path for path in copied if not list(ROOT.glob(path))] == []


@pytest.mark.parametrize("page", [README, OPERATIONS], ids=name_of)
def test_the_targets_that_the_pages_name_are_in_the_makefile(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)make ([\w-]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)

    assert phony is not None
    assert named <= set(phony[1].split())


# what the pages name exists


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))

    assert [each for each in targets if "://" not in each and not (page.parent / each).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_that_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    for words in re.findall(r"\brelayd (?:--config \S+ )?queue ([a-z|]+)", text):
        assert set(words.split("|")) <= set(queue.commands), words
    named = set(re.findall(r"`relayd (?:--config [^\s`]+ )?([a-z]+(?:-[a-z]+)*)", text))
    assert named <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_setting_that_is_named_exists(page: Path) -> None:
    known = {f"{section}.{each.name}" for section, cls in SECTIONS.items() for each in fields(cls)}
    sections = "|".join(SECTIONS)
    named = set(re.findall(rf"`((?:{sections})\.[a-z_]+)`", page.read_text(encoding="utf-8")))

    files = {each for each in named if each.endswith(".py")}
    assert named - files <= known


def test_the_example_of_a_route_in_the_manual_works(tmp_path: Path) -> None:
    """The commented [[route]] is uncommented; each of its settings is there, with a comment where it needs one."""
    text = (ROOT / "config.example.toml").read_text(encoding="utf-8")
    route = re.search(r"^# \[\[route\]\]\n(?:# .*\n)+", text, re.MULTILINE)
    assert route is not None
    password = tmp_path / "password"
    password.write_text("secret\n")
    password.chmod(0o600)
    lines = textwrap.dedent("\n".join(line.removeprefix("# ") for line in route[0].splitlines()))
    path = tmp_path / "config.toml"
    path.write_text(lines.replace("/etc/relayd/password", str(password)) + "\n")

    (rule,) = load(path).routes

    assert rule.name == "provider"
    assert {each.name for each in fields(RouteSection)} <= set(re.findall(r"^(\w+) = ", lines, re.MULTILINE))


def test_the_operators_page_names_every_event_of_the_log() -> None:
    page = OPERATIONS.read_text(encoding="utf-8").split("| `event=` |")[1].split("\n\n")[0]
    named = {name for line in page.splitlines()[2:] for name in re.findall(r"`([a-z-]+)`", line.split("|")[1])}

    assert named == set(_events())


def _events() -> Iterator[str]:
    """Yield the names of events: the log's first arguments, and the states of the daemon."""
    for path in ("observe/observer.py", "observe/log.py", "observe/observing.py", "daemon.py", "route/validation.py"):
        for node in ast.walk(ast.parse((ROOT / "relayd" / path).read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                if isinstance(node, ast.Dict):
                    yield from _named(
                        {
                            k.value: v
                            for k, v in zip(node.keys, node.values, strict=True)
                            if isinstance(k, ast.Constant)
                        },
                        "event",
                    )
                continue
            name = ast.unparse(node.func)
            if (
                name in ("log.info", "log.warning", "log.error", "self.log.info", "self.log.warning", "write")
                and node.args
            ):
                yield from _strings(node.args[0])
            elif name == "Lifecycle":
                yield from (word for each in node.keywords if each.arg == "state" for word in _strings(each.value))


def _named(items: dict[object, ast.expr], key: str) -> Iterator[str]:
    if key in items:
        yield from _strings(items[key])


def _strings(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from (word for each in (node.body, node.orelse) for word in _strings(each))


def test_the_operators_page_names_every_key_of_an_attempts_line() -> None:
    page = OPERATIONS.read_text(encoding="utf-8").split("| key | meaning |")[1].split("\n\n")[0]
    named = set(re.findall(r"`([a-z]+)(?:=[a-z]+)?`", "".join(line.split("|")[1] for line in page.splitlines()[2:])))
    tree = ast.parse((ROOT / "relayd" / "observe" / "observer.py").read_text(encoding="utf-8"))
    function = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "_write_attempt")
    calls = [n for n in ast.walk(function) if isinstance(n, ast.Call) and ast.unparse(n.func) == "write"]

    assert named == {keyword.arg for keyword in calls[0].keywords}


@pytest.mark.skipif(not os.access(ROOT / ".git", os.R_OK), reason="not a work tree")
def test_the_makefiles_targets_can_be_made() -> None:
    for target in ("demo", "run", "test", "check", "format", "bench", "clean"):
        made(target)


@pytest.mark.parametrize("target", ["simulate", "mutations", "kill-sweep", "power-cut", "soak", "fuzz"])
def test_the_makefiles_options_are_those_of_its_programs(target: str) -> None:
    programs = re.findall(r"python -m (tests\.\S+|benchmarks\.\S+)(.*)", made(target).replace("\\\n", " "))

    assert programs
    for module, arguments in programs:
        told = subprocess.run(
            [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert set(re.findall(r"--[a-z]+", arguments)) <= set(re.findall(r"--[a-z]+", told.stdout)), told.stderr


def made(target: str) -> str:
    """Return the commands of a target of the Makefile."""
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
