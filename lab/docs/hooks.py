"""What mkdocs does beyond docs/: pages of the root, the reference, and sources that pages point to.

A page keeps the links that work in a checkout (`../compose.yaml`, `docs/runbook.md#alert`); here they are turned
to where the site has what they name, and mkdocs holds every one of them against what it built.
"""

import os
import posixpath
import re
from collections.abc import Callable, Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from lab.docs import reference
from lab.launch import ROOT

# Pages outside docs/, and where the site has them.
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "integrations/README.md": "integrations.md",
}
MADE: dict[str, Callable[[], str]] = {
    "reference/metrics.md": reference.metrics,
    "reference/errors.md": reference.errors,
    "reference/http.md": reference.http,
    "reference/python.md": reference.python,
    "decisions/index.md": reference.decisions,
}
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s#]+)((?:#[^)\s]*)?\))")
FENCED = re.compile(r"(?ms)(^```.*?^```[^\n]*$)")
LANGUAGES = {
    ".py": "python",
    ".yml": "yaml",
    ".yaml": "yaml",
    ".sh": "bash",
    ".js": "javascript",
    ".lua": "lua",
}


def on_config(config: MkDocsConfig) -> None:
    """Put the decisions at the navigation's end: a new one needs no entry of its own."""
    pages = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    assert config.nav is not None
    config.nav.append({"Decisions": ["decisions/index.md", *(f"decisions/{page.name}" for page in pages)]})


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is not in docs/."""
    for path, uri in ELSEWHERE.items():
        files.append(File.generated(config, uri, content=(ROOT / path).read_text(encoding="utf-8")))
    for uri, make in MADE.items():
        files.append(File.generated(config, uri, content=make()))
    for path in sorted(set(_sources(files))):
        files.append(File.generated(config, site_path(path), content=_source(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn a page's links to where the site has what they name."""
    uri = page.file.src_uri
    if uri in MADE or uri.startswith("source/"):
        return markdown
    return outside_code(markdown, lambda text: blank_before_lists(turned(text, uri)))


def turned(text: str, uri: str) -> str:
    """A page's text with its links from where it stands in the site."""

    def turn(found: re.Match[str]) -> str:
        target = posixpath.relpath(site_path(_named(found[2], uri)), posixpath.dirname(uri) or ".")
        return f"{found[1]}{target}{found[3]}"

    return LINK.sub(turn, text)


def site_path(path: str) -> str:
    """Where the site has a file or folder of the repository."""
    if path in ELSEWHERE:
        return ELSEWHERE[path]
    if path.startswith("docs/"):
        inside = path.removeprefix("docs/")
        return f"{inside}/index.md" if (ROOT / path).is_dir() else inside
    return f"source/{path}/index.md" if (ROOT / path).is_dir() else f"source/{path}.md"


def blank_before_lists(text: str) -> str:
    """A list that follows a paragraph at once is one on forges; Python's Markdown wants a blank line."""
    return re.sub(r"(?m)^((?![-*] |\d+\. |\||#|>|\s).+\n)(?=(?:[-*]|\d+\.) )", r"\1\n", text)


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Change what does not stand in a fenced block."""
    return "".join(part if i % 2 else change(part) for i, part in enumerate(FENCED.split(markdown)))


def _named(target: str, uri: str) -> str:
    """The repository's path that a link on a page of the site names."""
    at = next((path for path, place in ELSEWHERE.items() if place == uri), f"docs/{uri}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(at), target))


def _sources(files: Files) -> Iterator[str]:
    """What pages name that is no page: code, configuration and folders of it."""
    for file in files.documentation_pages():
        if file.src_uri in MADE:
            continue
        for target in LINK.findall("".join(FENCED.split(file.content_string)[::2])):
            path = _named(target[1], file.src_uri)
            if path not in ELSEWHERE and not path.startswith("docs/") and (ROOT / path).exists():
                yield path


def _source(path: str) -> str:
    """A page that shows a file, or what a folder holds."""
    place = ROOT / path
    if place.is_dir():
        names = sorted(
            os.path.relpath(file, place)
            for file in place.rglob("*")
            if file.is_file() and "__pycache__" not in file.parts
        )
        return f"# {path}/\n\n" + "\n".join(f"- `{name}`" for name in names) + "\n"
    text = place.read_text(encoding="utf-8")
    return f"# {path}\n\n````{LANGUAGES.get(place.suffix, 'text')}\n{text}\n````\n"
