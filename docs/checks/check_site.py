"""Check a built site: ``python3 docs/checks/check_site.py SITE_DIR``.

Its files: each link inside the site leads somewhere, and nothing that a browser would load lies
elsewhere. Its pages, opened in headless Chromium at the width of a desk and of a phone: no errors,
no request that leaves the site, nothing wider than the window, no figure too small to read, all
mathematics rendered. Exits with 1 and a list if there is a fault. Without Chromium the pages are
not opened, which is a fault if ``ADAMOFFLOAD_REQUIRE_BROWSER=1``.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from browser import NAMES, REQUIRED, Browser, find, serve, start

DESK, PHONE = (1280, 800), (390, 844)

# What a browser loads by itself. A <link> loads what it names unless it only says how pages relate.
LOADING = ("audio", "embed", "iframe", "img", "input", "object", "script", "source", "video")
RELATIONS = {"author", "canonical", "help", "index", "license", "next", "prev", "search", "up"}
IN_STYLES = re.compile(r"""@import\s+["']([^"']+)|url\(\s*(?:"([^"]*)"|'([^']*)'|([^"')\s]+))""")
COMMENTS = re.compile(r"/\*.*?\*/", re.DOTALL)

# Asked of each page: what sticks out of the window, outside of anything that scrolls; what is shown
# at less than two fifths of its size, thumbnails apart; and whether each formula became a picture.
# An answer is a list of faults.
WIDER = """(() => {
  if (document.documentElement.scrollWidth <= innerWidth) return [];
  const scrolled = e => e && e !== document.body
    && (getComputedStyle(e).overflowX !== "visible" || scrolled(e.parentElement));
  const out = [...document.body.querySelectorAll("*")].filter(e =>
    e.getBoundingClientRect().right > innerWidth + 1 && !scrolled(e.parentElement));
  const inner = out.filter(e => !out.some(other => other !== e && e.contains(other)));
  const name = e => `<${e.tagName.toLowerCase()} class="${e.getAttribute("class") ?? ""}"> `
    + e.textContent.trim().slice(0, 50);
  return (inner.length ? inner.map(name) : ["something"]).map(e =>
    `wider than ${innerWidth} px: ${e}`);
})()"""
SMALL = """[...document.querySelectorAll("img")].filter(e => !e.src.includes("_thumb.")
  && e.clientWidth && e.clientWidth < 0.4 * e.naturalWidth).map(e =>
    `too small at ${innerWidth} px: ${e.src.split("/").pop()}, ${e.naturalWidth} px wide`)"""
FORMULAS = """(async () => {
  if (window.MathJax?.startup) await MathJax.startup.promise;
  return [...document.querySelectorAll(".math")].filter(e => !e.querySelector("mjx-container svg")
    || e.querySelector("[data-mjx-error]")).map(e => "not rendered: " + e.textContent.trim());
})()"""


class Reference(NamedTuple):
    """What a page names: an address, and whether a browser loads it unasked."""

    address: str
    loaded: bool


class Page(HTMLParser):
    """What an HTML file names, and what can be named in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors = {"", "top"}
        self.references: list[Reference] = []
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._in_style = tag == "style"
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.references += in_styles(given.get("style", ""))
        loaded = tag in LOADING or (tag == "link" and given.get("rel") not in RELATIONS)
        addresses = [given[name] for name in ("href", "src", "data", "poster") if name in given]
        addresses += [part.split()[0] for part in given.get("srcset", "").split(",") if part]
        self.references += [Reference(address, loaded) for address in addresses]

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.references += in_styles(data)


def in_styles(text: str) -> list[Reference]:
    """Return what a style sheet loads."""
    found = IN_STYLES.findall(COMMENTS.sub("", text))
    return [Reference("".join(groups), loaded=True) for groups in found]


def files_faults(site: Path) -> Iterator[str]:
    """Yield what is wrong with the site's references, each file's in turn."""
    pages = {path: Page(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}
    references = {path: page.references for path, page in pages.items()}
    references |= {path: in_styles(path.read_text("utf-8")) for path in site.rglob("*.css")}
    for path, named in references.items():
        for reference in dict.fromkeys(named):
            fault = reference_fault(site, path, reference, pages)
            if fault:
                yield f"{path.relative_to(site)}: {fault}: {reference.address}"


def reference_fault(
    site: Path, path: Path, reference: Reference, pages: dict[Path, Page]
) -> str | None:
    """Say what is wrong with one reference of a file, or None."""
    url = urlsplit(reference.address)
    if url.scheme == "data":
        return None
    if url.scheme or url.netloc:
        return "is loaded from elsewhere" if reference.loaded else None
    target = (path.parent / unquote(url.path)).resolve() if url.path else path
    if not target.is_relative_to(site):
        return "leads out of the site"
    if not target.is_file():
        return "does not exist"
    if target in pages and unquote(url.fragment) not in pages[target].anchors:
        return "has no such anchor"
    return None


def pages_faults(site: Path, browser: Browser) -> Iterator[str]:
    """Yield what the browser finds wrong, page by page."""
    with serve(site) as origin:
        for path in sorted(site.rglob("*.html")):
            name = path.relative_to(site).as_posix()
            for fault in page_faults(f"{origin}/{quote(name)}", origin, browser):
                yield f"{name}: {fault}"


def page_faults(url: str, origin: str, browser: Browser) -> Iterator[str]:
    """Yield what the browser finds wrong with one page."""
    browser.resize(*DESK)
    visit = browser.open(url, FORMULAS)
    answers: list[Any] = [*visit.answer, *browser.evaluate(WIDER)]
    browser.resize(*PHONE)
    answers += [*browser.evaluate(WIDER), *browser.evaluate(SMALL)]
    yield from answers
    yield from (f"the browser says: {text}" for text in dict.fromkeys(visit.console))
    ours = (f"{origin}/", "data:", "blob:")
    yield from (f"asks for {asked}" for asked in visit.requests if not asked.startswith(ours))


def main(site: Path) -> int:
    """Print what is wrong with a site, and return the exit status."""
    began, command = time.perf_counter(), find()
    faults = list(files_faults(site))
    if command:
        with start(command) as browser:
            faults += pages_faults(site, browser)
    elif os.environ.get(REQUIRED) == "1":
        faults.append(f"{REQUIRED}=1, but none of {', '.join(NAMES)} is installed")
    else:
        print(f"pages not opened: none of {', '.join(NAMES)} is installed")
    print(*faults, sep="\n", end="\n" if faults else "")
    pages = len(list(site.rglob("*.html")))
    print(f"{pages} pages, {len(faults)} faults, {time.perf_counter() - began:.0f} s")
    return 1 if faults or not pages else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]).resolve()))
