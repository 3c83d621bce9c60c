"""Whatever a ledger and a probe have recorded, every figure and the report can show it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

import adamoffload as ao
from adamoffload import plots
from adamoffload.reports.sentences import sentences
from adamoffload_sim import Device, Link

Recorded = tuple[ao.Ledger, ao.Probe, Any]


def run(
    gradients: Sequence[float], kind: Any = ao.AdamOffload, backend: Any = (), **options: Any
) -> Recorded:
    device = ao.get_backend("sim", **dict(backend))
    w, b = (ao.Parameter(device.asarray(np.ones(n, np.float32)), f"p{n}") for n in (1000, 10))
    ledger, probe = ao.Ledger(), ao.Probe()
    if kind is ao.AdamOffload:
        options["probe"] = probe
    optimizer = kind([w, b], ledger=ledger, **options)
    for g in gradients:
        try:
            optimizer([device.asarray(np.full(p.size, g, np.float32)) for p in (w, b)])
        except FloatingPointError:
            assert options["on_nonfinite"] == "raise"
    return ledger, probe, optimizer


AT_ONCE = {"device": Device(1e300, 1e300), "host_ns_per_parameter": 1e-300}
STATES: dict[str, Callable[[], Recorded]] = {
    "resident": partial(run, [1, 2], ao.Adam),
    "one step": partial(run, [1]),
    "one resident step": partial(run, [1], ao.Adam),
    "every step skipped": partial(run, [math.nan, math.inf], on_nonfinite="skip"),
    "every resident step skipped": partial(run, [math.nan], ao.Adam, on_nonfinite="skip"),
    "the first step skipped": partial(run, [math.nan, 1], on_nonfinite="skip"),
    "a step that raised": partial(run, [math.nan], on_nonfinite="raise"),
    "NaN everywhere": partial(run, [math.nan, math.nan]),
    "NaN from the second step on": partial(run, [1, math.nan, math.nan]),
    "infinite gradients": partial(run, [math.inf, math.inf]),
    "gradients of zero": partial(run, [0, 0]),
    "a learning rate of zero": partial(run, [1, 1], learning_rate=0.0),
    "a link that takes no time": partial(run, [1, 1], backend={"link": Link(1e300)}),
    "nothing takes time": partial(run, [1, 1], backend={"link": Link(1e300), **AT_ONCE}),
}

Draw = Callable[[Recorded, Any], Any]
OF_LEDGER: dict[str, Draw] = {
    "timeline": lambda run, ax: plots.timeline(run[0], ax=ax),
    "critical_path": lambda run, ax: plots.critical_path(run[0], ax=ax),
    "transfers": lambda run, ax: plots.transfers(run[0], 1010, ax=ax),
    "transfers, per_step": lambda run, ax: plots.transfers(run[0], 1010, show="per_step", ax=ax),
    "transfers, bandwidth": lambda run, ax: plots.transfers(run[0], show="bandwidth", ax=ax),
    "schedule": lambda run, ax: plots.schedule(run[2], 3, ax=ax),
    "memory": lambda run, ax: plots.memory({"Adam": run[2].memory()}, ax=ax),
}
OF_SAMPLES: dict[str, Draw] = {
    "memory_over_time": lambda run, ax: plots.memory_over_time(run[0], ax=ax),
    "moments": lambda run, ax: plots.moments(run[1], ax=ax),
    "moments of one": lambda run, ax: plots.moments(run[1], "p1000", ax=ax),
    **{
        f"step_sizes, {show}{of}": partial(
            lambda run, ax, show, names: plots.step_sizes(run[1], names, show=show, ax=ax),
            show=show,
            names=names,
        )
        for show in ("step_size", "rate", "update_ratio")
        for of, names in (("", None), (" of one", "p10"))
    },
}


@pytest.mark.parametrize("state", STATES)
def test_every_figure_can_be_drawn(state: str) -> None:
    recorded = STATES[state]()
    ledger, probe, _ = recorded
    for name, draw in (OF_LEDGER | OF_SAMPLES).items():
        figure = Figure(figsize=(6, 3), dpi=30)
        ax = figure.add_subplot()
        sampled = len(ledger.memory()) if name == "memory_over_time" else len(probe.steps)
        if name in ("timeline", "critical_path") and not len(ledger.steps):
            with pytest.raises(ValueError, match="recorded no step"):
                draw(recorded, ax)
            continue
        if name in OF_SAMPLES and not sampled:
            with pytest.raises(ValueError, match=r"has (no samples|sampled nothing)"):
                draw(recorded, ax)
            continue
        draw(recorded, ax)
        figure.draw_without_rendering()
        assert np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all()


EXTREMES = ("one step", "every step skipped", "NaN everywhere", "nothing takes time")


@pytest.mark.parametrize("state", EXTREMES)
def test_all_of_it_can_be_drawn_on_one_page(state: str) -> None:
    ledger, probe, _ = STATES[state]()
    if len(probe.steps):
        plots.dashboard(ledger, probe).draw_without_rendering()
        plt.close("all")
    else:
        with pytest.raises(ValueError, match="recorded no step"):
            plots.dashboard(ledger, probe)


@pytest.mark.parametrize("state", ["resident", "a step that raised", *EXTREMES])
def test_a_report_can_be_written(state: str, tmp_path: Path) -> None:
    ledger, probe, optimizer = STATES[state]()
    given = probe if isinstance(optimizer, ao.AdamOffload) else None
    page = ao.report(tmp_path / "report.html", ledger, given, optimizer).read_text("utf-8")
    for sentence in sentences(ledger, given or ao.Probe()):
        assert sentence.replace("'", "&#x27;") in page


def test_every_figure_of_a_ledger_or_a_probe_is_tried() -> None:
    others = {
        "dashboard",
        "LiveFigure",
        "PageWriter",
        "animate_trajectory",
        "descent",
        "playground",
        "strategy",  # of no recording
    }
    others |= {
        "playground",
        "save_animation",
        "trajectory",
        "fractions",
        "training_step",
        "validation",
    }
    functions = {name for name in plots.__all__ if callable(getattr(plots, name))}
    assert {name.split()[0].strip(",") for name in OF_LEDGER | OF_SAMPLES} == functions - others


@pytest.mark.parametrize(
    ("state", "moved"),
    [
        ("one step", "4.04 kB"),
        ("resident", "nothing"),
        ("every step skipped", "nothing"),
        ("a step that raised", "nothing"),
        ("a link that takes no time", "8.08 kB"),
    ],
)
def test_the_legend_says_what_moved(state: str, moved: str) -> None:
    ax = plots.transfers(STATES[state]()[0])
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [f"d2h: {moved}", f"h2d: {moved}"]
    plt.close("all")


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("resident", "Nothing crossed the link: all lies on the device, where Adam runs."),
        ("every step skipped", "No step was taken: every call was skipped, or has raised."),
        ("a step that raised", "No step was taken: every call was skipped, or has raised."),
    ],
)
def test_a_sentence_says_why_nothing_moved(state: str, sentence: str) -> None:
    assert sentences(STATES[state]()[0], ao.Probe())[0].startswith(sentence)
    assert "0 chunks" not in " ".join(sentences(STATES[state]()[0], ao.Probe()))
