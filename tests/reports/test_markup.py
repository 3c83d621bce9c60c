"""A page of drawings, tables and sentences: escaped, whole, and in the order given."""

from __future__ import annotations

import re
from typing import Any

import pytest

from adamoffload.reports.markup import NARROW, WIDE, Drawing, Section, page
from adamoffload.reports.summary import Table

from html_page import Page

ODD = "<b> & \"quoted\" 'too'\n"
SHOWN = "<b> & \"quoted\" 'too'\\n"


def line(ax: Any) -> None:
    ax.plot([0, 1], [1, 0], "o")


SECTIONS = (
    Section(
        "Figures",
        (Drawing(line, ODD, WIDE), Drawing(line, "a line", NARROW)),
        (Table("Sizes", ("name", "bytes"), [(ODD, "1,000"), ("b", "\u2013")], "a note"),),
    ),
    Section("Words", (), (Table("Kinds", ("name", "kind"), [("a", "numpy")], ""),)),
)


@pytest.fixture(scope="module")
def text() -> str:
    return "".join(page(ODD, [ODD, "Nothing else."], SECTIONS, simulated=True))


def test_what_is_given_stands_there_escaped(text: str) -> None:
    read = Page(text)
    assert read.text_of("title", "h1") == [SHOWN, SHOWN]
    assert read.text_of("figcaption") == [SHOWN, "a line"]
    assert [found for found in read.text_of("li") if found != "\n"] == [SHOWN, "Nothing else."]
    assert read.text_of("th")[:4] == ["name", "bytes", SHOWN, "b"]
    assert not read.all("b")


def test_sections_are_linked_in_their_order(text: str) -> None:
    read = Page(text)
    assert [link["href"] for link in read.all("a")] == ["#s0", "#s1"]
    assert read.text_of("h2") == ["In short", "Figures", "Words"]
    assert [h2["id"] for h2 in read.all("h2")] == ["found", "s0", "s1"]


def test_each_figure_has_ids_of_its_own_and_says_what_it_shows(text: str) -> None:
    read = Page(text)
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert len(read.all("clippath")) == 2
    assert [svg["aria-label"] for svg in read.all("svg")] == [ODD, "a line"]


def test_a_wide_figure_can_be_scrolled_by_keyboard(text: str) -> None:
    figures = re.findall(r'<figure(.*?)>\n<div class="scroll"(.*?)>', text)
    assert figures == [(' class="wide"', ' tabindex="0"'), ("", "")]


def test_numbers_stand_at_the_right_and_words_at_the_left(text: str) -> None:
    columns = [th for th in Page(text).all("th") if th["scope"] == "col"]
    assert [th.get("class") for th in columns] == ["words", None, "words", "words"]


@pytest.mark.parametrize("simulated", [True, False])
def test_simulated_times_are_said_to_be(simulated: bool) -> None:
    text = "".join(page("a", [], (), simulated=simulated))
    assert ("times are simulated" in text) == simulated
