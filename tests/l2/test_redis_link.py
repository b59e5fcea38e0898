"""Every way to reach a Redis, against real ones, and the ones that must be refused."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from handler.cli import UNUSABLE, main
from handler.redis_link import RedisLink, open_link
from handler.redis_url import read
from handler.shard import LinkError
from lab.launch import eventually, free_port
from lab.redis_server import RedisServer
from tests.l2.certificates import certificates, unavailable

StartRedis = Callable[..., RedisServer]

# What an ACL user needs, as docs/cache.md gives it.
ACL = "on >hunter2 ~qg:* -@all +ping +hello +mget +set +dbsize +select"


async def works(url: str, **files: str) -> bool:
    """Greet, write and read."""
    link = open_link(read(url), **files)
    try:
        await link.greet()
        refused = await link.set_many([(b"qg:1:a", b"x"), (b"qg:1:b", b"y")], ttl_s=60)
        values = await link.get_many([b"qg:1:b", b"qg:1:none", b"qg:1:a"])
    finally:
        await link.close()
    return refused == [None, None] and values == [b"y", None, b"x"]


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


async def refusal(url: str, **files: str) -> LinkError:
    """How greeting fails."""
    link = open_link(read(url), **files)
    try:
        with pytest.raises(LinkError) as caught:
            await link.greet()
    finally:
        await link.close()
    return caught.value


async def test_a_plain_redis_works(start_redis: StartRedis) -> None:
    assert await works(start_redis().url)


async def test_a_unix_socket_works(start_redis: StartRedis, tmp_path: Path) -> None:
    socket = tmp_path / "s"
    start_redis("--unixsocket", str(socket))

    assert await works(f"unix://{socket}?db=3")


async def test_a_password_works(start_redis: StartRedis) -> None:
    redis = start_redis("--requirepass", "hunter2", running=False)
    redis.password = "hunter2"
    redis.start()

    assert await works(f"redis://:hunter2@127.0.0.1:{redis.port}/1")


async def test_an_acl_user_with_the_documented_rights_works(start_redis: StartRedis) -> None:
    redis = start_redis()
    redis.admin.execute_command("ACL", "SETUSER", "gateway", *ACL.split())  # type: ignore[no-untyped-call]

    assert await works(f"redis://gateway:hunter2@127.0.0.1:{redis.port}/0")


async def test_a_user_who_may_not_count_keys_has_no_size(start_redis: StartRedis) -> None:
    redis = start_redis()
    rights = ACL.replace(" +dbsize", "").split()
    redis.admin.execute_command("ACL", "SETUSER", "gateway", *rights)  # type: ignore[no-untyped-call]
    link = open_link(read(f"redis://gateway:hunter2@127.0.0.1:{redis.port}/0"))

    size = await link.size()

    await link.close()
    assert size is None


@pytest.mark.parametrize(
    "options",
    [
        "decode_responses=true",
        "decode_responses=True&encoding=latin-1",
        "protocol=3",
        "protocol=3&decode_responses=yes",
        "max_connections=1",
        "retry_on_timeout=true",
        "legacy_responses=false",
        "socket_timeout=5&socket_connect_timeout=5",
        "health_check_interval=30",
        "client_name=gateway",
    ],
)
async def test_a_url_shared_with_other_applications_works(start_redis: StartRedis, options: str) -> None:
    assert await works(f"redis://127.0.0.1:{start_redis().port}/0?{options}")


async def test_the_database_of_an_option_comes_before_that_of_the_path(start_redis: StartRedis) -> None:
    redis = start_redis()

    await works(f"redis://127.0.0.1:{redis.port}/0?db=3")

    assert redis.admin.info("keyspace").keys() == {"db3"}


@pytest.mark.parametrize("lacking", ["DBSIZE", "PING", "HELLO", "INFO", "CLIENT", "SELECT"])
async def test_a_server_or_proxy_that_lacks_a_command_is_still_a_cache(
    start_redis: StartRedis, lacking: str
) -> None:
    redis = start_redis("--rename-command", lacking, "", running=False)
    redis.start(wait=False)
    eventually(lambda: listens(redis.port), "a Redis that listens")

    assert await works(f"redis://127.0.0.1:{redis.port}")


async def test_without_dbsize_the_size_is_unknown(start_redis: StartRedis) -> None:
    redis = start_redis("--rename-command", "DBSIZE", "")
    link = open_link(read(redis.url))

    size = await link.size()

    await link.close()
    assert size is None


async def test_without_unlink_keys_are_removed_all_the_same(start_redis: StartRedis) -> None:
    redis = start_redis("--rename-command", "UNLINK", "")
    link = open_link(read(redis.url))
    await link.set_many([(b"qg:1:a", b"x")], ttl_s=60)

    removed = await link.remove([b"qg:1:a", b"qg:1:b"])

    await link.close()
    assert removed == 1


async def test_an_entry_lives_as_long_as_it_was_given(start_redis: StartRedis) -> None:
    redis = start_redis()
    link = open_link(read(redis.url))

    await link.set_many([(b"qg:1:a", b"x")], ttl_s=90)

    await link.close()
    left_ms = redis.admin.pttl("qg:1:a")
    assert 80_000 < left_ms <= 90_000


async def test_a_sentinel_leads_to_its_master(start_redis: StartRedis) -> None:
    redis = start_redis("--requirepass", "hunter2", running=False)
    redis.password = "hunter2"
    redis.start()
    sentinel = start_redis(
        f"sentinel monitor main 127.0.0.1 {redis.port} 1", "sentinel auth-pass main hunter2", sentinel=True
    )
    eventually(lambda: sentinel.master("main")["flags"] == "master", "the sentinel's knowing")

    assert await works(f"redis+sentinel://:hunter2@127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/main/2")


async def test_a_sentinel_with_a_password_of_its_own_works(start_redis: StartRedis) -> None:
    redis = start_redis()
    sentinel = start_redis(
        f"sentinel monitor main 127.0.0.1 {redis.port} 1",
        "requirepass swordfish",
        sentinel=True,
        running=False,
    )
    sentinel.password = "swordfish"
    sentinel.start()
    eventually(lambda: sentinel.master("main")["flags"] == "master", "the sentinel's knowing")
    url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main/0"

    without = await refusal(url)

    assert without.kind in ("auth", "connection")
    assert await works(f"{url}?sentinel_password=swordfish")


async def test_a_user_of_a_sentinel_works(start_redis: StartRedis) -> None:
    redis = start_redis()
    sentinel = start_redis(
        f"sentinel monitor main 127.0.0.1 {redis.port} 1",
        "user finder on >swordfish -@all +ping +hello +sentinel|master +sentinel|masters",
        sentinel=True,
    )
    eventually(lambda: sentinel.master("main")["flags"] == "master", "the sentinel's knowing")

    assert await works(
        f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
        "?sentinel_username=finder&sentinel_password=swordfish"
    )


async def test_an_unknown_service_is_told(start_redis: StartRedis) -> None:
    redis = start_redis()
    sentinel = start_redis(f"sentinel monitor main 127.0.0.1 {redis.port} 1", sentinel=True)

    error = await refusal(f"redis+sentinel://127.0.0.1:{sentinel.port}/nobody")

    assert error.kind == "connection"
    assert "No master found for 'nobody'" in str(error)


async def test_a_cluster_under_a_plain_url_is_told_how_it_is_written(start_redis: StartRedis) -> None:
    redis = start_redis("--cluster-enabled", "yes", running=False)
    while redis.port > 55_000:  # its nodes would talk to one another 10,000 higher
        redis = start_redis("--cluster-enabled", "yes", running=False)
    redis.start()

    error = await refusal(redis.url)

    assert error.kind == "cluster"
    assert "REDIS_URL leads to a Redis Cluster; write it as redis+cluster://" in str(error)


async def test_a_sentinel_taken_for_a_redis_is_refused_in_plain_words(start_redis: StartRedis) -> None:
    redis = start_redis()
    sentinel = start_redis(f"sentinel monitor main 127.0.0.1 {redis.port} 1", sentinel=True)

    error = await refusal(sentinel.url)

    assert "write it as redis+sentinel://" in str(error)


@pytest.fixture
def tls(start_redis: StartRedis, tmp_path: Path) -> tuple[str, dict[str, Path]]:
    """A Redis that demands TLS and a client's certificate; its URL, and the files."""
    made = certificates(tmp_path, "ours")
    redis = start_redis(running=False)
    port = free_port()
    # fmt: off
    options = [
        "--tls-port", str(port), "--tls-cert-file", str(made["cert"]), "--tls-key-file", str(made["key"]),
        "--tls-ca-cert-file", str(made["ca"]), "--tls-auth-clients", "yes",
    ]
    # fmt: on
    redis.start(*options, wait=False)
    try:
        eventually(redis.answers, "a Redis with TLS", within_s=3)
    except AssertionError:
        unavailable("this redis-server is built without TLS")
    return f"rediss://127.0.0.1:{port}/0", made


