"""The page's files as they go over the wire: packed, tagged, and fenced in by their policy."""

import gzip
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.page import FOLDER, PAGES, Page, Reply, accepts_gzip, matches, policy, read_url

ROOT = Path(__file__).resolve().parent.parent
BYTES_MAX = 120_000
FILES = sorted(file for file in FOLDER.iterdir() if file.is_file())
ASSET = re.compile(r"""(?:src|href)="([^"]+)"|(?:from |import\()"([^"]+)\"""")


@pytest.fixture(scope="module")
def page() -> Page:
    page = Page()
    page.load()
    return page


def asked(page: Page, path: str, accept_encoding: str = "", if_none_match: str = "") -> Reply:
    reply = page.answer(path, accept_encoding=accept_encoding, if_none_match=if_none_match)
    assert reply is not None, path
    return reply


def header(reply: Reply, name: str) -> str:
    return dict(reply.headers).get(name, "")


def test_all_that_the_page_ever_loads_is_under_120_kilobytes() -> None:
    assert sum(file.stat().st_size for file in FILES if file.stem != "docs") < BYTES_MAX


@pytest.mark.parametrize("path", PAGES)
def test_a_page_stands_at_its_own_path(page: Page, path: str) -> None:
    reply = asked(page, path)

    assert reply.status == 200
    assert reply.body.startswith(b"<!doctype html>")
    assert header(reply, "content-type") == "text/html; charset=utf-8"


def test_every_file_that_is_named_in_another_is_served(page: Page) -> None:
    named = set()
    for file in FILES:
        for found in ASSET.finditer(file.read_text(encoding="utf-8")):
            asset = found[1] or found[2]
            if asset.startswith(("/page/", "./")):
                named.add("/page/" + asset.rpartition("/")[2])

    missing = [path for path in named if page.answer(path) is None]

    assert len(named) > 10
    assert missing == []


def test_no_file_names_another_host() -> None:
    addresses = re.compile(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[a-z0-9-]+\.[a-z]", re.IGNORECASE)

    named = [file.name for file in FILES if addresses.search(file.read_text(encoding="utf-8"))]

    assert named == []


def test_nothing_on_the_page_writes_html_or_keeps_what_is_typed() -> None:
    banned = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|localStorage|"
        r"sessionStorage|indexedDB|document\.cookie|console\."
    )

    found = [file.name for file in FILES if banned.search(file.read_text(encoding="utf-8"))]

    assert found == []


@pytest.mark.parametrize("path", ["/page/", "/page/nothing.js", "/page/../page.py", "/page/index.html", "/x"])
def test_a_path_without_a_file_is_not_answered(page: Page, path: str) -> None:
    assert page.answer(path) is None


def test_without_a_schema_there_is_no_reference_page() -> None:
    page = Page(docs=False)
    page.load()

    assert page.answer("/docs") is None
    assert page.answer("/") is not None


def test_a_page_says_whether_it_was_loaded() -> None:
    page = Page()
    before = page.loaded

    page.load()

    assert (before, page.loaded) == (False, True)


# Packing


def test_a_packed_answer_unpacks_to_the_plain_one(page: Page) -> None:
    plain, packed = asked(page, "/"), asked(page, "/", "gzip")

    assert gzip.decompress(packed.body) == plain.body
    assert header(packed, "content-encoding") == "gzip"
    assert header(plain, "content-encoding") == ""


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_a_length_is_that_of_what_is_sent(page: Page, encoding: str) -> None:
    reply = asked(page, "/page/main.js", encoding)

    assert header(reply, "content-length") == str(len(reply.body))


def test_caches_are_told_that_the_answer_depends_on_the_encoding(page: Page) -> None:
    assert header(asked(page, "/"), "vary") == "accept-encoding"


@pytest.mark.parametrize(
    ("accepted", "packs"),
    [
        ("", False),
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000, *", False),
        ("gzip;q=0.001", True),
        ("*", True),
        ("*;q=0", False),
        ("br", False),
        ("x-gzippy", False),
        ("ü,;q=,gzip", True),
    ],
)
def test_a_body_is_packed_only_for_who_takes_it_so(accepted: str, packs: bool) -> None:
    assert accepts_gzip(accepted) is packs


