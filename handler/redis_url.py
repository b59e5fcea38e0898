"""What REDIS_URL says, read without redis-py, so that a start without Redis never pays for it.

Messages never hold the URL itself: it may carry a password.
"""

import re
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

import msgspec

SCHEMES = (
    "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip
ACCEPTED = (
    "redis://, rediss:// (TLS) or unix:// as redis-py reads them, "
    "redis+sentinel://[user:password@]host:port[,host:port…]/service[/db], "
    "or redis+cluster://[user:password@]host:port[,host:port…]"
    " (rediss+sentinel:// and rediss+cluster:// with TLS)"
)
ENCODE = (
    "a character that has a meaning in URLs stands in it as it is; in user, password and options, percent-encode it: "
    "# as %23, ? as %3F, / as %2F, @ as %40, [ as %5B, % as %25, a blank as %20"
)
SENTINEL_PORT = 26379
PORT = 6379
# What may follow the `?`: options of redis-py that say how to reach a server.
TAKEN = frozenset((
    "db", "username", "password", "client_name", "health_check_interval", "socket_connect_timeout",
    "socket_keepalive", "socket_read_size", "socket_timeout", "ssl_ca_certs", "ssl_ca_data",
    "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_ciphers", "ssl_keyfile",
    "ssl_min_version", "ssl_password",
))  # fmt: skip
TAKEN_BY_SENTINELS = frozenset(("sentinel_username", "sentinel_password"))
# Options that a URL shared with other applications may carry: how the gateway speaks to Redis is not
# for the URL to say, so they have no effect.
WITHOUT_EFFECT = frozenset((
    "decode_responses", "encoding", "encoding_errors", "legacy_responses", "lib_name", "lib_version",
    "max_connections", "protocol", "retry_on_error", "retry_on_timeout", "single_connection_client",
    "timeout",
))  # fmt: skip
_NODE = re.compile(r"(?P<host>\[[^\]]+\]|[^:\[\]]+)(?::(?P<port>\d{1,5}))?")


class Endpoint(msgspec.Struct, frozen=True):
    """Where Redis is.

    url      as given but for its options, for redis-py; it may hold a password
    shown    the same without user and password, for logs and reports
    options  those after the `?` that count, still as a query string
    nodes    Sentinels, or servers of a cluster to begin with; empty for a single Redis
    cluster  whether they are a cluster's
    username, password  of Redis, where there are nodes; else they stand in `url`
    service, db  which Redis to ask Sentinels for
    """

    url: str
    shown: str
    tls: bool
    nodes: tuple[tuple[str, int], ...] = ()
    cluster: bool = False
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
        raise ValueError(f"not a URL, or {ENCODE}; accepted: {ACCEPTED}") from None
    if parts.scheme not in SCHEMES:
        raise ValueError(f"its scheme is none of {', '.join(SCHEMES)}; accepted: {ACCEPTED}")
    _refuse_raw_characters(url, parts)
    tls = parts.scheme.startswith("rediss")
    if parts.scheme.endswith("+sentinel"):
        return _sentinel(parts, tls, _options(parts.query, TAKEN | TAKEN_BY_SENTINELS))
    if parts.scheme.endswith("+cluster"):
        return _cluster(parts, tls, _options(parts.query, TAKEN - {"db"}))
    options = _options(parts.query, TAKEN)
    if parts.scheme == "unix":
        if not parts.path or (parts.netloc and not parts.netloc.endswith("@")):
            raise ValueError("it names no socket by its whole path; accepted: unix:///path/to/redis.sock")
        return Endpoint(parts._replace(query="").geturl(), f"unix://{parts.path}", tls, options=options)
    try:
        port = parts.port or PORT
    except ValueError:
        raise ValueError(f"its port is not a number up to 65535, or {ENCODE}") from None
    if not re.fullmatch(r"(?:/\d*)?", parts.path):
        raise ValueError(f"its path is not the number of a database, as in redis://host:6379/0, or {ENCODE}")
    host = parts.hostname or "localhost"
    # redis-py takes a database among the options before one in the path.
    path = "" if "db" in dict(parse_qsl(options)) else parts.path
    return Endpoint(
        parts._replace(query="", path=path).geturl(),
        f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}{parts.path}",
        tls,
        options=options,
    )


def _refuse_raw_characters(url: str, parts: SplitResult) -> None:
    """Refuse a URL that would be cut at a character of its password. Raises `ValueError`.

    After a raw `#`, `?` or `/` the rest of a password, its `@` and the host count as
    fragment, query or path: another host would be asked, and shown with the secret's beginning.
    """
    cut = "#" in url or "@" in parts.path or "@" in parts.query
    if cut or re.search(r"[\x00-\x20\x7f]", url):
        raise ValueError(ENCODE)
    try:
        unquote(parts.netloc, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("a percent-encoded user or password is not UTF-8") from None


def _options(query: str, taken: frozenset[str]) -> str:
    """The options that count, of those that stand in a URL. Raises `ValueError` on one that is unknown."""
    try:
        given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except (ValueError, UnicodeDecodeError):
        raise ValueError(f"its options are not written name=value&name=value, or {ENCODE}") from None
    for name, value in given:
        if name not in taken | WITHOUT_EFFECT:
            # A name is shown only if it can be one: else it may be part of a password.
            shown = f"its option {name}" if re.fullmatch(r"[a-z_]{1,40}", name) else "one of its options"
            raise ValueError(f"{shown} is not known; accepted: {', '.join(sorted(taken))}")
        if name in ("socket_timeout", "socket_connect_timeout") and not _over_0(value):
            raise ValueError(f"its option {name} is not a number over 0")
    return urlencode([(name, value) for name, value in given if name in taken], quote_via=quote)


def _over_0(value: str) -> bool:
    try:
        return float(value) > 0
    except ValueError:
        return False


def _sentinel(parts: SplitResult, tls: bool, options: str) -> Endpoint:
    service, _, db = parts.path.strip("/").partition("/")
    if not service or not re.fullmatch(r"\d*", db):
        raise ValueError(
            f"after the Sentinels come the name of the service and perhaps a database; accepted: {ACCEPTED}"
        )
    return _several(
        parts, tls, options, "a Sentinel", SENTINEL_PORT, service=unquote(service), db=int(db or 0)
    )


def _cluster(parts: SplitResult, tls: bool, options: str) -> Endpoint:
    if parts.path not in ("", "/", "/0"):
        raise ValueError(f"a Redis Cluster has database 0 alone, so no path follows; accepted: {ACCEPTED}")
    return _several(parts._replace(path=""), tls, options, "a server of the cluster", PORT, cluster=True)


def _several(
    parts: SplitResult,
    tls: bool,
    options: str,
    what: str,
    port: int,
    *,
    cluster: bool = False,
    service: str = "",
    db: int = 0,
) -> Endpoint:
    """An endpoint of several places, each `host` or `host:port`. Raises `ValueError`, which calls one `what`."""
    credentials, _, places = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    nodes = []
    for place in places.split(","):
        found = _NODE.fullmatch(place)
        if not found or int(found["port"] or 0) > 65535:
            raise ValueError(f"{what} is not written as host:port; accepted: {ACCEPTED}")
        nodes.append((found["host"].strip("[]"), int(found["port"] or port)))
    return Endpoint(
        parts._replace(query="").geturl(),
        f"{parts.scheme}://{places}{parts.path}",
        tls,
        nodes=tuple(nodes),
        cluster=cluster,
        service=service,
        db=db,
        username=unquote(username) or None,
        password=unquote(password) or None,
        options=options,
    )
