"""The command line itself: its help, its version, its exit codes."""

from __future__ import annotations

import fcntl
import subprocess
import sys

import pytest

from relayd import __version__
from relayd.cli import root
from tests.cli.situations import CommandLine
from tests.support.process import write_config

COMMANDS = [
    "",
    "check-config",
    "completion",
    "demo",
    "doctor",
    "explain",
    "history",
    "probe",
    "recover",
    "route",
    "queue",
    "sendmail",
    "tls-report",
    "top",
] + [f"queue {verb}" for verb in ("list", "show", "hold", "release", "retry", "redirect", "remove", "shape", "stats")]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_explains_itself_without_a_configuration(relayd: CommandLine, command: str, option: str) -> None:
    said = relayd.plain("--config", "/nowhere/config.toml", *command.split(), option)

    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"Usage: relayd {command}".rstrip())


def test_the_help_names_every_command_in_a_whole_sentence(relayd: CommandLine) -> None:
    lines = [line for line in relayd.plain("--help").out.splitlines() if line.startswith("  ")]

    assert {name for name in COMMANDS if name and " " not in name} == set(root.COMMANDS)
    for command in root.COMMANDS:
        (line,) = (line for line in lines if line.split()[0] == command)
        assert line.endswith(".")
        assert not line.endswith("...")


def test_a_command_is_imported_without_the_others() -> None:
    program = "import sys; from relayd.__main__ import run; run(['--version']); print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    imported = set(done.stdout.split())
    assert "relayd.cli.root" in imported
    assert not imported & {*root.COMMANDS.values(), "relayd.config", "relayd.daemon", "pydantic", "rich"}


def test_the_version_is_told(relayd: CommandLine) -> None:
    assert relayd.plain("--version").out == f"relayd, version {__version__}\n"


@pytest.mark.parametrize(
    "words", [["--nothing"], ["nothing"], ["--config"], ["--once", "queue", "list"], ["check-config", "more"]]
)
def test_a_wrong_command_line_is_a_usage_error(relayd: CommandLine, words: list[str]) -> None:
    said = relayd.plain(*words)

    assert (said.code, said.out) == (64, "")
    assert "Error: " in said.err


@pytest.mark.parametrize("words", [[], ["--once"], ["check-config"], ["queue", "list"]])
def test_a_configuration_that_is_not_there_is_told(relayd: CommandLine, words: list[str]) -> None:
    said = relayd.plain("--config", "/nowhere/config.toml", *words)

    assert (said.code, said.out) == (78, "")
    assert said.err == "relayd: /nowhere/config.toml: No such file or directory\n"


@pytest.mark.parametrize("words", [[], ["--once"], ["check-config"], ["queue", "list"]])
def test_every_mistake_of_a_configuration_is_told_with_its_key(relayd: CommandLine, words: list[str]) -> None:
    write_config(relayd.config, {"relay": {"max_conections": 1, "check_interval": 5}})

    said = relayd(*words)

    assert (said.code, said.out) == (78, "")
    assert said.err.splitlines() == [
        f"relayd: {relayd.config}:2: relay.max_conections: no such setting; max_connections?",
        f'relayd: {relayd.config}:3: relay.check_interval: must be a duration as "30s", "5m", "4h" or "5d", not 5',
    ]


def test_a_good_configuration_is_told_to_be_one(relayd: CommandLine) -> None:
    assert relayd("check-config").out == f"{relayd.config}: no mistakes\n"


def test_the_configuration_may_be_named_by_the_environment(
    relayd: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAYD_CONFIG", str(relayd.config))

    assert relayd.plain("check-config").code == 0


def test_a_spool_that_another_daemon_has_is_tried_later(relayd: CommandLine) -> None:
    relayd.spool.mkdir()
    with (relayd.spool / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711\n")
        lock.flush()

        said = relayd("--once")

    assert said.code == 75
    assert f"relayd: {relayd.spool}: process 4711 has this spool\n" in said.err


def test_a_spool_that_cannot_be_made_is_the_systems_refusal(relayd: CommandLine) -> None:
    relayd.spool.write_text("a file in its place")

    said = relayd("--once")

    assert said.code == 71
    assert f"[Errno 17] File exists: '{relayd.spool}'\n" in said.err
