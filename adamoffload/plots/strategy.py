"""The figure of a strategy: what lives where, what moves, in which order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from matplotlib.patches import Circle, FancyArrow, FancyBboxPatch, Rectangle

from adamoffload.arguments import describe, instance
from adamoffload.plan.formats import Format
from adamoffload.plan.hops import Place, Stage
from adamoffload.plan.strategy import Strategy, find_strategy
from adamoffload.plan.words import said_to_move
from adamoffload.plots.frame import frame, points, shown_name, text_points
from adamoffload.plots.style import COLORS, STYLE, ink, lay_out, styled
from adamoffload.rules.adam import Adam
from adamoffload.rules.rule import Rule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["strategy"]

Declaration = str | Strategy
Several = Iterable[Declaration] | Mapping[str, Declaration]

# Points of a figure that is drawn at its natural size; in a smaller one all shrinks alike.
_WIDTH, _BETWEEN = 320.0, 34.0  # of a panel, and to the next one
_GAP = 96.0  # between two boxes, for arrows
_PAD = 12.0
_TILE, _WORK = 40.0, 28.0  # heights of what is in a box
_MARGIN = 3.0
_SIZE = float(STYLE["font.size"])
_THICK = 1.7
"""Width of an arrow for each byte that crosses."""

_PLACES: tuple[Place, ...] = ("device", "host", "disk")
_KIND = {"weights": "parameters", "gradient": "gradients", "sum": "gradients", "master": "master"}
_CARRIED = {"update": "update", "weights": "new weights"}


def strategy(
    strategy: Declaration | Several,
    rule: Rule | None = None,
    *,
    weights: Format | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw strategies, side by side: what lives where, and what a step moves, in order.

    A box is a place, a tile in it a thing that lives there, as wide as its bytes. An arrow is a
    copy, in the colour of its lane, as thick as its bytes. Numbers give the order within a step;
    `Strategy.text` has the same numbers. Black is where the rule runs.

    Parameters
    ----------
    strategy : str or Strategy, or several
        Names in `adamoffload.strategies`, or strategies of one's own; a mapping gives each a label.
    rule : Rule, optional
        Whose slots are kept; `adamoffload.rules.Adam`, if left out.
    weights : str, optional
        Dtype of the parameters; float32 where a strategy can have them, if left out.
    ax : Axes, optional
        What to draw on; new axes, if left out.

    Returns
    -------
    Axes
        In points of a figure of natural size. The numbers are those of `Strategy.homes` and
        `Strategy.stages`.

    Raises
    ------
    TypeError, ValueError
        If one is no strategy, or there is none, or it cannot have such weights.

    Examples
    --------
    >>> import adamoffload as ao
    >>> ax = ao.plots.strategy(["resident", "adam-offload", "zero-offload"])
    >>> sorted(p.get_label() for p in ax.patches if p.get_label().startswith("adam-offload, host"))
    ['adam-offload, host', 'adam-offload, host: m', 'adam-offload, host: update', \
'adam-offload, host: v']
    """
    if rule is None:
        rule = Adam()
    instance("strategy", "rule", rule, Rule)
    named = _named(strategy)
    panels = [
        _Panel(label, each, rule, weights or each.usual_weights) for label, each in named.items()
    ]
    boxes, height = _boxes(panels)
    width = len(panels) * (_WIDTH + _BETWEEN) - _BETWEEN
    with styled(ax, (width / 72 + 0.3, height / 72 + 0.9)) as ax:
        ax.set_axis_off()
        frame(ax, _title(panels), notes=_notes(panels))
        lay_out(ax)
        wide, high = points(ax)
        scale = min(wide / (width + 2 * _MARGIN), high / (height + 2 * _MARGIN))
        ax.set_xlim(-_MARGIN, wide / scale - _MARGIN)
        ax.set_ylim(high / scale - _MARGIN, -_MARGIN)  # down
        widest = max(sum(things.values()) for panel in panels for things in panel.homes.values())
        for i, panel in enumerate(panels):
            drawer = _Drawer(ax, panel, i * (_WIDTH + _BETWEEN), boxes, scale, widest)
            drawer.draw(named=len(panels) > 1)
    return ax


def _named(given: Any) -> dict[str, Strategy]:
    """Return strategies by their labels."""
    if isinstance(given, str | Strategy):
        given = [given]
    if isinstance(given, Mapping):
        found = {str(label): find_strategy("strategy", each) for label, each in given.items()}
    elif isinstance(given, Iterable):
        several = [find_strategy("strategy", each) for each in given]
        found = {each.label: each for each in several}
        if len(found) < len(several):
            raise ValueError(
                "strategy: two strategies have the same name; pass a mapping from label to strategy"
            )
    else:
        raise TypeError(
            f"strategy: expected strategies or their names, got {describe(given)}; there are "
            f"those of adamoffload.strategies"
        )
    if not found:
        raise ValueError("strategy: there is nothing to draw; pass at least one strategy")
    return found


