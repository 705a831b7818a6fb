"""The command as callers run it, and what it dropped."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relayd.mail.message import Message
from relayd.sendmail.settings import read_settings
from tests.security.people import Person
from tests.submission.support import ID, reading, sent
from tests.support.process import ROOT, write_config

# As another user: everything is imported first, since it may lie where only root can read.
AS_ANOTHER = """
import os, sys
import relayd.sendmail.program, relayd.sendmail.smtp, relayd.keys, relayd.control, relayd.route.own, email.utils
from pathlib import Path
user, group, config = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
os.setgroups([]); os.setgid(group); os.setuid(user); os.chdir("/")
sys.exit(relayd.sendmail.program.run("sendmail", sys.argv[4:], config, lambda path: 99))
"""


@dataclass
class Sendmail:
    """A spool without a daemon, and its configuration; made where there is none."""

    directory: Path
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.config.exists():
            return
        for name in ("new", "tmp"):
            (self.spool / name).mkdir(parents=True)
        relay = {"hostname": "relay.example.org", "origin": "origin.example", "spool": "./spool"}
        tables = {
            "relay": relay | self.settings,
            "aliases": {"root": ["ops@example.org", "Duty"], "duty": "d@example.org"},
        }
        write_config(self.config, tables)

    @property
    def spool(self) -> Path:
        return self.directory / "spool"

    @property
    def config(self) -> Path:
        return self.directory / "config.toml"

    def command(self, *words: str | bytes) -> Sequence[str | bytes]:
        return [sys.executable, "-m", "relayd", "sendmail", *words]

    def environment(self, **more: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key != "NAME"}
        return kept | {"RELAYD_CONFIG": str(self.config), "PYTHONPATH": str(ROOT)} | more

    def __call__(
        self, *words: str | bytes, content: bytes = b"Subject: x\n\nhello\n", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        return self._run(self.command(*words), content, self.environment(**(env or {})))

    def called(self, name: str, *words: str, content: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run it by a link of another name."""
        program = self.directory / "bin" / "relayd"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!{sys.executable}\nfrom relayd.__main__ import main\nmain()\n")
        program.chmod(0o755)
        (program.parent / name).symlink_to("relayd")
        return self._run([str(program.parent / name), *words], content, self.environment())

    def by(self, person: Person, *words: str, content: bytes = b"\nhello\n") -> subprocess.CompletedProcess[bytes]:
        """Run it as another user."""
        ids = (str(person.user), str(person.group), str(self.config))
        return self._run([sys.executable, "-c", AS_ANOTHER, *ids, *words], content, self.environment())

    @staticmethod
    def _run(
        command: Sequence[str | bytes], content: bytes, env: Mapping[str, str]
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(command, input=content, capture_output=True, env=env, timeout=60, check=False)

    @property
    def files(self) -> list[Path]:
        """What was dropped; nothing may be left in tmp/."""
        assert os.listdir(self.spool / "tmp") == []
        return sorted((self.spool / "new").iterdir())

    def message(self) -> tuple[Message, bytes]:
        """Return the one message that was dropped, as the daemon reads it, and what it would send of it."""
        (file,) = self.files
        octets = file.read_bytes()
        message = read_settings(self.config).examiner.examine(reading(octets), ID, owner=os.geteuid())
        return message, sent(octets, message)[len(message.body.prefix) :]

    def recipients(self) -> list[str]:
        """Return who would get it."""
        return [str(each.address) for each in self.message()[0].envelope.recipients]
