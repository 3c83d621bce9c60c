"""Figures as SVG: they can stand beside each other in one page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes

from adamoffload.plots.svg import drawn


def waves(ax: Axes) -> None:
    x = np.linspace(0, 1, 50)
    ax.plot(x, np.sin(9 * x), "o-", label='50 % of <w> id="m" & url(#m)')
    ax.fill_between(x, x, x**2)
    ax.legend()


def svg(draw: Callable[[Axes], object] = waves, salt: str = "a") -> str:
    return drawn(draw, (4, 3), salt, "a “wave” & <more>")


def ids(text: str) -> list[str]:
    return [element.attrib["id"] for element in parsed(text).iter() if "id" in element.attrib]


def parsed(text: str) -> ET.Element:
    """Read it as XML, for which its prefix of links has to be declared."""
    return ET.fromstring(text.replace("<svg", '<svg xmlns:xlink="xlink"', 1))


def references(text: str) -> list[str]:
    values = (value for element in parsed(text).iter() for value in element.attrib.values())
    return [name for value in values for name in re.findall(r"(?:^|url\()#([^)]+)", value)]


def test_ids_of_two_figures_differ_and_references_stay_within_one() -> None:
    one, other = svg(salt="a"), svg(salt="b")
    for text in (one, other):
        assert len(set(ids(text))) == len(ids(text))
        assert references(text)
        assert set(references(text)) <= set(ids(text))
    assert not set(ids(one)) & set(ids(other))


def test_equal_figures_give_equal_text() -> None:
    assert svg() == svg()


def test_a_figure_says_what_it_shows() -> None:
    root = parsed(svg())
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == "a “wave” & <more>"


def test_text_stays_text() -> None:
    texts = ["".join(element.itertext()) for element in parsed(svg()).iter("text")]
    assert '50 % of <w> id="m" & url(#m)' in texts


def test_nothing_comes_from_elsewhere() -> None:
    assert "://" not in svg()


@pytest.mark.parametrize(("points", "pixels"), [(100, False), (100_000, True)])
def test_many_data_become_pixels(points: int, pixels: bool) -> None:
    x = np.random.default_rng(0).standard_normal(points)
    text = svg(lambda ax: ax.scatter(x, x[::-1]))
    assert ("data:image/png;base64," in text) == pixels
    assert len(text) < 600_000
    assert "<text" in text