def _title(panels: list[_Panel]) -> str:
    alone = f"{panels[0].label}: {panels[0].moves}"
    return alone if len(panels) == 1 else "What lives where, and what a step moves"


def _notes(panels: list[_Panel]) -> list[str]:
    conditions = panels[0].conditions if len(panels) == 1 else []
    return [
        *conditions,
        f"per parameter, {panels[0].weights}, with {panels[0].rule}",
        "numbers give the order in a step",
    ]


def _boxes(panels: list[_Panel]) -> tuple[dict[Place, tuple[float, float]], float]:
    """Return top and height of the box of each place, the same in all panels, and of them all."""
    y = 0.0
    if len(panels) > 1:  # what stands above them
        y = 47.0 + 15 * max(len(panel.conditions) for panel in panels)
    boxes = {}
    for place in _PLACES:
        if any(place in panel.used for panel in panels):
            tiles = any(panel.homes[place] for panel in panels)
            work = any(panel.work(place) for panel in panels)
            height = 30 + tiles * (_TILE + _PAD) + work * (_WORK + _PAD)
            boxes[place] = y, height
            y += height + _GAP
    return boxes, y - _GAP


class _Panel:
    """What is drawn of one strategy."""

    def __init__(self, label: str, declared: Strategy, rule: Rule, weights: Format) -> None:
        self.label = label
        self.rule, self.weights = type(rule).__name__, weights
        self.homes = declared.homes(rule, weights)
        self.stages = [stage for stage, _ in declared.stages(rule, weights)]
        self.moves = said_to_move(declared.bytes_per_parameter(rule, weights))
        self.conditions = declared.conditions
        self.kept = [thing for thing, *_ in declared.kept(rule, weights)]
        passed = {place for stage in self.stages for place in (stage.source, stage.target)}
        self.used = {place for place in _PLACES if self.homes[place]} | passed

    def work(self, place: Place) -> list[tuple[int, Stage]]:
        """Return what is done in a place, by number."""
        numbered = enumerate(self.stages, start=1)
        return [(i, stage) for i, stage in numbered if not stage.nbytes and stage.source == place]

    def copies(self, above: Place, below: Place) -> list[tuple[int, Stage]]:
        """Return what crosses between two places, by number."""
        numbered = enumerate(self.stages, start=1)
        both = {above, below}
        return [(i, s) for i, s in numbered if s.nbytes and {s.source, s.target} == both]


