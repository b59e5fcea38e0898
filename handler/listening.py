"""The address that a gateway listens on: found, bound, and nobody else's.

Knows nothing of the server that takes connections from it.
"""

import errno
import socket

from handler import aside

# A name server answers within this, or the start is over.
RESOLVE_S = 5.0

Address = tuple[socket.AddressFamily, tuple[str, int]]


class CannotListen(Exception):
    """Nothing can listen there; the message says why and names the setting to change.

    taken  somebody else listens there: another time, or another port, would do
    """

    def __init__(self, message: str, *, taken: bool = False) -> None:
        super().__init__(message)
        self.taken = taken


def resolve(host: str, port: int) -> Address:
    """The first address of a host, IPv4 before IPv6. Raises `CannotListen`. Blocks at most `RESOLVE_S`."""
    name = host.removeprefix("[").removesuffix("]")

    def ask() -> list[Address]:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]

    try:
        addresses = aside.within(ask, RESOLVE_S, "resolve")
    except (OSError, UnicodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise CannotListen(
            f"HOST={host!r} is neither an address of this machine nor the name of one ({why})"
        ) from None
    usable = [each for each in addresses if each[0] in (socket.AF_INET, socket.AF_INET6)]
    if not usable:
        raise CannotListen(f"HOST={host!r} has no IPv4 or IPv6 address")
    return min(usable, key=lambda each: each[0] != socket.AF_INET)


def bind(host: str, port: int, *, backlog: int = 128, stalled_s: float = 0.0) -> socket.socket:
    """A socket that holds the address for this process alone. Raises `CannotListen`.

    stalled_s  a connection that takes none of what we send for so long is given up; 0: never

    Not shared by SO_REUSEPORT: a second gateway on the same port must be told so, and not
    take half of the first one's queries.
    """
    family, address = resolve(host, port)
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Connections inherit it: a reader that stalls, or is gone without a word, is not waited for for ever.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stalled_s * 1000))
        bound.bind(address)
        # Between binding and listening another one with SO_REUSEADDR could bind too.
        bound.listen(backlog)
    except OSError as exc:
        bound.close()
        if exc.errno == errno.EADDRINUSE:
            raise CannotListen(f"Port already in use: {host}:{port} ({exc.strerror})", taken=True) from None
        raise CannotListen(f"Cannot listen: HOST={host}, PORT={port} ({exc.strerror})") from None
    return bound
