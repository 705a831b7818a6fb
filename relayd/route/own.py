"""The addresses of this machine: mail for an exchanger on one of them would come back (RFC.md R16).

IPv4 by the ioctl SIOCGIFCONF, IPv6 from /proc/net/if_inet6: neither needs a netlink socket, which the service's
sandbox forbids, and neither grows with the routing table.  What cannot be read is left out.
"""

from __future__ import annotations

import array
import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

_SIOCGIFCONF = 0x8912  # netdevice(7)
_IFREQ = 16 + (24 if struct.calcsize("P") == 8 else 16)  # struct ifreq: a name and a union
_MAX_ADDRESSES = 1024
IF_INET6 = Path("/proc/net/if_inet6")


def own_addresses() -> frozenset[str]:
    """Return this machine's addresses other than loopback, in canonical form."""
    found = {*_ipv4_addresses(), *_ipv6_addresses(IF_INET6)}
    return frozenset(text for text in found if not ipaddress.ip_address(text).is_loopback)


def _ipv4_addresses() -> list[str]:
    room = array.array("B", bytes(_IFREQ * _MAX_ADDRESSES))
    request = bytearray(struct.pack("iP", len(room), room.buffer_info()[0]))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SIOCGIFCONF, request)
    except OSError:
        return []
    used = struct.unpack("iP", request)[0]
    filled = room.tobytes()[:used]
    # After the name (16 octets) comes a sockaddr_in: family and port (2 each), then the address.
    return [socket.inet_ntoa(filled[start + 20 : start + 24]) for start in range(0, used, _IFREQ)]


def _ipv6_addresses(path: Path) -> list[str]:
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, UnicodeError):
        return []
    return [ipaddress.IPv6Address(bytes.fromhex(line.split()[0])).compressed for line in lines if line.strip()]
