"""What the figure of a step's time shows, against times worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex

import adamoffload as ao
from adamoffload.plots.style import COLORS
from adamoffload_sim import Device, Link

from recordings import corners

LANES = {"device": 0, "d2h": 1, "host": 2, "h2d": 3}


def record(chunks: int = 4, host_s: float = 4.0, steps: int = 1, decay: float = 0.0) -> ao.Ledger:
    """Record steps whose copies take a second a chunk; adding an update takes 1/4 s."""
    device = ao.get_backend(
        "sim", link=Link(4), device=Device(48, 1e9), host_ns_per_parameter=host_s * 1e9
    )
    w = ao.Parameter(device.asarray(np.zeros(chunks, np.float32)), name="w")
    g = device.asarray(np.ones(chunks, np.float32))
    ledger = ao.Ledger()
    opt = ao.AdamOffload([w], ledger=ledger, chunk_bytes=4, weight_decay=decay)
    for _ in range(steps):
        opt([g])
        device.synchronize()
    return ledger


def bars(ax: Any, lane: str) -> list[tuple[float, float]]:
    """Return begin and end of each bar of a lane, waits left out."""
    found = []
    for collection in ax.collections:
        assert isinstance(collection, PolyCollection)
        if collection.get_label() == "wait":
            continue
        for path in collection.get_paths():
            x, y = corners(path)[:, 0], corners(path)[:, 1]
            if (y.min() + y.max()) / 2 == pytest.approx(LANES[lane]):
                found.append((float(x.min()), float(x.max())))
    return sorted(found)


def waits(ax: Any) -> list[tuple[float, float]]:
    found = [c for c in ax.collections if c.get_label() == "wait"]
    assert all(c.get_hatch() for c in found)
    paths = [corners(path)[:, 0] for c in found for path in c.get_paths()]
    return [(float(x.min()), float(x.max())) for x in paths]


def texts(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_each_hop_is_a_bar_in_its_lane_from_its_begin_to_its_end() -> None:
    # Adam takes 4 s a chunk and never pauses after the first gradient has come down in 1 s.
    ax: Any = ao.plots.timeline(record())
    assert bars(ax, "host") == [(1, 5), (5, 9), (9, 13), (13, 17)]
    assert bars(ax, "h2d") == [(5, 6), (9, 10), (13, 14), (17, 18)]
    assert bars(ax, "device") == [(6, 6.25), (10, 10.25), (14, 14.25), (18, 18.25)]
    # three slots: the fourth gradient comes down when the first update has been added
    assert bars(ax, "d2h") == [(0, 1), (1, 2), (2, 3), (6.25, 7.25)]
    assert waits(ax) == [(0, 1)]
    assert ax.get_xlim() == (0, 18.25)


def test_lanes_have_their_colors_and_stand_in_the_order_of_a_chunks_way() -> None:
    ax: Any = ao.plots.timeline(record())
    labels = [text.get_text().split("\n")[0] for text in ax.get_yticklabels()]
    assert labels == list(LANES)
    assert ax.yaxis_inverted()
    for collection in ax.collections:
        (y,) = {round(float(corners(p)[:, 1].mean())) for p in collection.get_paths()} or {-1}
        if collection.get_label() != "wait" and y >= 0:
            color = COLORS[list(LANES)[y]]
            assert to_hex(collection.get_facecolor()[0]).upper() == color


def test_bars_bear_their_chunks_numbers() -> None:
    ax: Any = ao.plots.timeline(record())
    on_host = [t for t in ax.texts if t.get_position()[1] == 2 and t.get_text().isdigit()]
    assert [(t.get_text(), t.get_position()[0]) for t in on_host] == [
        ("0", 3), ("1", 7), ("2", 11), ("3", 15)
    ]  # fmt: skip


def test_numbers_that_do_not_fit_are_left_out() -> None:
    ax: Any = ao.plots.timeline(record(200))
    assert len(bars(ax, "host")) == len(bars(ax, "d2h")) == 200
    assert not [text for text in texts(ax) if text.isdigit()]
    assert "200 chunks" in " ".join(texts(ax))


def test_edges_never_hide_a_bar() -> None:
    ax: Any = ao.plots.timeline(record(200))
    width = ax.bbox.width / ax.figure.dpi * 72
    for collection in ax.collections:
        paths = [corners(path)[:, 0] for path in collection.get_paths()]
        if collection.get_label() != "wait" and paths:
            narrow = min(float(np.ptp(x)) for x in paths) / ax.get_xlim()[1] * width
            own = np.array_equal(collection.get_edgecolor(), collection.get_facecolor())
            assert own or collection.get_linewidth()[0] < narrow / 2


def test_a_bar_that_is_thinner_than_a_pixel_can_be_seen() -> None:
    # 24 chunks of 40 s: an update is added in 1/4 s, two thirds of a pixel, or less
    ax: Any = ao.plots.timeline(record(chunks=24, host_s=40.0))
    figure = ax.figure
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())
    y = ax.transData.transform((0, LANES["device"]))[1]
    left, right = (round(ax.transData.transform((t, 0))[0]) for t in ax.get_xlim())
    row = image[round(figure.bbox.height - y), left : right + 2].astype(int)
    blue = row[:, 2] - row[:, 0] > 40
    # the last one stands on the border, which may cut it off
    assert np.count_nonzero(np.diff(blue.astype(int)) == 1) >= 23


def test_shares_and_the_bottleneck_are_said() -> None:
    ax: Any = ao.plots.timeline(record())
    shares = {t.get_position()[1]: t for t in ax.texts if t.get_text().endswith("busy")}
    expected = {"device": 1 / 18.25, "d2h": 4 / 18.25, "host": 16 / 18.25, "h2d": 4 / 18.25}
    for lane, y in LANES.items():
        assert shares[y].get_text() == f"{expected[lane]:.0%} busy"
        assert (shares[y].get_fontweight() == "bold") == (lane == "host")
    assert ax.get_title("left") == "Step 1: 18.2 s, host is the bottleneck"
    assert "in sequence, 25 s" in " ".join(texts(ax))


def test_the_link_can_be_the_bottleneck_and_the_host_waits_for_it() -> None:
    ax: Any = ao.plots.timeline(record(host_s=0.5))
    assert "d2h is the bottleneck" in ax.get_title("left")
    assert sum(stop - start for start, stop in waits(ax)) > 2
    bold = [t.get_position()[1] for t in ax.texts if t.get_fontweight() == "bold"]
    assert bold == [LANES["d2h"]]


def test_one_chunk_overlaps_with_nothing() -> None:
    ax: Any = ao.plots.timeline(record(1))
    assert ax.get_title("left").endswith("nothing overlaps")
    assert bars(ax, "host") == [(1, 5)]
    assert "1 chunk" in " ".join(texts(ax))
    assert not [t for t in ax.texts if t.get_fontweight() == "bold"]


def test_preparing_is_drawn_paler_than_applying_and_named() -> None:
    ax: Any = ao.plots.timeline(record(decay=0.1))
    alphas = {c.get_alpha() for c in ax.collections if c.get_label() != "wait"}
    assert len(alphas) == 2
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "prepares gradients", "waits for gradients"
    ]  # fmt: skip


def test_simulated_time_is_called_simulated_and_other_time_is_not() -> None:
    ax: Any = ao.plots.timeline(record())
    assert ax.get_xlabel() == "simulated time in the step"
    assert "simulated time" in " ".join(texts(ax))
    device = ao.get_backend("numpy")
    ledger = ao.Ledger()
    opt = ao.AdamOffload(
        [ao.Parameter(device.asarray(np.zeros(9, np.float32)), "w")], ledger=ledger
    )
    opt([device.asarray(np.ones(9, np.float32))])
    ax = ao.plots.timeline(ledger)
    assert "simulated" not in ax.get_xlabel() + ax.get_title("left") + " ".join(texts(ax))


def test_each_step_begins_at_zero_and_the_last_is_the_default() -> None:
    ledger = record(steps=3)
    for step, ax in ((2, ao.plots.timeline(ledger, 2)), (3, ao.plots.timeline(ledger))):
        assert ax.get_title("left").startswith(f"Step {step}:")
        assert bars(ax, "host")[0][0] == pytest.approx(1)


@pytest.mark.parametrize(
    ("ledger", "step", "message"),
    [
        (ao.Ledger(), None, r"the ledger has recorded no step; pass it to AdamOffload"),
        (record(1, steps=2), 3, r"no hops of step 3; it has steps 1 to 2"),
    ],
)
def test_a_step_that_is_not_there_is_refused(ledger: Any, step: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ao.plots.timeline(ledger, step)


def test_what_a_lane_does_is_what_the_strategy_declares() -> None:
    said = {}
    for name in ("adam-offload", "zero-offload", "state-shuttle"):
        ledger, device = ao.Ledger(), ao.get_backend("sim")
        w = ao.Parameter(device.asarray(np.zeros(100, np.float32)), "w")
        opt = ao.Optimizer([w], ao.rules.AdamW(), strategy=name, ledger=ledger)
        opt([device.asarray(np.ones(100, np.float32))])
        ax: Any = ao.plots.timeline(ledger)
        said[name] = [text.get_text().replace("\n", ": ") for text in ax.get_yticklabels()]
    assert said == {
        "adam-offload": ["device: adds updates", "d2h: gradients", "host: AdamW", "h2d: updates"],
        "zero-offload": ["device: takes weights", "d2h: gradients", "host: AdamW", "h2d: weights"],
        "state-shuttle": ["device: AdamW", "d2h: m, v", "host", "h2d: m, v"],
    }


def test_the_disk_has_lanes_where_it_is_used() -> None:
    ledger = ao.Ledger()
    ticket = ao.Event("read", 1, 0, 1, 4, 0.0, 2.0)
    ledger.at(1, 0)("read", 1, 4, ticket)
    ax: Any = ao.plots.timeline(ledger)
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels == ["device", "d2h", "host", "h2d", "read"]
    assert "100% busy" in texts(ax)
