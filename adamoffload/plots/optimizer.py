"""Figures of what the optimizer does: moments and step sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.ticker import StrMethodFormatter

from adamoffload.arguments import choice, instance
from adamoffload.observe.probes import LEVELS, Probe
from adamoffload.plots.frame import frame, gaps, log_axis, shown_name, step_axis
from adamoffload.plots.style import COLORS, LINES, MARKERS, styled

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["moments", "step_sizes"]

SHOWN = 5
"""How many parameters are drawn if none are named."""

_Array = np.ndarray[Any, np.dtype[np.float64]]
_Entries = list[tuple["Artist | tuple[Artist, ...]", str]]
_MEDIAN, _HALF, _MOST = LEVELS.index(0.5), (0.25, 0.75), (0.05, 0.95)
_BANDS = "bands hold the middle 50% and 90% of the coordinates"


def moments(
    probe: Probe, names: str | Sequence[str] | None = None, *, ax: Axes | None = None
) -> Axes:
    """Draw what the rule keeps over the steps: of one parameter its quantiles, of several the RMS.

    Of Adam, that is m and sqrt(v); of another rule its slots, those that hold squares by their
    roots.

    Parameters
    ----------
    probe : Probe
        What sampled them.
    names : str or sequence of str, optional
        Which parameters (or groups), at most seven; the five largest, if left out.
    ax : Axes, optional
        What to draw on; new axes, if left out.

    Returns
    -------
    Axes
        Of one parameter, on a linear axis: the medians, and bands from the 5th to the 95th and
        from the 25th to the 75th percentile (`Probe.quantiles`). Of several, on a logarithmic
        axis: the root mean squares, m solid and sqrt(v) dashed, a third slot dotted (`Probe.rms`).

    Raises
    ------
    ValueError
        If nothing was sampled, a name is unknown, there are more than seven, or the rule keeps
        nothing.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("numpy")
    >>> w = ao.Parameter(device.asarray(np.ones(4, np.float32)), name="w")
    >>> probe = ao.Probe()
    >>> opt = ao.AdamOffload([w], probe=probe)
    >>> opt([device.asarray(np.full(4, 2.0, np.float32))])
    (True,)
    >>> ax = ao.plots.moments(probe)
    >>> [(line.get_label(), line.get_ydata().round(3)) for line in ax.lines]
    [('m', array([0.2])), ('√v', array([0.063]))]
    """
    instance("moments", "probe", probe, Probe)
    chosen, notes = _chosen("moments", probe, names)
    kept = [q if (q := f"sqrt_{slot}") in probe.quantities else slot for slot in probe.slots]
    if not kept:
        raise ValueError("moments: the rule keeps nothing that could be drawn")
    with styled(ax) as ax:
        draw = _moments_of_one if len(chosen) == 1 else _moments_of_several
        entries, more = draw(ax, probe, chosen, kept)
        step_axis(ax, probe.steps)
        what = f"Moments of {shown_name(chosen[0])}" if len(chosen) == 1 else "Moments"
        frame(ax, what, notes=[*notes, *more], entries=entries)
    return ax


def _symbol(quantity: str) -> str:
    return f"√{quantity[5:]}" if quantity.startswith("sqrt_") else quantity


_DASHES = ("-", "--", ":")
_STYLES = ("solid", "dashed", "dotted")


def _moments_of_one(
    ax: Axes, probe: Probe, names: Sequence[str], kept: Sequence[str]
) -> tuple[_Entries, list[str]]:
    series = [probe.quantiles(quantity, names[0]) for quantity in kept]
    clean, notes = gaps(ax, probe.steps, *series)
    ax.set_ylabel("loss / unit of weight")
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    entries: _Entries = []
    for i, (quantity, values) in enumerate(zip(kept, clean, strict=True)):
        color, label = COLORS.get(quantity, LINES[i]), _symbol(quantity)
        dash = _DASHES[i % len(_DASHES)]
        entries.append((_quantiles(ax, probe.steps, values, color, label, dash), label))
    return entries, [_BANDS, *notes]


def _moments_of_several(
    ax: Axes, probe: Probe, names: Sequence[str], kept: Sequence[str]
) -> tuple[_Entries, list[str]]:
    series = [probe.rms(quantity, name) for name in names for quantity in kept]
    clean, notes = gaps(ax, probe.steps, *series)
    entries: _Entries = []
    for i, name in enumerate(names):
        for k, quantity in enumerate(kept):
            values, dash = clean[i * len(kept) + k], _DASHES[k % len(_DASHES)]
            label = f"{_symbol(quantity)} of {name}"
            line = _line(ax, probe.steps, values, i, label, dash, marked=not k)
            if not k:
                entries.append((line, _legend(name, values)))
    log_axis(ax, *clean)
    ax.set_ylabel("RMS (loss / unit of weight)")
    styles = zip(kept, _STYLES, strict=False)
    return entries, [", ".join(f"{_symbol(what)} {style}" for what, style in styles), *notes]


Show = Literal["step_size", "rate", "update_ratio"]
_SHOWN: dict[Show, tuple[str, str]] = {
    "step_size": ("Step sizes", "|δ| (unit of weight)"),
    "rate": ("Effective rates, bias-corrected", "lr / (√v + ε)"),
    "update_ratio": ("Updates, relative to the weights", "norm of δ / norm of w"),
}


def step_sizes(
    probe: Probe,
    names: str | Sequence[str] | None = None,
    *,
    show: Show = "step_size",
    ax: Axes | None = None,
) -> Axes:
    """Draw how far the parameters move in a step, beside the learning rate.

    Parameters
    ----------
    probe : Probe
        What sampled it.
    names : str or sequence of str, optional
        Which parameters (or groups), at most seven; the five largest, if left out.
    show : str
        ``"step_size"``: the size of the updates, and the learning rate; ``"rate"``: what each
        coordinate's first moment is multiplied by; ``"update_ratio"``: the norm of the update over
        that of the parameter.
    ax : Axes, optional
        What to draw on; new axes, if left out.

    Returns
    -------
    Axes
        On a logarithmic axis: medians over the coordinates, and of a single parameter
        bands from the 5th to the 95th and from the 25th to the 75th percentile
        (`Probe.quantiles`). The learning rate, and the ratio, which has no quantiles, are of
        `Probe.series`.

    Raises
    ------
    ValueError
        If nothing was sampled, a name or what to show is unknown, or there are more than seven
        names.

    Examples
    --------
    >>> import numpy as np
    >>> import adamoffload as ao
    >>> device = ao.get_backend("numpy")
    >>> w = ao.Parameter(device.asarray(np.ones(4, np.float32)), name="w")
    >>> probe = ao.Probe()
    >>> opt = ao.AdamOffload([w], learning_rate=0.5, probe=probe)
    >>> opt([device.asarray(np.full(4, 2.0, np.float32))])
    (True,)
    >>> ax = ao.plots.step_sizes(probe)
    >>> [(line.get_label(), line.get_ydata().round(3)) for line in ax.lines[:2]]
    [('w', array([0.5])), ('learning rate', array([0.5]))]
    """
    instance("step_sizes", "probe", probe, Probe)
    choice("step_sizes", "show", show, _SHOWN)
    chosen, notes = _chosen("step_sizes", probe, names)
    with styled(ax) as ax:
        title, label = _SHOWN[show]
        if show == "update_ratio":
            series, banded = [probe.series(show, name) for name in chosen], False
        else:
            series, banded = [probe.quantiles(show, name) for name in chosen], len(chosen) == 1
            notes = [*notes, _BANDS if banded else "medians"]
            series = series if banded else [values[:, _MEDIAN] for values in series]
        clean, bad = gaps(ax, probe.steps, *series)
        entries: _Entries = []
        for i, (name, values) in enumerate(zip(chosen, clean, strict=True)):
            drawn: Artist | tuple[Artist, ...] = (
                _quantiles(ax, probe.steps, values, COLORS[show], name, "-")
                if banded
                else _line(ax, probe.steps, values, i, name)
            )
            entries.append((drawn, _legend(name, values)))
        if show == "step_size":
            rates = {r.tobytes(): r for r in (probe.series("lr", name) for name in chosen)}
            entries.append((_learning_rates(ax, probe, [*rates.values()]), "learning rate"))
            clean += rates.values()
            if _first_is_rate(ax, probe, chosen[0]):
                title += ": the first equals lr"
        log_axis(ax, *clean)
        ax.set_ylabel(label)
        step_axis(ax, probe.steps)
        frame(ax, title, notes=[*notes, *bad], entries=entries)
    return ax


def _chosen(
    owner: str, probe: Probe, names: str | Sequence[str] | None
) -> tuple[Sequence[str], list[str]]:
    """Return which parameters to draw, and what to say about it."""
    if not len(probe.steps):
        raise ValueError(
            f"{owner}: the probe has sampled nothing; pass it to AdamOffload(..., probe=probe) and "
            f"take a step"
        )
    if names is None:
        every, sizes = probe.names, probe.sizes
        largest = sorted(every, key=lambda name: -sizes[name])[:SHOWN]
        if len(largest) == len(every):
            return every, []
        return largest, [f"the {len(largest)} largest of {len(every):,} {probe.by}s"]
    chosen = [names] if isinstance(names, str) else list(names)
    if not 0 < len(chosen) <= len(LINES):
        raise ValueError(
            f"{owner}: names must be 1 to {len(LINES)} names, since more cannot be told apart; got "
            f"{len(chosen)}"
        )
    return chosen, []


def _legend(name: str, values: _Array) -> str:
    """Return how the legend calls a series; it must say what a logarithmic axis cannot show."""
    return f"{shown_name(name)}{'' if np.any(values != 0) else ' (all 0)'}"


def _line(
    ax: Axes,
    steps: np.ndarray[Any, Any],
    values: _Array,
    i: int,
    label: str,
    dash: str = "-",
    *,
    marked: bool = True,
) -> Artist:
    """Draw the i-th of several lines: by colour, and by sparse markers."""
    sparse = set(range(_stagger(i, len(steps)), len(steps), max(1, len(steps) // 6)))
    at = _alone(values) | (sparse if marked else set())
    (line,) = ax.plot(
        steps, values, dash, color=LINES[i], marker=MARKERS[i], markevery=sorted(at), label=label
    )
    if not marked:
        line.set_markerfacecolor("white")
    return line


def _stagger(i: int, samples: int) -> int:
    """Return where the i-th line has its first marker, so that they don't cover each other."""
    return i * max(1, samples // 6) // len(LINES)


def _alone(values: _Array) -> set[int]:
    """Return the samples with none beside them: no line shows them, so they need a marker."""
    there = np.concatenate(([False], np.isfinite(values), [False]))
    return set(np.flatnonzero(there[1:-1] & ~there[:-2] & ~there[2:]).tolist())


def _quantiles(
    ax: Axes, steps: np.ndarray[Any, Any], values: _Array, color: str, label: str, dash: str
) -> tuple[Artist, ...]:
    """Draw the median and two bands of `Probe.quantiles`."""
    median = values[:, _MEDIAN]
    alone = sorted(_alone(median))
    bands = []
    for levels, alpha in ((_MOST, 0.22), (_HALF, 0.35)):
        low, high = (values[:, LEVELS.index(level)] for level in levels)
        bands.append(ax.fill_between(steps, low, high, color=color, alpha=alpha, linewidth=0))
        if alone:  # a band needs two samples
            span = low[alone], high[alone]
            ax.vlines(steps[alone], *span, color=color, alpha=alpha, linewidth=9)
    (line,) = ax.plot(
        steps, median, dash, color=color, marker=MARKERS[0], markevery=alone, label=label
    )
    return bands[0], line


def _learning_rates(ax: Axes, probe: Probe, distinct: Sequence[_Array]) -> Artist:
    for rates in distinct:
        (line,) = ax.plot(probe.steps, rates, ":", color=COLORS["lr"], label="learning rate")
        line.set(marker="_", markersize=14, markevery=sorted(_alone(rates)))
    return line


def _first_is_rate(ax: Axes, probe: Probe, name: str) -> bool:
    """Return, and mark, whether the first step is as large as the learning rate, as Adam's is."""
    rate = probe.series("lr", name)[0]
    median = probe.quantiles("step_size", name)[0, _MEDIAN]
    if probe.steps[0] != 1 or rate <= 0 or not abs(median / rate - 1) < 0.01:
        return False
    ax.plot(1, rate, "o", markersize=15, markerfacecolor="none", color="black", label="first step")
    return True
