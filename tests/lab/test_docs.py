"""The documentation's site: links turned to where it has what they name, and a checker that finds what is wrong."""

from pathlib import Path

import pytest

from lab.docs import hooks, reference
from lab.docs.__main__ import faults
from lab.docs.docstrings import as_markdown


@pytest.mark.parametrize(
    ("uri", "text", "turned"),
    [
        ("page.md", "[a](settings.md)", "[a](settings.md)"),
        ("page.md", "[a](../compose.yaml)", "[a](source/compose.yaml.md)"),
        ("page.md", "[a](../README.md#errors)", "[a](index.md#errors)"),
        ("page.md", "[a](../monitoring)", "[a](source/monitoring/index.md)"),
        ("decisions/0001-one-process.md", "[a](../runbook.md#alert)", "[a](../runbook.md#alert)"),
        ("index.md", "![a](docs/pictures/page-try.png)", "![a](pictures/page-try.png)"),
        ("index.md", "[a](docs/decisions/)", "[a](decisions/index.md)"),
        ("integrations.md", "[a](nginx/nginx.conf)", "[a](source/integrations/nginx/nginx.conf.md)"),
        ("index.md", "[a](https://example.com/b) [c](#d)", "[a](https://example.com/b) [c](#d)"),
    ],
)
def test_a_link_of_the_checkout_is_turned_to_its_place_in_the_site(uri: str, text: str, turned: str) -> None:
    assert hooks.turned(text, uri) == turned


def test_what_stands_in_code_is_no_link() -> None:
    text = "[a](b)\n\n```md\n[a](b)\n```\n\n[a](b)\n"

    assert hooks.outside_code(text, lambda part: part.replace("(b)", "(c)")) == (
        "[a](c)\n\n```md\n[a](b)\n```\n\n[a](c)\n"
    )


def test_a_list_after_a_paragraph_gets_the_blank_line_that_it_needs() -> None:
    assert hooks.blank_before_lists("So:\n- one\n- two\n\n1. a\n   b\n2. c\n") == (
        "So:\n\n- one\n- two\n\n1. a\n   b\n2. c\n"
    )


def test_a_docstrings_definitions_become_a_list() -> None:
    text = (
        "Say it.\n\nlogits   (batch, route) float32,\n         straight from ORT\nreturns  rows\n\nThe end."
    )

    assert as_markdown(text) == (
        "Say it.\n\n- `logits`: (batch, route) float32,\n    straight from ORT\n- `returns`: rows\n\nThe end."
    )


def site(folder: Path, **pages: str) -> Path:
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text)
    return folder


def test_a_site_whose_links_lead_somewhere_has_no_fault(tmp_path: Path) -> None:
    built = site(tmp_path, a='<a href="b.html#there">', b='<p id="there"><a href="https://example.com">')

    assert faults(built) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('<a href="c.html">', "a.html links to c.html, which is not there"),
        ('<a href="#c">', "a.html links to #c, and that page has no such anchor"),
        ('<img src="c.png">', "a.html links to c.png, which is not there"),
        ('<script src="https://example.com/c.js">', "a.html loads https://example.com/c.js"),
        ('<link href="//example.com/c.css">', "a.html loads //example.com/c.css"),
    ],
)
def test_a_fault_of_a_site_is_named_with_its_page(tmp_path: Path, text: str, fault: str) -> None:
    assert faults(site(tmp_path, a=text)) == [fault]


def test_the_reference_names_every_error_metric_and_path() -> None:
    pages = reference.errors() + reference.metrics() + reference.http()

    wanted = [
        "[Overloaded](../runbook.md#overloaded)",
        "`query_gateway_requests_total`",
        "POST /v1/query-classify",
    ]
    assert [name for name in wanted if name not in pages] == []


def test_every_module_of_the_reference_is_one() -> None:
    assert [name for name in reference.MODULES if not reference.docstring(f"handler/{name}.py")] == []
