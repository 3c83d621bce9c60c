"""Makes a page of drawings, tables and sentences: one HTML file that needs no other.

It knows HTML, and nothing of what it shows; `adamoffload.reports.page` says what that is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from importlib.resources import files
from typing import Any

from adamoffload.reports.summary import Table

__all__ = ["NARROW", "WIDE", "Drawing", "Section", "page"]

NARROW, WIDE = (6.8, 4.3), (13.0, 4.6)
"""Sizes of figures, in inches: two stand side by side on a wide screen, or one."""

_NUMBER = re.compile(r"–|not finite|-?[\d.,]+(e[-+]\d+)?( ?\S{1,4})?")
"""A cell that stands at the right: a number, perhaps with a unit, or the lack of one."""

_NAME_LETTERS = 18
"""Letters of a row's name that stand in a line, however narrow the screen is."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure to be drawn.

    Attributes
    ----------
    draw : callable
        Draws on the axes that it is given.
    caption : str
        What one sees in it.
    size : pair of float
        In inches.
    """

    draw: Callable[..., object]
    caption: str
    size: tuple[float, float] = NARROW


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with what belongs to it."""

    title: str
    drawings: tuple[Drawing, ...]
    tables: tuple[Table, ...]


def page(
    title: str, sentences: Sequence[str], sections: Sequence[Section], *, simulated: bool
) -> Iterator[str]:
    """Yield a page, piece by piece.

    Parameters
    ----------
    title : str
        The heading.
    sentences : sequence of str
        What the page says first.
    sections : sequence of Section
        What comes after it.
    simulated : bool
        Whether times are simulated: the page says so at its top.
    """
    style = (files("adamoffload.reports") / "page.css").read_text("utf-8")
    now = datetime.now().astimezone()
    yield (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # An icon in the page, or the browser would ask for one.
        f'<link rel="icon" href="data:,">\n'
        f"<title>{_text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{_text(title)}</h1>\n"
        f'<p><time datetime="{now.isoformat(timespec="seconds")}">{now:%Y-%m-%d %H:%M}</time>'
        f"{' · times are simulated' if simulated else ''}</p>\n"
        f'<nav aria-label="Sections"><ul>\n'
    )
    for number, section in enumerate(sections):
        yield f'<li><a href="#s{number}">{section.title}</a></li>\n'
    yield "</ul></nav>\n</header>\n<main>\n"
    yield '<section aria-labelledby="found">\n<h2 id="found">In short</h2>\n<ul class="found">\n'
    for sentence in sentences:
        yield f"<li>{_text(sentence)}</li>\n"
    yield "</ul>\n</section>\n"
    for number, section in enumerate(sections):
        yield from _section_html(number, section)
    yield "</main>\n</body>\n</html>\n"


def _section_html(number: int, section: Section) -> Iterator[str]:
    from adamoffload.plots.svg import drawn

    yield f'<section aria-labelledby="s{number}">\n<h2 id="s{number}">{section.title}</h2>\n'
    if section.drawings:
        yield '<div class="figures">\n'
        for i, drawing in enumerate(section.drawings):
            svg = drawn(_on(drawing.draw), drawing.size, f"s{number}f{i}", drawing.caption)
            # On a narrow screen a wide figure is scrolled, also by keyboard.
            wide, tab = (' class="wide"', ' tabindex="0"') if drawing.size == WIDE else ("", "")
            yield (
                f'<figure{wide}>\n<div class="scroll"{tab}>{svg}</div>\n'
                f"<figcaption>{_text(drawing.caption)}</figcaption>\n</figure>\n"
            )
        yield "</div>\n"
    yield '<div class="tables">\n'
    for table in section.tables:
        yield from _table_html(table)
    yield "</div>\n</section>\n"


def _on(draw: Callable[..., object]) -> Callable[[Any], object]:
    return lambda ax: draw(ax=ax)


def _table_html(table: Table) -> Iterator[str]:
    yield (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{_text(table.caption)}">\n'
        f"<table>\n<caption>{_text(table.caption)}"
    )
    yield f" <small>{_text(table.note)}</small></caption>\n" if table.note else "</caption>\n"
    columns = list(zip(table.columns, *table.rows, strict=True))
    kinds = [
        "" if all(map(_NUMBER.fullmatch, cells)) else ' class="words"' for _, *cells in columns
    ]
    width = min(_NAME_LETTERS, max(map(len, columns[0]))) + 2  # and the padding
    yield "<thead><tr>"
    for kind, (column, *_) in zip(kinds, columns, strict=True):
        yield f'<th scope="col"{kind}>{_text(column)}</th>'
    yield "</tr></thead>\n<tbody>\n"
    for name, *cells in table.rows:
        yield f'<tr><th scope="row" style="min-width:{width}ch">{_text(name)}</th>'
        for kind, cell in zip(kinds[1:], cells, strict=True):
            yield f"<td{kind}>{_text(cell)}</td>"
        yield "</tr>\n"
    yield "</tbody>\n</table>\n</div>\n"


def _text(text: str) -> str:
    r"""Return text for a page, also for an attribute: escaped, and all of it visible.

    Examples
    --------
    >>> print(_text('<b> & "\n'))
    &lt;b&gt; &amp; &quot;\n
    """
    return escape("".join(c if c.isprintable() else repr(c)[1:-1] for c in text))
