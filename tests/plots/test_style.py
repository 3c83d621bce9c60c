"""The style: colours told apart by everybody, and figures that do not depend on settings."""

from __future__ import annotations

from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

import adamoffload as ao
from adamoffload.plots.style import COLORS, LINES, MARKERS, ink, styled

# What meets in one figure.
LANES = ("device", "d2h", "host", "h2d", "read", "write", "wait")
KINDS = ("parameters", "gradients", "moments", "staging", "other")

# G. M. Machado, M. M. Oliveira, L. A. F. Fernandes, "A physiologically-based model for simulation
# of color vision deficiency", IEEE TVCG 15(6), 2009, table 1, severity 1.
MACHADO = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
               [0.004733, 0.691367, 0.303900]],
    "all": np.eye(3),
}  # fmt: skip


def linear(color: str) -> np.ndarray:
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE 1976 L*a*b* of linear sRGB, D65."""
    xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    ) @ np.clip(rgb, 0, 1)
    x, y, z = np.cbrt(np.maximum(xyz / [0.9505, 1.0, 1.089], 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(a: str, b: str) -> float:
    """Ratio of WCAG 2.2."""
    dark, light = sorted(0.05 + linear(c) @ [0.2126, 0.7152, 0.0722] for c in (a, b))
    return float(light / dark)


@pytest.mark.parametrize("vision", MACHADO)
@pytest.mark.parametrize("together", [LANES, KINDS], ids=["lanes", "kinds"])
def test_what_meets_in_a_figure_is_told_apart(vision: str, together: tuple[str, ...]) -> None:
    seen = {name: lab(np.array(MACHADO[vision]) @ linear(COLORS[name])) for name in together}
    for a, b in combinations(together, 2):
        assert np.linalg.norm(seen[a] - seen[b]) > 15, (a, b)  # 2.3 is just noticeable


def test_a_thing_has_the_color_of_who_moves_or_keeps_it() -> None:
    for thing, who in (("gradients", "d2h"), ("moments", "host"), ("parameters", "device")):
        assert COLORS[thing] == COLORS[who]
    assert COLORS["step_size"] == COLORS["h2d"]


def test_concepts_of_one_figure_have_a_color_each() -> None:
    for together in (LANES, KINDS, ("m", "sqrt_v"), ("step_size", "lr"), LINES):
        colors = [COLORS.get(name, name) for name in together]
        assert len(set(colors)) == len(colors)
    assert COLORS["limit"] not in {COLORS[name] for name in (*LANES, *KINDS)}
    assert len(MARKERS) == len(LINES)


@pytest.mark.parametrize("name", [*LANES, *KINDS])
def test_a_text_on_a_color_is_legible(name: str) -> None:
    assert contrast(COLORS[name], ink(COLORS[name])) >= 4.5  # WCAG 2.2, 1.4.3


def test_ink_is_the_better_of_black_and_white() -> None:
    for color in set(COLORS.values()):
        best = max(("black", "white"), key=lambda text: contrast(color, text))
        assert ink(color) == best


def test_a_figure_does_not_depend_on_the_users_settings() -> None:
    def look() -> tuple[object, ...]:
        ax = ao.plots.schedule(0.1, 3)
        title = ax.title if ax.get_title() else ax._left_title  # type: ignore[attr-defined]
        return title.get_fontsize(), ax.get_facecolor(), ax.lines[0].get_linewidth()

    plain = look()
    with mpl.rc_context({"axes.titlesize": 30, "axes.facecolor": "black", "lines.linewidth": 9}):
        assert look() == plain


def test_the_users_settings_and_other_axes_stay_as_they_are() -> None:
    before = dict(mpl.rcParams)
    figure, (mine, other) = plt.subplots(1, 2)
    mine.set_facecolor("black")
    other.set_facecolor("black")
    assert ao.plots.schedule(0.1, 3, ax=mine) is mine
    assert to_hex(mine.get_facecolor()) == "#ffffff"
    assert to_hex(other.get_facecolor()) == "#000000"
    assert other.get_title("left") == ""
    assert figure.axes == [mine, other]
    assert dict(mpl.rcParams) == before


def test_new_axes_are_of_a_pyplot_figure_so_that_a_notebook_shows_it() -> None:
    with styled(None) as ax:
        pass
    assert plt.figure(plt.get_fignums()[-1]) is ax.figure