async def test_tls_with_a_client_certificate_works(tls: tuple[str, dict[str, Path]]) -> None:
    url, made = tls

    assert await works(url, ca_file=str(made["ca"]), cert_file=str(made["cert"]), key_file=str(made["key"]))


async def test_a_sentinel_with_tls_leads_to_a_master_with_tls(
    tls: tuple[str, dict[str, Path]], start_redis: StartRedis
) -> None:
    url, made = tls
    port = free_port()
    sentinel = start_redis(
        f"tls-port {port}",
        f"tls-cert-file {made['cert']}",
        f"tls-key-file {made['key']}",
        f"tls-ca-cert-file {made['ca']}",
        "tls-auth-clients yes",
        "tls-replication yes",
        f"sentinel monitor main 127.0.0.1 {read(url).shown.split(':')[2].removesuffix('/0')} 1",
        sentinel=True,
    )
    eventually(lambda: sentinel.master("main")["flags"] == "master", "the sentinel's knowing")
    files = {"ca_file": str(made["ca"]), "cert_file": str(made["cert"]), "key_file": str(made["key"])}

    assert await works(f"rediss+sentinel://127.0.0.1:{port}/main/0", **files)
    assert await works(f"rediss+sentinel://localhost:{port}/main/0?ssl_check_hostname=false", **files)


