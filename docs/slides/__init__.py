"""Makes the slides of the labs, in every build: one HTML file for each, which needs no other.

``labN.py`` holds what a deck says: its question, its slides, what to discuss. A slide's figure is a
function that runs something and draws it; numbers in the text are computed beside it. The cover and
the tasks come from the lab itself. A deck that would be wrong to show stops the build.
"""

from __future__ import annotations

import base64
import html
import importlib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from adamoffload.labs.grading import NUMBERS, lab
from adamoffload.plots.style import STYLE
from adamoffload.plots.svg import inline_svg

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["Deck", "Slide", "deck", "page", "write"]

HERE = Path(__file__).parent
STATEMENTS = HERE.parents[1] / "adamoffload" / "labs"
LENGTHS = range(8, 15)
MOST_BYTES = 1_500_000
_OUTSIDE = re.compile(r"""(?:\b(?:src|href)\s*=\s*["']|url\()(?!#|data:)|@import|https?:""")


@dataclass(frozen=True, slots=True)
class Slide:
    """One idea.

    Attributes
    ----------
    title : str
        Its heading, HTML; no other slide of the deck has it.
    text : str
        What stands under the figure, HTML.
    figure : callable, optional
        Draws, and returns a figure or its axes.
    alt : str
        What the figure shows, for who cannot see it.
    equation : sequence of str
        Lines in matplotlib's mathtext, aligned at ``&``; a line read aloud stands in ``alt``.
    choices : sequence of str
        The answers to choose from: the slide asks for a prediction, and the next one answers.
    notes : str
        For the teacher, HTML.
    kind : str
        A class for the style sheet.
    """

    title: str
    text: str = ""
    figure: Callable[[], Any] | None = None
    alt: str = ""
    equation: Sequence[str] = ()
    choices: Sequence[str] = ()
    notes: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Deck:
    """The slides of one lab.

    Attributes
    ----------
    number : int
        The lab's.
    slides : tuple of Slide
        All of them, with cover, tasks and discussion.
    """

    number: int
    slides: tuple[Slide, ...]

    @property
    def title(self) -> str:
        return lab(self.number).title


def deck(number: int) -> Deck:
    """Return the deck of a lab: what its file says, between a cover, the tasks and questions."""
    source = importlib.import_module(f"slides.lab{number}")
    return Deck(
        number,
        (
            _cover(number, source.QUESTION),
            *source.slides(),
            _tasks(number),
            _discussion(source.DISCUSS),
        ),
    )


def _cover(number: int, question: str) -> Slide:
    statement = (STATEMENTS / f"lab{number}" / "statement.rst").read_text("utf-8")
    time = re.search(r"^:Time: (.*)$", statement, re.MULTILINE)
    if time is None:
        raise ValueError(f"the statement of lab {number} has no line that begins with :Time:")
    text = f'<p class="question">{question}</p><p class="time">Lab {number} · {time[1]}</p>'
    notes = "Keys: arrows or space to move, N for these notes, F for the whole screen."
    return Slide(html.escape(lab(number).title), text, kind="cover", notes=notes)


def _tasks(number: int) -> Slide:
    tasks = lab(number).tasks
    rows = "".join(
        f"<li><span>{html.escape(task.name)}</span>"
        f"<b>{task.points}<small> point{'s' * (task.points > 1)}</small></b></li>"
        for task in tasks
    )
    total = sum(task.points for task in tasks)
    text = (
        f"<ol>{rows}</ol>"
        f"<p><code>adamoffload lab start {number} .</code> gives you the statement and a file with "
        f"gaps.<br><code>adamoffload lab check {number} lab{number}.py</code> says what is right, "
        f"and why not: {total} points in all.</p>"
    )
    return Slide("Your turn", text, kind="tasks")


def _discussion(questions: Sequence[str]) -> Slide:
    return Slide("To discuss", "".join(f"<p>{q}</p>" for q in questions), kind="discuss")


def page(shown: Deck) -> str:
    """Return a deck as an HTML page.

    Raises
    ------
    ValueError
        If a figure is missing or empty, a figure or an equation has no alternative text, two slides
        have one title, a question is the last slide before the tasks, the deck is too short, too
        long or too large, or it refers to anything outside itself.
    """
    _check(shown)
    label = f"Lab {shown.number}: {html.escape(shown.title)}"
    last = len(shown.slides)
    sections = "\n".join(
        _section(slide, f"Lab {shown.number}, slide {i} ({slide.title!r})", i, last, label)
        for i, slide in enumerate(shown.slides, start=1)
    )
    text = (
        (HERE / "page.html")
        .read_text("utf-8")
        .replace("{{title}}", label)
        .replace("{{style}}", (HERE / "page.css").read_text("utf-8"))
        .replace("{{script}}", (HERE / "page.js").read_text("utf-8"))
        .replace("{{slides}}", sections)
    )
    if outside := _OUTSIDE.search(text):
        around = text[max(0, outside.start() - 40) : outside.end() + 40]
        raise ValueError(f"{label} refers to something outside itself: ...{around}...")
    if len(text.encode()) > MOST_BYTES:
        raise ValueError(f"{label} has {len(text.encode())} bytes, more than {MOST_BYTES}")
    return text


