"""What REDIS_URL may say."""

import pytest

from handler.redis_url import read
from handler.settings import SettingsError, from_env


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://redis:6379/0", "redis://redis:6379/0"),
        ("redis://localhost", "redis://localhost:6379"),
        ("redis://:hunter2@localhost:7000/3", "redis://localhost:7000/3"),
        (
            "rediss://ann:hunter2@cache.example:6380/1?ssl_check_hostname=false",
            "rediss://cache.example:6380/1",
        ),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("unix:///run/redis.sock?db=2&password=hunter2", "unix:///run/redis.sock"),
        ("redis+sentinel://ann:hunter2@a:1,b/svc/2", "redis+sentinel://a:1,b/svc/2"),
        ("rediss+sentinel://a/svc?sentinel_password=hunter2", "rediss+sentinel://a/svc"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert read(url).shown == shown


def test_a_sentinel_url_names_sentinels_service_database_and_credentials() -> None:
    endpoint = read("redis+sentinel://ann:p%40ss@one:26380,two,[::1]:5/main/4")

    assert endpoint.nodes == (("one", 26380), ("two", 26379), ("::1", 5))
    assert (endpoint.service, endpoint.db) == ("main", 4)
    assert (endpoint.username, endpoint.password) == ("ann", "p@ss")


@pytest.mark.parametrize(
    "url",
    [
        "http://:hunter2@redis",
        "redis:6379",
        "hunter2",
        "redis://:hunter2@redis:port",
        "redis://:hunter2@redis:70000",
        "redis://:hunter2@redis/zero",
        "redis://[:hunter2",
        "unix://",
        "redis+sentinel://:hunter2@one:26379",
        "redis+sentinel://:hunter2@one:26379/main/zero",
        "redis+sentinel://:hunter2@one:x/main",
        "redis+sentinel:///main",
        "redis://:hunter2\udcff@redis",
    ],
)
def test_an_unreadable_url_stops_the_start_without_showing_it(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^REDIS_URL='…' cannot be read: ") as caught:
        from_env({"REDIS_URL": url})

    assert "hunter2" not in str(caught.value)


def test_no_url_means_no_redis() -> None:
    assert from_env({"REDIS_URL": " "}).redis_url == ""
