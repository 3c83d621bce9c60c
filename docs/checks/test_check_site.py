"""Each fault that a site can have is found, and a site without any passes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import check_site
from browser import NAMES, REQUIRED, Browser, chromium, start

PICTURE = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' width='300' height='9'/>"
HEAD = '<!doctype html><title>page</title><link rel="icon" href="data:,">'


def site(folder: Path, body: str, **files: str) -> Path:
    """Write a page with this body, and other files by name (``a_css`` is ``a.css``)."""
    (folder / "index.html").write_text(f"{HEAD}<body>{body}", "utf-8")
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with start(chromium()) as browser:
        yield browser


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        '<a href="https://elsewhere.invalid/">a link may lead elsewhere</a>',
        '<link rel="canonical" href="https://elsewhere.invalid/">',
        '<p id="here"><a href="#here">here</a> <a href="#">top</a>',
        '<a href="other.html#a%20b">there</a>',
        '<a href="mailto:someone@elsewhere.invalid">write</a>',
        '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">',
        "<pre>&lt;img src='https://elsewhere.invalid/a.png'></pre>",
        "<style>/* url(https://elsewhere.invalid/a.png) */</style>",
    ],
)
def test_a_sound_reference_is_no_fault(tmp_path: Path, body: str) -> None:
    site(tmp_path, body, other_html=f'{HEAD}<p id="a b">')
    assert list(check_site.files_faults(tmp_path)) == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="gone.html">', "does not exist: gone.html"),
        ('<img src="gone.png">', "does not exist: gone.png"),
        ('<img srcset="other.html, gone.png 2.0x">', "does not exist: gone.png"),
        ('<a href="#gone">', "has no such anchor: #gone"),
        ('<a href="other.html#gone">', "has no such anchor: other.html#gone"),
        ('<a href="../index.html">', "leads out of the site: ../index.html"),
        ('<a href="/index.html">', "leads out of the site: /index.html"),
        ('<script src="https://e.invalid/a.js"></script>', "is loaded from elsewhere: https:"),
        ('<script src="//e.invalid/a.js"></script>', "is loaded from elsewhere: //e"),
        ('<link rel="stylesheet" href="https://e.invalid/a.css">', "is loaded from elsewhere"),
        ('<link rel="preconnect" href="https://e.invalid">', "is loaded from elsewhere"),
        ('<iframe src="https://e.invalid"></iframe>', "is loaded from elsewhere"),
        ('<img src="http://e.invalid/a.png">', "is loaded from elsewhere"),
        ('<p style="background: url(https://e.invalid/a.png)">', "is loaded from elsewhere"),
        ("<style>@import 'https://e.invalid/a.css';</style>", "is loaded from elsewhere"),
        ('<object data="gone.svg"></object>', "does not exist: gone.svg"),
    ],
)
def test_a_bad_reference_is_named(tmp_path: Path, body: str, fault: str) -> None:
    site(tmp_path, body, other_html=HEAD)
    (found,) = check_site.files_faults(tmp_path)
    assert found.startswith(f"index.html: {fault}")


@pytest.mark.parametrize(
    "style",
    [
        "@font-face {src: url('https://e.invalid/a.woff2')}",
        '@import url("https://e.invalid/a.css");',
        "p {background: url(https://e.invalid/a.png)}",
    ],
)
def test_a_style_sheet_that_loads_from_elsewhere_is_named(tmp_path: Path, style: str) -> None:
    (found,) = check_site.files_faults(site(tmp_path, "", a_css=style))
    assert found.startswith("a.css: is loaded from elsewhere: https://e.invalid/a.")


# -- in a browser ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        '<div style="overflow-x: auto"><p style="width: 2000px">scrolls</p></div>',
        '<span class="math"><mjx-container><svg></svg></mjx-container></span>',
        f'<img src="{PICTURE}" style="width: 200px">',
        "<script>console.log('a word'); fetch('index.html')</script>",
    ],
)
def test_a_sound_page_is_no_fault(tmp_path: Path, browser: Browser, body: str) -> None:
    assert list(check_site.pages_faults(site(tmp_path, body), browser)) == []


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ("<script>missing()</script>", ["the browser says: ReferenceError: missing is not"]),
        ("<script>console.error('oh', 1)</script>", ["the browser says: oh 1"]),
        ("<script>Promise.reject(new Error('no'))</script>", ["the browser says: Error: no"]),
        ("<script>fetch('gone')</script>", ["the browser says: Failed to load resource"]),
        (
            "<script>new Image().src = 'https://' + 'e.invalid/a.png'</script>",
            ["the browser says: Failed to load", "asks for https://e.invalid/a.png"],
        ),
        ('<p class="a" style="width: 600px">wide', ['wider than 390 px: <p class="a"> wide']),
        (
            '<div style="overflow-x: auto"><p style="width: 2000px">scrolls</div>'
            '<p class="a" style="width: 600px">wide',
            ['wider than 390 px: <p class="a"> wide'],
        ),
        (
            '<div style="width: 2000px"><p>wide</div>',
            ["wider than 1280 px: <p", "wider than 390 px: <p"],
        ),
        (f'<img src="{PICTURE}" style="width: 100px">', ["too small at 390 px: "]),
        ('<span class="math">\\(x\\)</span>', ["not rendered: \\(x\\)"]),
        (
            '<p class="math"><mjx-container data-mjx-error="E"><svg></svg></mjx-container>x</p>',
            ["not rendered: x"],
        ),
    ],
)
def test_a_faulty_page_is_named(
    tmp_path: Path, browser: Browser, body: str, faults: list[str]
) -> None:
    found = list(check_site.pages_faults(site(tmp_path, body), browser))
    assert len(found) == len(faults)
    for text, fault in zip(found, faults, strict=True):
        assert text.startswith(f"index.html: {fault}")


def test_a_fault_is_told_of_its_own_page_only(tmp_path: Path, browser: Browser) -> None:
    again = "<script>setInterval(() => missing(), 1)</script>"
    pages = {"a_html": f"{HEAD}{again}", "b_html": HEAD}
    found = list(check_site.pages_faults(site(tmp_path, "", **pages), browser))
    assert [fault.partition(":")[0] for fault in found] == ["a.html"]


# -- the command ----------------------------------------------------------------------------------


def test_without_a_browser_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_site, "find", lambda: None)
    monkeypatch.delenv(REQUIRED, raising=False)
    assert check_site.main(site(tmp_path, "")) == 0
    assert f"none of {', '.join(NAMES)} is installed" in capsys.readouterr().out
    monkeypatch.setenv(REQUIRED, "1")
    assert check_site.main(tmp_path) == 1


def test_a_folder_without_pages_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_site, "find", lambda: None)
    monkeypatch.delenv(REQUIRED, raising=False)
    assert check_site.main(tmp_path) == 1
