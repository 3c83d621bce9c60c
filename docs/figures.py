"""Figures of the course's story, and what lets a wide one scroll where the page is narrow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from directives import table
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx_gallery.directives import imgsgnode

import adamoffload as ao

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARAMETERS = 7e9
CARDS_GB = (24, 80)
MENU_GB = (8, 16, 24, 48, 80, 141)

Homes = dict[str, dict[str, int]]
"""Bytes per parameter of each thing, at each place."""

KINDS = {"weights": "parameters", "gradient": "gradients", "m": "moments", "v": "moments"}
KINDS |= {"master": "master"}

_SIXTEEN = {"weights": 2, "gradient": 2, "master": 4, "m": 4, "v": 4}  # Adam in mixed precision


def decisions() -> dict[str, Homes]:
    """Return where things live before and after each of three decisions.

    The float32 ones are what the strategies declare. In 16 bits they are those of ZeRO-Offload (J.
    Ren et al., arXiv:2101.06840, section 4.1), before and after gradients leave as they come.
    """
    adam = ao.rules.Adam()

    def declared(name: str) -> Homes:
        return {place: dict(things) for place, things in ao.strategies[name].homes(adam).items()}

    def placed(**places: tuple[str, ...]) -> Homes:
        return {place: {what: _SIXTEEN[what] for what in all_} for place, all_ in places.items()}

    state = ("master", "m", "v")
    return {
        "float32,\nall on the device": declared("resident"),
        "mixed precision\nalone": placed(device=("weights", "gradient", *state)),
        "1  the moments\ngo to the host": declared("adam-offload"),
        "2  16 bits\non the device": placed(device=("weights", "gradient"), host=state),
        "3  gradients leave\nduring backward": placed(
            device=("weights",), host=("gradient", *state)
        ),
    }


def three_decisions() -> Figure:
    """Draw figure A: three decisions, each of which halves the device's memory."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    with plt.rc_context(ao.plots.STYLE):
        figure, ax = plt.subplots(figsize=(10, 5.2), layout="constrained")
        for x, (label, homes) in enumerate(decisions().items()):
            host = homes.get("host")
            at = x - 0.2 if host else x
            top = _bar(ax, at, homes["device"], 0.38, ghost="alone" in label)
            ax.text(at, top + 2, f"{top:.0f} GB", ha="center", weight="bold")
            if host:
                top = _bar(ax, x + 0.22, host, 0.3)
                ax.text(x + 0.22, top + 2, f"host\n{top:.0f} GB", ha="center", color="#555555")
        limit = ao.plots.COLORS["limit"]
        for card in CARDS_GB:
            ax.axhline(card, color=limit, linestyle="--", linewidth=1.4, zorder=0.5)
            ax.text(0.5, card + 1.5, f"{card} GB card", ha="center", color=limit)
        ax.set_xticks(range(5), [*decisions()])
        ax.set(xlim=(-0.5, 4.65), ylim=(0, 132), ylabel="GB for 7 billion parameters")
        ax.set_title("Three decisions, each halves it")
        ax.grid(visible=False, axis="x")
        names = {"parameters": "weights"}
        entries = [
            Patch(color=ao.plots.COLORS[kind], label=names.get(kind, kind))
            for kind in dict.fromkeys(KINDS.values())
        ]
        figure.legend(handles=entries, loc="outside upper right", ncols=4)
    return figure


def _bar(ax: Axes, x: float, things: dict[str, int], width: float, *, ghost: bool = False) -> float:
    """Draw one stack, and return its height in GB."""
    bottom = 0.0
    for what, nbytes in things.items():
        height, color = nbytes * PARAMETERS / 1e9, ao.plots.COLORS[KINDS[what]]
        look = {"facecolor": "none", "edgecolor": color, "linestyle": "--", "linewidth": 1.6}
        if not ghost:
            look = {"facecolor": color, "edgecolor": "white", "linewidth": 0.8}
        ax.bar(x, height, width, bottom=bottom, **look)
        bottom += height
    return bottom


class LargestModels(Directive):
    """How many parameters fit on which card, with a quarter of it left for everything else."""

    def run(self) -> list[nodes.Node]:
        placed = {label: homes for label, homes in decisions().items() if "alone" not in label}
        needs = [sum(homes["device"].values()) for homes in placed.values()]
        heads = ("Card", *(label.replace("\n", " ") for label in placed))
        rows = [
            (f"{gb} GB", *(f"{0.75 * gb / nbytes:.2g} billion" for nbytes in needs))
            for gb in MENU_GB
        ]
        return [table(heads, (1, 2, 2, 2, 2), rows)]


class Strip(SphinxPostTransform):
    """Puts each figure into a strip of the page; ``custom.css`` lets that scroll."""

    default_priority = 900

    def run(self, **_: object) -> None:
        for kind in (nodes.image, imgsgnode):
            for image in list(self.document.findall(kind)):
                thumbnail = "/thumb/" in image["uri"]
                shown = image.parent if isinstance(image.parent, nodes.reference) else image
                if not thumbnail and isinstance(shown.parent, nodes.section | nodes.figure):
                    shown.replace_self(nodes.container("", shown.deepcopy(), classes=["strip"]))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("largest-models", LargestModels)
    app.add_post_transform(Strip)
    return {"parallel_read_safe": True}
