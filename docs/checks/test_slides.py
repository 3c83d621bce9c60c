"""The labs' slides: a deck for each, which stands alone, is complete, and fits its frame."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from adamoffload.labs.grading import NUMBERS, lab

from browser import visit
from slides import Deck, Slide, deck, page

DOCS = Path(__file__).parents[2] / "docs"
# Every key, and what overflows its slide, once the page is up.
_WATCH = """<script>
for (const slide of document.querySelectorAll(".slide")) {
  document.documentElement.classList.remove("js");
  const foot = slide.querySelector("footer").getBoundingClientRect();
  const room = slide.getBoundingClientRect();
  for (const part of slide.querySelectorAll("h1, h2, p, li, table, figure")) {
    const at = part.getBoundingClientRect();
    if (at.bottom > foot.top + 2 || at.right > room.right || at.height === 0)
      console.warn(`${slide.id}: ${part.tagName} leaves its slide`);
  }
  document.documentElement.classList.add("js");
}
const typed = (key) => new KeyboardEvent("keydown", { key, bubbles: true });
const press = (key) => document.body.dispatchEvent(typed(key));
const shown = () => document.querySelector(".shown").id;
const seen = [];
for (const key of ["ArrowRight", " ", "PageDown", "ArrowLeft", "End", "Home", "ArrowLeft"]) {
  press(key);
  seen.push(shown());
}
document.getElementById("on").click();
seen.push(shown());
press("n");
seen.push(String([...document.querySelectorAll(".notes")].every((note) => !note.hidden)));
document.title = seen.join(" ");
</script>"""


class Outline(HTMLParser):
    """What a deck's page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.slides: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.reading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if name := given.get("id"):
            self.ids.append(name)
        if tag == "section":
            self.slides.append({"kind": given["class"], "titles": [], "pictures": [], "text": ""})
        elif self.slides and tag in ("h1", "h2"):
            self.reading = True
            self.slides[-1]["titles"].append("")
        elif self.slides and tag in ("svg", "img"):
            self.slides[-1]["pictures"].append(given.get("alt") or given.get("aria-label"))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("h1", "h2"):
            self.reading = False

    def handle_data(self, data: str) -> None:
        if self.slides:
            self.slides[-1]["text"] += data
            if self.reading:
                self.slides[-1]["titles"][-1] += data


@cache
def written(number: int) -> str:
    return page(deck(number))


def outline(number: int) -> Outline:
    found = Outline()
    found.feed(written(number))
    return found


def small(*slides: Slide) -> Deck:
    """Return a deck that is long enough, around the given slides."""
    asked = Slide("Which?", "<p>Choose.</p>", choices=("this", "that"))
    rest = [Slide(f"Slide {i}", "<p>Text.</p>") for i in range(6)]
    return Deck(1, (Slide("Cover"), asked, *rest, *slides))


def two_dots() -> Any:
    _, ax = plt.subplots()
    ax.plot([1, 2])
    return ax


@pytest.mark.parametrize("number", NUMBERS)
def test_each_slide_has_one_title_that_no_other_has(number: int) -> None:
    titles = [slide["titles"] for slide in outline(number).slides]
    assert all(len(found) == 1 and found[0].strip() for found in titles)
    assert 8 <= len(titles) <= 14
    assert len({found[0] for found in titles}) == len(titles)


@pytest.mark.parametrize("number", NUMBERS)
def test_each_picture_says_what_it_shows(number: int) -> None:
    pictures = [alt for slide in outline(number).slides for alt in slide["pictures"]]
    assert len(pictures) >= 4
    assert all(alt and len(alt) > 15 for alt in pictures)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_question_is_answered_on_the_next_slide(number: int) -> None:
    kinds = [slide["kind"].split() for slide in outline(number).slides]
    asked = [i for i, kind in enumerate(kinds) if "predict" in kind]
    assert asked
    assert all("answer" in kinds[i + 1] for i in asked)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_tasks_are_those_that_are_graded(number: int) -> None:
    text = outline(number).slides[-2]["text"]
    assert all(task.name in text for task in lab(number).tasks)
    assert f"{sum(task.points for task in lab(number).tasks)} points in all" in text