# ETags


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_who_has_the_file_already_gets_no_body(page: Page, encoding: str) -> None:
    etag = header(asked(page, "/", encoding), "etag")

    again = asked(page, "/", encoding, if_none_match=etag)

    assert (again.status, again.body) == (304, b"")
    assert header(again, "etag") == etag
    assert header(again, "content-length") == ""


def test_packed_bytes_have_a_tag_of_their_own(page: Page) -> None:
    assert header(asked(page, "/"), "etag") != header(asked(page, "/", "gzip"), "etag")


def test_another_content_has_another_tag() -> None:
    one, other = Page(), Page(prometheus_url="http://localhost:9090")
    one.load()
    other.load()

    assert header(asked(one, "/"), "etag") != header(asked(other, "/"), "etag")


def test_a_restarted_gateway_gives_the_same_tag(page: Page) -> None:
    again = Page()
    again.load()

    assert header(asked(again, "/", "gzip"), "etag") == header(asked(page, "/", "gzip"), "etag")


@pytest.mark.parametrize(
    ("given_tag", "same"),
    [
        ('"a"', True),
        ('W/"a"', True),
        ('"x", W/"y" , "a"', True),
        ("*", True),
        ("", False),
        ('""', False),
        ("a", False),
        ('"a', False),
    ],
)
def test_a_tag_is_recognised_among_several(given_tag: str, same: bool) -> None:
    assert matches(given_tag, '"a"') is same


# The policy


def test_the_policy_allows_nothing_but_the_pages_own_files(page: Page) -> None:
    said = header(asked(page, "/"), "content-security-policy")

    rules = dict(rule.strip().split(" ", 1) for rule in said.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["frame-ancestors"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert "unsafe" not in said


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_every_answer_carries_the_policy(page: Page, encoding: str) -> None:
    for path in ("/", "/docs", "/page/main.js"):
        etag = header(asked(page, path, encoding), "etag")
        for reply in (asked(page, path, encoding), asked(page, path, encoding, etag)):
            assert header(reply, "content-security-policy")
            assert header(reply, "x-content-type-options") == "nosniff"


def test_with_a_prometheus_the_policy_allows_its_alerts_and_no_more() -> None:
    said = policy("http://localhost:9090")

    assert "connect-src 'self' http://localhost:9090/api/v1/alerts;" in said


def test_the_page_knows_the_prometheus_that_its_policy_allows() -> None:
    page = Page(prometheus_url="https://metrics.example:9090/prom")
    page.load()

    assert (
        b'<meta name="prometheus-url" content="https://metrics.example:9090/prom">' in asked(page, "/").body
    )


@pytest.mark.parametrize(
    ("seen", "meant"),
    [
        ("http://localhost:9090", "http://localhost:9090"),
        ("https://prometheus.example/", "https://prometheus.example"),
        ("http://[::1]:9090/prom/", "http://[::1]:9090/prom"),
    ],
)
def test_a_good_address_is_read_as_it_was_meant(seen: str, meant: str) -> None:
    assert read_url(seen) == meant


@pytest.mark.parametrize(
    "seen",
    [
        "localhost:9090",
        "ftp://localhost",
        "http://user:secret@localhost",
        "http://localhost:9090; script-src *",
        "http://localhost 'unsafe-inline'",
        "http://localhost/?q=1",
        'http://localhost/"><script>',
        "http://localhost\r\nx: y",
        "http://localhost:9090\n",
        "http://*",
        "",
    ],
)
def test_an_address_that_would_change_the_policy_is_refused(seen: str) -> None:
    with pytest.raises(ValueError, match=r"^http:// or https://"):
        read_url(seen)


@given(st.text(max_size=40))
def test_whatever_follows_a_scheme_stays_within_its_directive_or_is_refused(tail: str) -> None:
    try:
        url = read_url("http://" + tail)
    except ValueError:
        return

    assert not set(url) & set(" ;,'\"<>\r\n\t*\\")
    assert policy(url).count(";") == policy().count(";")


def test_a_gateway_without_the_page_does_not_import_it() -> None:
    code = "import sys, handler.server, handler.app; print('handler.page' in sys.modules)"

    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "False"