class _Drawer:
    """Draws one panel: coordinates are points at natural size, from the top left."""

    def __init__(
        self,
        ax: Axes,
        panel: _Panel,
        x: float,
        boxes: Mapping[Place, tuple[float, float]],
        scale: float,
        widest: int,
    ) -> None:
        self.ax, self.panel, self.x, self.scale = ax, panel, x, scale
        self.per_byte = (_WIDTH - 2 * _PAD) / max(widest, 16)
        self.boxes = boxes

    def draw(self, named: bool) -> None:
        panel = self.panel
        if named:
            label = shown_name(panel.label, 40)
            self.text(self.x, 9, label, 1.3 * _SIZE, _WIDTH, weight="bold")
            self.text(self.x, 30, panel.moves, _SIZE, _WIDTH, color="#444444")
            for i, condition in enumerate(panel.conditions):
                y = 46 + 15 * i
                self.text(self.x, y, condition, 0.9 * _SIZE, _WIDTH, color="#444444")
        used = [place for place in self.boxes if place in panel.used]
        for place in used:
            self.place(place)
        for above, under in pairwise(used):
            copies = panel.copies(above, under)
            for i, (number, stage) in enumerate(copies):
                width = _WIDTH / len(copies)
                self.arrow(number, stage, self.x + i * width, width, above, under)

    def place(self, place: Place) -> None:
        """Draw a box, what lives in it, and what is done there."""
        panel, (top, height) = self.panel, self.boxes[place]
        things = panel.homes[place]
        self.box(self.x, top, _WIDTH, height, f"{panel.label}, {place}", "#F6F6F6", "#333333", 1.4)
        self.text(self.x + _PAD, top + 16, place, 1.1 * _SIZE, 100, weight="bold")
        total = f"{sum(things.values())} B" if things else "nothing rests here"
        self.text(self.x + _WIDTH - _PAD, top + 16, total, _SIZE, 180, ha="right")
        x = self.x + _PAD
        for thing, nbytes in things.items():
            width = nbytes * self.per_byte
            color = COLORS[_KIND.get(thing, "moments")]
            tile = Rectangle(
                (x, top + 30), width, _TILE, facecolor=color, edgecolor="white", linewidth=1.5
            )
            tile.set_label(f"{panel.label}, {place}: {thing}")
            self.ax.add_patch(tile)
            middle, room = x + width / 2, width - 5
            shown, text = shown_name(thing, 14), ink(color)
            self.text(middle, top + 43, shown, _SIZE, room, ha="center", color=text)
            self.text(middle, top + 58, f"{nbytes} B", 0.85 * _SIZE, room, ha="center", color=text)
            x += width
        done = panel.work(place)
        for i, (number, stage) in enumerate(done):
            room = (_WIDTH - 2 * _PAD + 8) / len(done) - 8
            self.work(
                number, stage, self.x + _PAD + i * (room + 8), top + height - _WORK - _PAD, room
            )

    def work(self, number: int, stage: Stage, x: float, y: float, width: float) -> None:
        """Draw what is done in a place: black if it is the rule."""
        (result,) = stage.things
        fill, color = ("black", "white") if stage.arithmetic else ("white", "black")
        label = f"{self.panel.label}, {stage.source}: {result}"
        self.box(x, y, width, _WORK, label, fill, "black", 1.2)
        self.number(x + 16, y + _WORK / 2, number)
        words = self.words(stage, result)
        weight = "bold" if stage.arithmetic else "normal"
        size = _SIZE if stage.arithmetic else 0.9 * _SIZE
        self.text(x + 31, y + _WORK / 2, words, size, width - 36, weight=weight, color=color)

    def words(self, stage: Stage, result: str) -> str:
        if stage.name == "prepare":
            return "prepare gradient"
        adds = "add update" if result == "update" else "take weights"
        if not stage.arithmetic:
            return adds
        new = [*self.panel.kept, *(["update"] if stage.name == result == "update" else [])]
        words = f"{self.panel.rule}: {', '.join(new)}" if new else self.panel.rule
        return f"{words}; {adds}" if stage.name == "apply" else words

    def arrow(
        self, number: int, stage: Stage, x: float, width: float, above: Place, below: Place
    ) -> None:
        """Draw a copy between two boxes, with what it carries beside it."""
        panel, thick = self.panel, min(_THICK * stage.nbytes, 34.0)
        start, stop = sum(self.boxes[above]) + 3, self.boxes[below][0] - 3
        if stage.source == below:
            start, stop = stop, start
        at = x + 34
        color = COLORS[stage.lane]
        arrow = FancyArrow(
            *(at, start, 0, stop - start),
            width=thick,
            head_width=thick + 16,
            head_length=18,
            length_includes_head=True,
            facecolor=color,
            edgecolor="#333333",
            linewidth=0.8,
        )
        arrow.set_label(f"{panel.label}, {stage.lane}: {', '.join(stage.things)}")
        self.ax.add_patch(arrow)
        middle = (start + stop) / 2
        self.number(at, middle, number)
        right = at + thick / 2 + 14
        room = x + width - right - 4
        carried = ", ".join(_CARRIED.get(thing, thing) for thing in stage.things)
        self.text(right, middle - 16, carried, _SIZE, room, weight="bold")
        self.text(right, middle, f"{stage.nbytes} B, {stage.format}", 0.95 * _SIZE, room)
        self.text(right, middle + 16, stage.lane, 0.95 * _SIZE, room, color="#444444")

    # -- what things are drawn with ---------------------------------------------------------------

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        label: str,
        fill: str,
        edge: str,
        line: float,
    ) -> None:
        patch = FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=6",
            facecolor=fill,
            edgecolor=edge,
            linewidth=line * min(1.0, self.scale),
        )
        patch.set_label(label)
        self.ax.add_patch(patch)

    def number(self, x: float, y: float, number: int) -> None:
        self.ax.add_patch(
            Circle((x, y), 9.5, facecolor="white", edgecolor="black", linewidth=1.0, zorder=3)
        )
        self.text(x, y, str(number), 0.9 * _SIZE, 20, ha="center", weight="bold", zorder=4)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        room: float,
        *,
        ha: str = "left",
        va: str = "center",
        **style: Any,
    ) -> None:
        """Write a line, smaller if there is not the room for it."""
        bold = 1.12 if style.get("weight") == "bold" else 1.0
        size = min(size, size * room / (bold * text_points(text, size)))
        options: dict[str, Any] = {"ha": ha, "va": va, "fontsize": size * self.scale, **style}
        self.ax.text(x, y, text, **options)