@pytest.mark.parametrize("number", NUMBERS)
def test_a_deck_is_small_and_asks_for_nothing(number: int) -> None:
    text = written(number)
    assert len(text.encode()) < 1_500_000
    references = re.findall(r"""(?:src|href)=["']([^"']*)|url\(([^)]*)\)""", text)
    assert all(
        one.strip("\"'").startswith(("#", "data:")) for two in references for one in two if one
    )
    assert not re.search(r"https?:|@import", text)
    assert len(set(outline(number).ids)) == len(outline(number).ids)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_guide_leads_to_the_deck(number: int) -> None:
    assert f"<../slides/lab{number}.html>" in (DOCS / f"labs/guide{number}.rst").read_text("utf-8")


def test_a_browser_shows_all_slides_whole_and_moves_as_told(tmp_path: Path) -> None:
    main = re.compile(r"(?<=<main>).*(?=</main>)", re.DOTALL)
    slides = [found[0] for n in NUMBERS if (found := main.search(written(n)))]
    for n, text in zip(NUMBERS, slides, strict=True):  # one page: starting a browser takes seconds
        slides[n - 1] = re.sub(r'(id="|url\(#|href="#)s(?=\d)', rf"\1lab{n}-", text)
    together = written(1).replace("</body>", f"{_WATCH}</body>")
    file = tmp_path / "deck.html"
    file.write_text(main.sub(lambda _: "".join(slides), together), "utf-8")
    seen = visit(file)
    assert seen.console == []
    assert [url for url in seen.requests if not url.startswith("data:")] == []
    last = f"lab8-{len(outline(8).slides)}"
    title = re.search(r"<title>(.*?)</title>", seen.answer)
    assert title
    moved = f"lab1-2 lab1-3 lab1-4 lab1-3 {last} lab1-1 lab1-1 lab1-2 true"
    assert title[1] == moved


def test_the_browser_would_notice_what_does_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "deck.html"
    text = page(small(Slide("Much", "<p>word</p>" * 40)))
    file.write_text(text.replace("</body>", f"{_WATCH}</body>"), "utf-8")
    assert any("leaves its slide" in line for line in visit(file).console)


def nothing() -> None:
    return None


def empty() -> Figure:
    return Figure()


def broken() -> Figure:
    raise FileNotFoundError("no such run")


@pytest.mark.parametrize(
    ("draw", "kind", "words"),
    [
        (nothing, ValueError, "nothing returned no figure, but None"),
        (empty, ValueError, "empty has drawn nothing"),
        (broken, FileNotFoundError, "no such run"),
    ],
)
def test_a_missing_figure_stops_the_build(
    draw: Callable[[], Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        page(small(Slide("Picture", figure=draw, alt="what it shows")))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (small(Slide("Slide 1", "<p>Again.</p>")), "a title of its own, got 'Slide 1'"),
        (small(Slide("", "<p>None.</p>")), "a title of its own, got ''"),
        (small(Slide("Picture", figure=two_dots)), "'Picture' needs an alternative text"),
        (small(Slide("Sum", equation=("1 + 1 = 2",))), "'Sum' needs an alternative text"),
        (small(Slide("Far", '<img alt="x" src="figure.png">')), "refers to something outside"),
        (small(Slide("Far", "see http://example.org")), "refers to something outside"),
        (small(Slide("Large", "x" * 1_500_000)), "more than 1500000"),
        (Deck(1, (Slide("Alone"),)), "has 1 slides, not 8 to 14"),
        (Deck(1, tuple(Slide(f"{i}") for i in range(9))), "needs a question"),
    ],
)
def test_a_deck_that_would_be_wrong_to_show_stops_the_build(wrong: Deck, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        page(wrong)


def test_a_deck_is_the_same_bytes_every_time() -> None:
    shown = small(Slide("Picture", figure=two_dots, alt="two dots", equation=("x^2",)))
    assert page(shown) == page(replace(shown))
