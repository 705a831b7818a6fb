"""[http]: where the server listens, and what it asks of whoever comes.

Pure.  What others could reach is refused without a token; so is a name, since nobody can say where it leads tomorrow.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Self

UNIX = "unix:"
LONGEST_PATH = 107  # octets that the kernel takes (unix(7))


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSection:
    """[http]"""

    listen: str = ""
    token_file: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where to listen: a path, or an IP address and a port."""

    path: str = ""
    address: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `127.0.0.1:8025`, `[::1]:8025` or `unix:/run/relayd/http.sock`; ValueError, in words, for all else."""
        if text.startswith(UNIX):
            path = text.removeprefix(UNIX)
            if not path.startswith("/") or "\0" in path or len(path.encode()) > LONGEST_PATH:
                raise ValueError(f"a UNIX socket is unix: and an absolute path of at most {LONGEST_PATH} octets")
            return cls(path=path)
        address, colon, port = text.rpartition(":")
        literal = address[1:-1] if address.startswith("[") and address.endswith("]") else address
        try:
            parsed = ipaddress.ip_address(literal)
        except ValueError:
            parsed = None
        bracketed = literal != address
        if parsed is None or not colon or bracketed != (parsed.version == 6) or "%" in literal:
            raise ValueError(f'"127.0.0.1:8025", "[::1]:8025" or "unix:/run/relayd/http.sock", not {text!r}')
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"a port is a number from 1 to 65535, not {port!r}")
        return cls(address=str(parsed), port=int(port))

    @property
    def private(self) -> bool:
        """Whether nobody outside of this machine can reach it."""
        return bool(self.path) or ipaddress.ip_address(self.address).is_loopback

    def __str__(self) -> str:
        if self.path:
            return UNIX + self.path
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """`place` None: there is no server.  `token`, unless empty, has to be shown; `hostname` is one of our names."""

    place: Place | None = None
    token: str = ""
    hostname: str = ""
