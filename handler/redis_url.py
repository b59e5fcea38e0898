"""What REDIS_URL says, read without redis-py, so that a start without Redis never pays for it.

Messages never hold the URL itself: it may carry a password.
"""

import re
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
ACCEPTED = (
    "redis://, rediss:// (TLS) or unix:// as redis-py reads them, "
    "or redis+sentinel://[user:password@]host:port[,host:port…]/service[/db]"
    " (rediss+sentinel:// with TLS)"
)
SENTINEL_PORT = 26379
_NODE = re.compile(r"(?P<host>\[[^\]]+\]|[^:\[\]]+)(?::(?P<port>\d{1,5}))?")


class Endpoint(msgspec.Struct, frozen=True):
    """Where Redis is.

    url    as given, for redis-py; it may hold a password
    shown  the same without user, password and options, for logs and reports
    The rest is set for a Sentinel alone: `nodes` are the Sentinels, the others say
    which Redis to ask them for and how to enter it; `options` is what follows the `?`.
    """

    url: str
    shown: str
    tls: bool
    nodes: tuple[tuple[str, int], ...] = ()
    service: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = None
    options: str = ""


def read(url: str) -> Endpoint:
    """Parse a Redis URL. Raises `ValueError`, whose message holds nothing secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(f"not a URL; accepted: {ACCEPTED}") from None
    if parts.scheme not in SCHEMES:
        raise ValueError(f"its scheme is none of {', '.join(SCHEMES)}; accepted: {ACCEPTED}")
    tls = parts.scheme.startswith("rediss")
    if parts.scheme.endswith("+sentinel"):
        return _sentinel(parts, tls)
    if parts.scheme == "unix":
        if not parts.path:
            raise ValueError("it names no socket; accepted: unix:///path/to/redis.sock")
        return Endpoint(url, f"unix://{parts.path}", tls)
    try:
        port = parts.port or 6379
    except ValueError:
        raise ValueError("its port is not a number up to 65535") from None
    if not re.fullmatch(r"(?:/\d*)?", parts.path):
        raise ValueError("its path is not the number of a database, as in redis://host:6379/0")
    host = parts.hostname or "localhost"
    return Endpoint(url, f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}{parts.path}", tls)


def _sentinel(parts: SplitResult, tls: bool) -> Endpoint:
    credentials, _, places = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    nodes = []
    for place in places.split(","):
        found = _NODE.fullmatch(place)
        if not found or int(found["port"] or 0) > 65535:
            raise ValueError(f"a Sentinel is not written as host:port; accepted: {ACCEPTED}")
        nodes.append((found["host"].strip("[]"), int(found["port"] or SENTINEL_PORT)))
    service, _, db = parts.path.strip("/").partition("/")
    if not service or not re.fullmatch(r"\d*", db):
        raise ValueError(
            f"after the Sentinels come the name of the service and perhaps a database; accepted: {ACCEPTED}"
        )
    return Endpoint(
        parts.geturl(),
        f"{parts.scheme}://{places}{parts.path}",
        tls,
        nodes=tuple(nodes),
        service=unquote(service),
        db=int(db or 0),
        username=unquote(username) or None,
        password=unquote(password) or None,
        options=parts.query,
    )
