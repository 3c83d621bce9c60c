"""The dashboard: everything on one page, nothing on top of anything else."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

import adamoffload as ao

from recordings import train

SIZES = {f"encoder.layers.{i}.weight": 20 + i for i in range(20)}


def test_the_title_says_parameters_steps_and_device() -> None:
    run = train(SIZES, steps=3)
    figure = ao.plots.dashboard(run.ledger, run.probe, device="sim")
    assert figure.get_suptitle() == "590 parameters, 3 steps, on sim"
    assert len(figure.axes) == 6


@pytest.mark.parametrize(("steps", "chunk_bytes"), [(1, 4 << 20), (12, 200)])
def test_no_panel_overlaps_another_and_none_leaves_the_page(steps: int, chunk_bytes: int) -> None:
    run = train(SIZES, steps=steps, chunk_bytes=chunk_bytes)
    figure = ao.plots.dashboard(run.ledger, run.probe)
    figure.draw_without_rendering()
    boxes = {ax.get_title("left"): ax.get_tightbbox() for ax in figure.axes}
    for (a, one), (b, other) in combinations(boxes.items(), 2):
        assert one is not None
        assert other is not None
        apart = one.x1 <= other.x0 or other.x1 <= one.x0 or one.y1 <= other.y0 or other.y1 <= one.y0
        assert apart, (a, b)
    for name, box in boxes.items():
        assert box is not None
        assert box.x0 >= 0, name
        assert box.x1 <= figure.bbox.x1, name
        assert box.y0 >= 0, name


def test_the_panels_show_the_recorded_numbers() -> None:
    run = train(SIZES, steps=4)
    figure = ao.plots.dashboard(run.ledger, run.probe, step=2)
    lines: Any = {ax.get_title("left"): ax.lines for ax in figure.axes}
    moved = 4 * 590 * np.arange(1, 5)
    np.testing.assert_array_equal(lines["Bytes moved, in all"][0].get_ydata(), moved)
    name = "encoder.layers.19.weight"
    rms = np.sqrt(np.mean(run.m[name] ** 2, axis=1))
    np.testing.assert_allclose(lines["Moments"][0].get_ydata(), rms, rtol=1e-4)
    assert any(title.startswith("Step 2:") for title in lines)


def test_what_was_not_recorded_is_said_before_a_figure_is_made() -> None:
    run = train({"w": 2}, steps=1)
    with pytest.raises(ValueError, match="the ledger has recorded no step"):
        ao.plots.dashboard(ao.Ledger(), run.probe)
    with pytest.raises(ValueError, match="the probe has sampled nothing"):
        ao.plots.dashboard(run.ledger, ao.Probe())
    with pytest.raises(ValueError, match="no hops of step 9"):
        ao.plots.dashboard(run.ledger, run.probe, step=9)
    assert not plt.get_fignums()
