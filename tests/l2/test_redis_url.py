"""What REDIS_URL may say."""

from urllib.parse import quote

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
        ("redis://ann:hunter%23%3F%2F2@h", "redis://h:6379"),
        ("unix://ann:hunter2@/run/redis.sock", "unix:///run/redis.sock"),
        ("redis+cluster://ann:hunter2@a:1,b", "redis+cluster://a:1,b"),
        ("rediss+cluster://:hunter2@a/0?ssl_check_hostname=false", "rediss+cluster://a"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert read(url).shown == shown


def test_a_sentinel_url_names_sentinels_service_database_and_credentials() -> None:
    endpoint = read("redis+sentinel://ann:p%40ss@one:26380,two,[::1]:5/main/4")

    assert endpoint.nodes == (("one", 26380), ("two", 26379), ("::1", 5))
    assert (endpoint.service, endpoint.db) == ("main", 4)
    assert (endpoint.username, endpoint.password) == ("ann", "p@ss")


def test_a_cluster_url_names_servers_and_credentials() -> None:
    endpoint = read("rediss+cluster://ann:p%40ss@one:7000,two,[::1]:5")

    assert endpoint.nodes == (("one", 7000), ("two", 6379), ("::1", 5))
    assert (endpoint.cluster, endpoint.tls, endpoint.service) == (True, True, "")
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
        "redis+cluster://",
        "redis+cluster://:hunter2@one:x",
        "redis+cluster://:hunter2@one:6379,",
        "redis+cluster://:hunter2@one:6379/1",
        "redis+cluster://:hunter2@one:6379/main",
        "redis://:hunter2\udcff@redis",
    ],
)
def test_an_unreadable_url_stops_the_start_without_showing_it(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^REDIS_URL='…' cannot be read: ") as caught:
        from_env({"REDIS_URL": url})

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("redis://:57#hunter2@127.0.0.1:6379", id="a # after digits"),
        pytest.param("redis://:123?hunter2@h:6379/0", id="a ? after digits"),
        pytest.param("redis://:12/hunter2@h:6379/0", id="a / after digits"),
        pytest.param("redis://:?hunter2@redis:6379/0", id="a ? first"),
        pytest.param("redis://:#hunter2@redis:6379/0", id="a # first"),
        pytest.param("redis://:/hunter2@redis:6379/0", id="a / first"),
        pytest.param("redis://hunter2#x@redis:6379", id="a # in the user"),
        pytest.param("redis://ann#hunter2@redis:6379", id="a # between user and password"),
        pytest.param("redis://ann:hunter2@redis:6379#", id="a # at the end"),
        pytest.param("redis://ann:1?db=hunter2@redis:6379", id="a password like an option"),
        pytest.param("redis://redis:6379?password=hunter2#3", id="a # in an option"),
        pytest.param("redis://redis:6379?password=hunter2@3", id="an @ in an option"),
        pytest.param("redis://redis:6379?password=1&hunter2", id="an & in an option"),
        pytest.param("redis+sentinel://u:123/hunter2@h:26379/svc", id="a / at a Sentinel"),
        pytest.param("redis+sentinel://u:1?hunter2@h:26379/svc", id="a ? at a Sentinel"),
        pytest.param("redis+sentinel://u:1#hunter2@h:26379/svc", id="a # at a Sentinel"),
        pytest.param("redis+cluster://u:123/hunter2@h:6379", id="a / at a cluster"),
        pytest.param("redis+cluster://u:1?hunter2@h:6379", id="a ? at a cluster"),
        pytest.param("redis+cluster://u:1#hunter2@h:6379", id="a # at a cluster"),
        pytest.param("rediss://:1#hunter2@h", id="a # with TLS"),
        pytest.param("unix://:1#hunter2@/run/redis.sock", id="a # at a socket"),
        pytest.param("redis://:hun[ter2@h", id="a bracket"),
        pytest.param("redis://:hunter2 x@h", id="a blank"),
        pytest.param("redis://:hunter2\tx@h", id="a tab, which a URL would lose"),
        pytest.param("redis://:hunter2:p@h:6x", id="a port that is none"),
    ],
)
def test_a_url_with_a_raw_character_is_refused_with_the_way_to_write_it(url: str) -> None:
    with pytest.raises(SettingsError, match="percent-encode") as caught:
        from_env({"REDIS_URL": url})

    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize("character", '#?/@[]% :;&=+$,"<>\\^`{|}~ü')
def test_a_percent_encoded_character_of_a_password_arrives(character: str) -> None:
    password = f"1{character}2"

    endpoint = read(f"redis+sentinel://ann:{quote(password, safe='')}@one/main")

    assert endpoint.password == password


def test_a_password_whose_bytes_are_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="UTF-8"):
        read("redis://:%ff@h")


@pytest.mark.parametrize("url", ["unix://tmp/redis.sock", "unix://ann:x@host/redis.sock", "unix://"])
def test_a_socket_without_its_whole_path_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="unix:///path"):
        read(url)


@pytest.mark.parametrize(
    "option",
    ["pasword=x", "credential_provider=x", "redis_connect_func=x", "host=other", "path=/x", "retry=3"],
)
def test_an_option_that_is_not_known_is_refused_by_name(option: str) -> None:
    with pytest.raises(ValueError, match=f"option {option.partition('=')[0]} is not known"):
        read(f"redis://h?{option}")


@pytest.mark.parametrize("option", ["db=0", "sentinel_password=hunter2"])
def test_a_cluster_has_no_database_to_choose_and_no_sentinel(option: str) -> None:
    with pytest.raises(ValueError, match=f"option {option.partition('=')[0]} is not known"):
        read(f"redis+cluster://h?{option}")


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon", ""])
def test_a_socket_timeout_that_is_no_time_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="socket_timeout is not a number over 0"):
        read(f"redis://h?socket_timeout={value}")


def test_options_about_how_redis_is_spoken_to_have_no_effect() -> None:
    endpoint = read("redis://h/2?decode_responses=true&protocol=3&max_connections=1&client_name=qg")

    assert endpoint.options == "client_name=qg"
    assert endpoint.url == "redis://h/2"


def test_no_url_means_no_redis() -> None:
    assert from_env({"REDIS_URL": " "}).redis_url == ""
