"""Build the documentation as a site and check it: `just docs`.

mkdocs refuses what it warns of (a page that the navigation lacks, a link or an anchor that leads nowhere). Then the
pages are read as a browser would: every link inside the site leads somewhere, and nothing is loaded from elsewhere.
"""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lab.launch import ROOT

SITE = ROOT / "reports/site"
# What a browser fetches by itself; a plain link waits for a reader.
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class Links(HTMLParser):
    """What a page links to, what it loads, and which anchors it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        for name in ("id", "name") if tag == "a" else ("id",):
            if anchor := given.get(name):
                self.anchors.add(anchor)
        if tag == "a" and (href := given.get("href")):
            self.links.add(href)
        if (name := LOADED.get(tag, "")) and (target := given.get(name)):
            self.loads.add(target)


def faults(site: Path) -> list[str]:
    """What is wrong with a built site, a line each: links that lead nowhere, and what is loaded from elsewhere."""
    pages = {page.resolve(): Links(page.read_text(encoding="utf-8")) for page in sorted(site.rglob("*.html"))}
    found = []
    for page, read in pages.items():
        name = page.relative_to(site.resolve())
        found += [f"{name} loads {target}" for target in sorted(read.loads) if _is_elsewhere(target)]
        for target in sorted(read.links | read.loads):
            if _is_elsewhere(target) or urlsplit(target).scheme:
                continue
            path, anchor = unquote(urlsplit(target).path), unquote(urlsplit(target).fragment)
            beside = (
                site if path.startswith("/") else page.parent
            )  # the page for what is missing, served anywhere
            file = (beside / path.lstrip("/")).resolve() if path else page
            if not file.is_file():
                found.append(f"{name} links to {target}, which is not there")
            elif (
                anchor and not anchor.startswith("__") and file in pages and anchor not in pages[file].anchors
            ):
                found.append(f"{name} links to {target}, and that page has no such anchor")
    return found


def _is_elsewhere(target: str) -> bool:
    return bool(urlsplit(target).netloc)


def main() -> int:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--clean", "--site-dir", SITE],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
    )
    if built.returncode:
        return built.returncode
    for fault in (found := faults(SITE)):
        print(fault, file=sys.stderr)
    print(f"{len(list(SITE.rglob('*.html')))} pages in {SITE.relative_to(ROOT)}, {len(found)} faults")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
