"""Draws the figures of the gallery, in every build, from one short training run.

Each function below is shown beside its figure in ``gallery.rst``. The figures go to ``_gallery``,
which is not kept.
"""

from __future__ import annotations

import tempfile
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
import numpy as np
from figures import three_decisions

import adamoffload as ao
from adamoffload.estimates.search import best_fraction
from adamoffload.estimates.validation import validate
from adamoffload_sim import Link

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from sphinx.application import Sphinx

LAYERS = (64, 256, 256, 10)
STEPS = 100
MEMORY_BYTES = 1_300_000
LINK = Link(bandwidth_bytes_per_s=25e9, latency_s=6e-6)


class Run(NamedTuple):
    ledger: ao.Ledger
    probe: ao.Probe
    optimizer: ao.AdamOffload


@cache
def train(larger_from: int = STEPS, frozen_from: int = STEPS) -> Run:
    device = ao.get_backend(
        "sim", link=LINK, memory_bytes=MEMORY_BYTES if larger_from == STEPS else None
    )
    digits, rng = ao.load_digits(), np.random.default_rng(0)
    weights = []
    for i, (n, m) in enumerate(pairwise(LAYERS), start=1):
        values = (rng.standard_normal((n, m)) * np.sqrt(2 / n)).astype(np.float32)
        weights.append(ao.Parameter(device.asarray(values), name=f"layer{i}.weight"))
    ledger, probe, rate = ao.Ledger(), ao.Probe(), rates()["cosine"]
    optimizer = ao.AdamOffload(weights, rate, ledger=ledger, probe=probe, chunk_bytes=44_000)

    def loss(images, labels):  # type: ignore[no-untyped-def]
        h = images
        for weight in weights[:-1]:
            h = np.maximum(h @ weight, 0)
        return ao.softmax_cross_entropy(h @ weights[-1], labels)

    trained = weights
    for step in range(STEPS):
        count = 64 if step < larger_from else 512  # images
        if step == frozen_from:  # from here on the middle layer stays as it is
            optimizer.freeze("layer2.weight")
            trained = [weights[0], weights[2]]
        begin = count * step % (1400 - count)
        batch = slice(begin, begin + count)
        images = device.asarray(digits.train_images[batch])
        labels = device.asarray(digits.train_labels[batch])
        _, gradients = ao.value_and_grad(loss, trained)(images, labels)
        optimizer({w.name: g for w, g in zip(trained, gradients, strict=True)})
        del gradients  # the next ones need their memory
    return Run(ledger, probe, optimizer)


def rates() -> dict[str, ao.LearningRateSchedule]:
    return {
        "cosine": ao.CosineDecayLR(0.0, 1e-3, STEPS),
        "exponential": ao.ExponentialDecayLR(1e-3, 0.5, 40),
        "in stairs": ao.ExponentialDecayLR(1e-3, 0.5, 40, is_stair=True),
        "inverse": ao.InverseDecayLR(1e-3, 1.0, 40),
        "warm-up": ao.WarmUpLR(1e-3, 20),
    }


def dashboard() -> Figure:
    run = train()
    return ao.plots.dashboard(run.ledger, run.probe, device="sim, a link of 25 GB/s")


def strategies() -> Axes:
    return ao.plots.strategy(["resident", "adam-offload", "zero-offload"])


def strategies_that_move_the_state() -> Axes:
    return ao.plots.strategy(["state-shuttle", "state-shuttle-master", "disk"])


def timeline() -> Axes:
    return ao.plots.timeline(train().ledger, step=50)


def timeline_slow_host() -> Axes:
    device = ao.get_backend("sim", link=Link(50e9, 6e-6), host_ns_per_parameter=1.2)
    w = ao.Parameter(device.asarray(np.zeros(10_000_000, np.float32)), name="w")
    ledger = ao.Ledger()
    optimizer = ao.AdamOffload([w], ledger=ledger, chunk_bytes=5_000_000)
    optimizer([device.asarray(np.ones(10_000_000, np.float32))])
    return ao.plots.timeline(ledger)


def critical_path() -> Axes:
    return ao.plots.critical_path(train().ledger, step=50)


def memory() -> Axes:
    offloaded = train().optimizer.memory()
    resident = ao.ResidentMemory(*offloaded[:2], offloaded.moments)
    bars = {"Adam": resident, "AdamOffload": offloaded}
    return ao.plots.memory(bars, limit=MEMORY_BYTES)


def memory_over_time() -> Axes:
    return ao.plots.memory_over_time(train(larger_from=30).ledger)


def transfers() -> Axes:
    run = train(frozen_from=60)
    return ao.plots.transfers(run.ledger, parameters=sum(run.probe.sizes.values()))


def bandwidth() -> Axes:
    return ao.plots.transfers(train(frozen_from=60).ledger, show="bandwidth")


def moments() -> Axes:
    return ao.plots.moments(train().probe)


def moments_of_one() -> Axes:
    return ao.plots.moments(train().probe, "layer3.weight")


def step_sizes() -> Axes:
    return ao.plots.step_sizes(train().probe, "layer3.weight")


def effective_rates() -> Axes:
    return ao.plots.step_sizes(train().probe, show="rate")


def update_ratios() -> Axes:
    return ao.plots.step_sizes(train().probe, show="update_ratio")


def schedule() -> Axes:
    return ao.plots.schedule(rates(), STEPS)


def playground() -> Figure:
    paths = ao.playground.run("rosenbrock", ["adam", "nesterov", "momentum"])
    return ao.plots.playground(paths)


def turned() -> Figure:
    paths = ao.playground.run("rotated", ["adam:lr=0.3", "sgd:lr=0.015"], steps=100)
    return ao.plots.playground(paths)


def validation() -> Axes:
    return ao.plots.validation(validate(), "left out")


def training_step() -> Axes:
    found = ao.estimate(
        "llama-2-7b", strategy="zero-offload", machine="rtx4090", chunk_bytes=1 << 30
    )
    return ao.plots.training_step(found)


def fractions() -> Axes:
    asked = ao.estimate("gpt2-xl", strategy="zero-offload", machine="rtx4090").question
    return ao.plots.fractions(best_fraction(asked))


FIGURES = (
    three_decisions,
    *(dashboard, strategies, strategies_that_move_the_state),
    *(timeline, timeline_slow_host, critical_path, memory, memory_over_time, transfers, bandwidth),
    *(moments, moments_of_one, step_sizes, effective_rates, update_ratios, schedule),
    *(playground, turned),
    *(training_step, fractions, validation),
)


def draw(folder: Path) -> None:
    """Write all figures as SVG, the same bytes every time."""
    import matplotlib.pyplot as plt

    mpl.use("Agg")
    folder.mkdir(exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "adamoffload"}):
        for function in FIGURES:
            drawn = function()
            figure = drawn if hasattr(drawn, "savefig") else drawn.figure
            figure.savefig(folder / f"{function.__name__}.svg", metadata={"Date": None})
            plt.close(figure)


def setup(app: Sphinx) -> dict[str, bool]:
    """Draw them when a build begins."""
    app.connect("builder-inited", lambda app: draw(Path(app.srcdir) / "_gallery"))
    return {"parallel_read_safe": True}


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp())
    draw(folder)
    print(folder)