async def test_a_sentinel_with_tls_and_a_password_of_its_own_leads_to_a_master_that_has_another(
    start_redis: StartRedis, tmp_path: Path
) -> None:
    made = certificates(tmp_path, "ours")
    files = {"cert-file": made["cert"], "key-file": made["key"], "ca-cert-file": made["ca"]}
    redis_port, sentinel_port = free_port(), free_port()
    redis = start_redis(
        *("--requirepass", "hunter2", "--tls-port", str(redis_port)),
        *(word for name, file in files.items() for word in (f"--tls-{name}", str(file))),
        running=False,
    )
    redis.password = "hunter2"
    redis.start(wait=False)
    try:
        eventually(redis.answers, "a Redis with TLS", within_s=3)
    except AssertionError:
        unavailable("this redis-server is built without TLS")
    sentinel = start_redis(
        f"tls-port {sentinel_port}",
        *(f"tls-{name} {file}" for name, file in files.items()),
        "tls-replication yes",
        "requirepass swordfish",
        f"sentinel monitor main 127.0.0.1 {redis_port} 1",
        "sentinel auth-pass main hunter2",
        sentinel=True,
        running=False,
    )
    sentinel.password = "swordfish"
    sentinel.start()
    eventually(lambda: sentinel.master("main")["flags"] == "master", "the sentinel's knowing")
    ours = {"ca_file": str(made["ca"]), "cert_file": str(made["cert"]), "key_file": str(made["key"])}
    url = f"rediss+sentinel://:hunter2@127.0.0.1:{sentinel_port}/main/0?sentinel_password=swordfish"

    assert await works(url, **ours)


async def test_tls_without_the_client_certificate_that_is_asked_for_fails(
    tls: tuple[str, dict[str, Path]],
) -> None:
    url, made = tls

    error = await refusal(url, ca_file=str(made["ca"]))

    assert error.kind in ("tls", "connection")  # TLS 1.3 tells it as late as on the first read


async def test_tls_of_an_unknown_authority_is_told_as_such(tls: tuple[str, dict[str, Path]]) -> None:
    url, _ = tls

    error = await refusal(url)

    assert error.kind == "tls"
    assert "certificate verify failed" in str(error)


@pytest.mark.parametrize(
    ("url", "files"),
    [
        ("redis://localhost/0?no_such_option=1", {}),
        ("rediss://localhost/0", {"ca_file": "no/such/file.pem"}),
        ("rediss://localhost/0", {"cert_file": "no/such/file.pem"}),
        ("redis://:hunter2@localhost/0?socket_timeout=soon", {}),
        ("redis+sentinel://:hunter2@localhost/main?no_such_option=1", {}),
        ("redis+sentinel://localhost/main?sentinel_password=hunter2&socket_timeout=soon", {}),
        ("redis://localhost/0?sentinel_password=hunter2", {}),
        ("rediss+sentinel://localhost/main", {"ca_file": "no/such/file.pem"}),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(url: str, files: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        open_link(read(url), **files)

    assert "hunter2" not in str(caught.value)


def test_options_of_the_url_win_over_ours() -> None:
    link: RedisLink = open_link(read("redis://localhost/0?socket_timeout=0.25"))

    assert link.redis.connection_pool.connection_kwargs["socket_timeout"] == 0.25


def test_options_of_a_sentinel_url_hold_for_redis() -> None:
    link: RedisLink = open_link(read("redis+sentinel://localhost/main/3?socket_timeout=0.25&client_name=us"))

    kwargs = link.redis.connection_pool.connection_kwargs
    assert (kwargs["socket_timeout"], kwargs["client_name"], kwargs["db"]) == (0.25, "us", 3)


def test_a_sentinel_is_told_its_own_password_and_never_that_of_redis() -> None:
    link: RedisLink = open_link(
        read(
            "redis+sentinel://ann:hunter2@localhost/main?sentinel_username=bob&sentinel_password=sword%20fish"
        )
    )

    assert link.sentinel is not None
    asked = link.sentinel.sentinels[0].connection_pool.connection_kwargs
    assert (asked["username"], asked["password"]) == ("bob", "sword fish")


def test_settings_that_do_not_fit_together_stop_the_start(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_PATH", str(model))
    monkeypatch.setenv("PORT", str(free_port()))
    monkeypatch.setenv("REDIS_URL", "rediss://localhost/0")
    monkeypatch.setenv("REDIS_CA_FILE", "no/such/file.pem")

    assert main(["serve"]) == UNUSABLE
    assert "REDIS_" in capsys.readouterr().err
