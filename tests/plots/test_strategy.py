"""What the figure of a strategy shows: the declaration, and nothing that overlaps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrow, FancyBboxPatch, Rectangle

import adamoffload as ao
from adamoffload.plots.style import COLORS


def of(kind: Any, ax: Any) -> dict[str, Any]:
    found = [patch for patch in ax.patches if isinstance(patch, kind)]
    assert len({patch.get_label() for patch in found}) == len(found)
    return {patch.get_label(): patch for patch in found}


def texts(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


@pytest.mark.parametrize("name", ao.strategies)
def test_tiles_and_arrows_are_the_declaration(name: str) -> None:
    declared, rule = ao.strategies[name], ao.rules.Adam()
    ax = ao.plots.strategy(name)
    weights = declared.usual_weights
    homes = declared.homes(rule, weights)
    assert set(of(Rectangle, ax)) == {
        f"{name}, {place}: {thing}" for place, things in homes.items() for thing in things
    }
    copies = [stage for stage, _ in declared.stages(rule, weights) if stage.nbytes]
    arrows = of(FancyArrow, ax)
    assert [*arrows] == [
        f"{name}, {s.lane}: {', '.join(s.things)}" for s in sorted(copies, key=across_the_link)
    ]
    for stage in copies:
        arrow = arrows[f"{name}, {stage.lane}: {', '.join(stage.things)}"]
        assert to_hex(arrow.get_facecolor()).upper() == COLORS[stage.lane]
        begin, end = tail_and_tip(arrow)
        assert (begin > end) == (stage.lane in ("h2d", "read"))  # y goes down
    each = {f"{stage.nbytes} B, float32" for stage in copies}
    assert each <= set(texts(ax))


def across_the_link(stage: Any) -> bool:
    return "disk" in (stage.source, stage.target)


def tail_and_tip(arrow: FancyArrow) -> tuple[float, float]:
    """Return where an arrow begins and where its point is: the corner that is alone."""
    y = np.asarray(arrow.get_xy())[:-1, 1]
    tip = next(v for v in y if np.count_nonzero(np.isclose(y, v)) == 1)
    tail = y.min() if np.isclose(tip, y.max()) else y.max()
    return float(tail), float(tip)


def test_widths_are_those_of_the_bytes_in_every_panel() -> None:
    ax = ao.plots.strategy(["resident", "state-shuttle-master"])
    widths = {tile.get_width() for tile in of(Rectangle, ax).values()}
    assert len(widths) == 1  # 4 bytes each
    thick, *others = (shaft(arrow) for arrow in of(FancyArrow, ax).values())
    assert others == pytest.approx([thick])
    slim = shaft(next(iter(of(FancyArrow, ao.plots.strategy("adam-offload")).values())))
    assert thick == pytest.approx(3 * slim)  # 12 bytes, and 4


def shaft(arrow: FancyArrow) -> float:
    """Return how thick an arrow is where it begins."""
    corners = np.asarray(arrow.get_xy())
    tail, _ = tail_and_tip(arrow)
    return float(np.ptp(corners[np.isclose(corners[:, 1], tail), 0]))


def test_numbers_are_those_of_the_text() -> None:
    for name, declared in ao.strategies.items():
        numbers = [int(t) for t in texts(ao.plots.strategy(name)) if t.isdigit()]
        assert sorted(numbers) == list(
            range(1, len(declared.stages(ao.rules.Adam(), declared.usual_weights)) + 1)
        )


@pytest.mark.parametrize(
    ("name", "where", "words"),
    [
        ("resident", "device", "Adam: m, v; add update"),
        ("adam-offload", "host", "Adam: m, v, update"),
        ("zero-offload", "host", "Adam: m, v, master"),
        ("state-shuttle-master", "device", "Adam: m, v, master; take weights"),
    ],
)
def test_black_is_where_the_rule_runs(name: str, where: str, words: str) -> None:
    ax = ao.plots.strategy(name)
    boxes = of(FancyBboxPatch, ax)
    black = [label for label, box in boxes.items() if to_hex(box.get_facecolor()) == "#000000"]
    assert len(black) == 1
    assert black[0].startswith(f"{name}, {where}: ")
    assert words in texts(ax)


def test_places_that_are_not_used_are_not_drawn() -> None:
    ax = ao.plots.strategy(["resident", "disk"])
    places = {label.split(", ")[1] for label in of(FancyBboxPatch, ax) if ":" not in label}
    of_resident = [x for x in of(FancyBboxPatch, ax) if x.startswith("resident") and ":" not in x]
    assert places == {"device", "host", "disk"}
    assert of_resident == ["resident, device"]


def test_the_same_place_is_at_the_same_height_in_all_panels() -> None:
    boxes = of(FancyBboxPatch, ao.plots.strategy(["adam-offload", "disk", "zero-offload"]))
    for place in ("device", "host"):
        spans = {
            (box.get_y(), box.get_height())
            for label, box in boxes.items()
            if label.endswith(f", {place}")
        }
        assert len(spans) == 1


@dataclass(frozen=True)
class Many(ao.Rule):
    """A rule that keeps more than any other, under long names."""

    slots = ("first_moment", "v", "the_largest_second_moment", "$x$", "e")

    def scalars(self, lr: Any, t: int) -> dict[str, Any]:
        return {}

    def update(self, g: Any, *slots: Any) -> Any:
        return g, *slots


HALF = replace(ao.strategies["megatron-hybrid"], fraction=0.5, minimum_size=4096)


@pytest.mark.parametrize("rule", [ao.rules.Adam(), Many()])
@pytest.mark.parametrize(
    "several", [*([name] for name in ao.strategies), ["resident", "zero-offload", "disk"], [HALF]]
)
@pytest.mark.parametrize("small", [False, True])
def test_texts_are_inside_of_the_figure_and_never_overlap(
    several: Any, rule: Any, small: bool
) -> None:
    figure: Any
    if small:
        figure, ax = plt.subplots(figsize=(4, 3), layout="constrained")
        ao.plots.strategy(several, rule, ax=ax)
    else:
        ax = ao.plots.strategy(several, rule)
        figure = ax.figure
    figure.canvas.draw()
    extents = [text.get_window_extent() for text in ax.texts]
    shown = [t.get_text() for t in ax.texts]
    for (a, one), (b, other) in combinations(zip(extents, shown, strict=True), 2):
        assert not a.padded(-0.5).overlaps(b.padded(-0.5)), (one, other)
    page = figure.bbox.padded(1)
    for extent, text in zip(extents, shown, strict=True):
        assert page.x0 <= extent.x0 <= extent.x1 <= page.x1, text
        assert page.y0 <= extent.y0 <= extent.y1 <= page.y1, text


def test_labels_may_be_given_and_conditions_are_said() -> None:
    ax = ao.plots.strategy({"half": HALF, "all": "megatron-hybrid"})
    assert {"half", "all", "for 50% of the model, from the input side"} <= set(texts(ax))
    alone = ao.plots.strategy(HALF)
    title = alone.get_title("left").replace("\n", " ")
    assert title == "megatron-hybrid: 4 bytes down, 4 up"
    assert "for 50% of the model" in " ".join(texts(alone))


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match=r"strategy must be one of .*'adam-ofload' \(near"):
        ao.plots.strategy("adam-ofload")
    with pytest.raises(TypeError, match="expected strategies or their names, got 3"):
        ao.plots.strategy(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there is nothing to draw"):
        ao.plots.strategy([])
    with pytest.raises(ValueError, match="two strategies have the same name"):
        ao.plots.strategy([HALF, "megatron-hybrid"])
    with pytest.raises(TypeError, match="rule must be a Rule"):
        ao.plots.strategy("resident", ao.rules.Adam)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weights must be one of float32"):
        ao.plots.strategy("resident", weights="float64")  # type: ignore[arg-type]
