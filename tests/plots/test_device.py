"""What the figures of memory show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex

import adamoffload as ao
from adamoffload.plots.style import COLORS

from recordings import corners, train

RESIDENT = ao.ResidentMemory(parameters=100, gradients=100, moments=200)
OFFLOADED = ao.OffloadMemory(parameters=100, gradients=100, ring=30, moments=200)


def bars(ax: Any) -> dict[str, list[tuple[float, float]]]:
    """Return bottom and top of each bar, from left to right, by kind."""
    return {
        container.get_label(): [
            (bar.get_y(), bar.get_y() + bar.get_height())
            for bar in sorted(container, key=lambda bar: bar.get_x())
        ]
        for container in ax.containers
    }


def test_memory_is_stacked_by_kind_device_beside_host() -> None:
    ax: Any = ao.plots.memory({"Adam": RESIDENT, "AdamOffload": OFFLOADED})
    assert bars(ax) == {
        "parameters": [(0, 100), (0, 100)],
        "gradients": [(100, 200), (100, 200)],
        "moments": [(200, 400), (0, 200)],  # the offloaded ones are on the host
        "staging": [(200, 230), (200, 230)],  # as large on the host as on the device
    }
    ticks = [text.get_text() for text in ax.get_xticklabels()]
    assert ticks == ["device", "device", "host"]
    texts = {text.get_text() for text in ax.texts}
    assert {"400 B", "230 B", "Adam", "AdamOffload"} <= texts


def test_bars_have_their_kinds_colors() -> None:
    ax: Any = ao.plots.memory({"x": OFFLOADED})
    for container in ax.containers:
        assert to_hex(container[0].get_facecolor()).upper() == COLORS[container.get_label()]


def test_bars_of_a_label_stand_together_and_never_overlap() -> None:
    ax: Any = ao.plots.memory({"a": OFFLOADED, "b": OFFLOADED, "c": RESIDENT})
    x = ax.get_xticks()
    gaps = np.diff(x)
    np.testing.assert_allclose(gaps, [0.9, 1.4, 0.9, 1.4])
    assert all(gap > ax.containers[0][0].get_width() for gap in gaps)


def test_the_limit_is_a_line_across_the_devices_bars_and_what_is_above_is_said() -> None:
    ax: Any = ao.plots.memory({"Adam": RESIDENT, "AdamOffload": OFFLOADED}, limit=300)
    (lines,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    segments = np.array(lines.get_segments())
    np.testing.assert_array_equal(segments[:, :, 1], 300)
    np.testing.assert_allclose(segments[:, :, 0].mean(axis=1), ax.get_xticks()[:2])
    texts = {text.get_text() for text in ax.texts}
    assert "400 B\ntoo much" in texts
    assert "230 B" in texts


def test_the_devices_limit_does_not_bind_the_host() -> None:
    ax = ao.plots.memory({"x": ao.OffloadMemory(1, 1, 1, 1000)}, limit=10)
    assert not [text for text in ax.texts if "too much" in text.get_text()]


def test_a_dict_is_one_bar_of_the_device() -> None:
    ax: Any = ao.plots.memory({"peak": {"parameters": 10, "other": 5}}, limit=20)
    assert bars(ax) == {"parameters": [(0, 10)], "other": [(10, 15)]}


def test_no_bytes_at_all_is_a_picture_too() -> None:
    ax: Any = ao.plots.memory({"nothing": {"parameters": 0}})
    assert ax.get_ylim()[0] == 0 < ax.get_ylim()[1]


def test_bars_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(TypeError, match=r"bars must be a mapping .*got .*OffloadMemory"):
        ao.plots.memory(ao.OffloadMemory(1, 1, 1, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there is nothing to draw"):
        ao.plots.memory({})
    with pytest.raises(ValueError, match=r"kind 'ring' of bar 'x' is unknown; kinds are param"):
        ao.plots.memory({"x": {"ring": 1}})
    with pytest.raises(ValueError, match="moments of bar 'x'"):
        ao.plots.memory({"x": {"moments": -1}})
    with pytest.raises(TypeError, match="limit"):
        ao.plots.memory({"x": OFFLOADED}, limit="4M")  # type: ignore[arg-type]


def test_memory_over_time_is_stacked_from_what_the_ledger_recorded() -> None:
    run = train({"w": 100}, steps=3)
    ax: Any = ao.plots.memory_over_time(run.ledger)
    areas = [c for c in ax.collections if isinstance(c, PolyCollection)]
    tops = {a.get_label(): corners(a.get_paths()[0])[:, 1].max() for a in areas}
    # parameters and gradients; the ring of one slot; what is left of a step is next to nothing
    assert (tops["parameters"], tops["gradients"], tops["staging"]) == (400, 800, 1200)
    assert tops.get("other", 1200) < 1210
    legend = ax.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [
        "parameters", "gradients", "staging ring", "limit: 1.05 MB"
    ]  # fmt: skip
    begin, end = run.ledger.step_times()[[0, -1], [0, 1]]
    assert corners(areas[0].get_paths()[0])[:, 0].max() <= end - begin
    (limit,) = [line for line in ax.lines if line.get_label() == "limit"]
    np.testing.assert_array_equal(limit.get_ydata(), 1 << 20)
    assert ax.get_xlabel() == "simulated time"


def test_the_host_holds_the_moments() -> None:
    ax: Any = ao.plots.memory_over_time(train({"w": 100}).ledger, "host")
    (area,) = [c for c in ax.collections if isinstance(c, PolyCollection)]
    assert area.get_label() == "moments"
    assert corners(area.get_paths()[0])[:, 1].max() == 800
    assert not ax.lines  # the limit is the device's


def test_memory_over_time_refuses_what_was_not_recorded() -> None:
    with pytest.raises(ValueError, match="no samples of device memory; pass it to AdamOffload"):
        ao.plots.memory_over_time(ao.Ledger())
    with pytest.raises(
        ValueError, match="place must be one of device, pinned, host, disk, got 'moon'"
    ):
        ao.plots.memory_over_time(train({"w": 1}).ledger, "moon")