def _check(shown: Deck) -> None:
    where, titles = f"Lab {shown.number}", [slide.title for slide in shown.slides]
    if len(titles) not in LENGTHS:
        raise ValueError(f"{where} has {len(titles)} slides, not {LENGTHS[0]} to {LENGTHS[-1]}")
    for slide in shown.slides:
        if not slide.title or titles.count(slide.title) > 1:
            raise ValueError(f"{where}: each slide needs a title of its own, got {slide.title!r}")
        if (slide.figure or slide.equation) and not slide.alt:
            raise ValueError(f"{where}: slide {slide.title!r} needs an alternative text")
    asked = [bool(slide.choices) for slide in shown.slides]
    if not any(asked) or any(asked[-3:]):
        raise ValueError(f"{where} needs a question with choices, and its answer after it")


def _section(slide: Slide, where: str, number: int, last: int, label: str) -> str:
    kind = slide.kind or ("predict" if slide.choices else "")
    parts = [f"<h2>{slide.title}</h2>" if number > 1 else f"<h1>{slide.title}</h1>"]
    if slide.choices:
        cards = "".join(
            f"<li><b>{letter}</b><span>{choice}</span></li>"
            for letter, choice in zip("ABCD", slide.choices, strict=False)
        )
        parts.append(f'{slide.text}<ul class="choices">{cards}</ul>')
    if slide.equation:
        parts.append(f'<figure class="equation">{equation(slide.equation, slide.alt)}</figure>')
    if slide.figure:
        svg = _drawn(slide.figure, f"s{number}f", slide.alt, where)
        parts.append(f'<figure class="figure">{svg}</figure>')
    if slide.text and not slide.choices:
        parts.append(f'<div class="text">{slide.text}</div>')
    if slide.notes:
        parts.append(f'<aside class="notes" hidden>{slide.notes}</aside>')
    foot = f"<footer><span>{label}</span><span>{number} / {last}</span></footer>"
    return f'<section class="slide {kind}" id="s{number}">{"".join(parts)}{foot}</section>'


def _drawn(draw: Callable[[], Any], prefix: str, alt: str, where: str) -> str:
    """Return what a figure's function drew, or raise: a slide without its picture is no slide."""
    import matplotlib.pyplot as plt

    with mpl.rc_context(STYLE):
        result = draw()
        figure = getattr(result, "figure", result)
        if not isinstance(figure, Figure):
            raise ValueError(f"{where}: {draw.__name__} returned no figure, but {result!r}")
        if not any(ax.has_data() or ax.texts or ax.patches for ax in figure.axes):
            raise ValueError(f"{where}: {draw.__name__} has drawn nothing")
        svg = inline_svg(figure, prefix, html.unescape(alt))
        plt.close(figure)
    return svg


def equation(lines: Sequence[str], alt: str) -> str:
    """Return aligned lines of mathematics as an image of outlines: no reader has the font."""
    style = {"mathtext.fontset": "cm", "svg.fonttype": "path", "svg.hashsalt": "adamoffload"}
    file = io.BytesIO()
    with mpl.rc_context({**STYLE, **style}):
        figure = Figure(figsize=(12, 0.62 * len(lines)))
        for i, line in enumerate(lines):
            y = 1 - (i + 0.5) / len(lines)
            left, aligned, right = line.partition("&")
            kind = {"va": "center_baseline", "fontsize": 26}
            if aligned:
                figure.text(0.34, y, f"${left}$", ha="right", **kind)
                figure.text(0.352, y, f"${right}$", ha="left", **kind)
            else:
                figure.text(0.5, y, f"${left}$", ha="center", **kind)
        tight = {"bbox_inches": "tight", "pad_inches": 0.05, "transparent": True}
        figure.savefig(file, format="svg", metadata={"Date": None}, **tight)
    text = file.getvalue()
    width = (
        float(re.search(rb'width="([\d.]+)pt"', text)[1]) / 26 * max(3.3, 5.8 - 0.6 * len(lines))
    )  # hundredths
    source = "data:image/svg+xml;base64," + base64.b64encode(text).decode()
    return f'<img src="{source}" alt="{html.escape(alt)}" style="--w: {width:.2f}">'


def write(folder: Path) -> None:
    """Write all decks into a folder: ``lab1.html`` and so on."""
    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    for number in NUMBERS:
        (folder / f"lab{number}.html").write_text(page(deck(number)), "utf-8")


def _write(app: Sphinx) -> None:
    if app.builder.format == "html":
        write(Path(app.outdir) / "slides")


def setup(app: Sphinx) -> dict[str, bool]:
    """Write them when a build begins."""
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True}
