"""What the figures of moments and step sizes show, against Adam in float64."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from matplotlib.collections import PolyCollection

import adamoffload as ao

from recordings import Run, corners, train

SIZES = {"a": 41, "b": 21, "c": 61}  # quantiles of 20 k + 1 numbers are among them
CLOSE = 2e-4  # float32 against float64, and six steps of rounding


@pytest.fixture(scope="module")
def run() -> Run:
    return train(SIZES, learning_rate=ao.CosineDecayLR(0.0, 0.01, 10))


def drawn(ax: Any, label: str) -> np.ndarray[Any, Any]:
    (line,) = [line for line in ax.lines if line.get_label() == label]
    return np.asarray(line.get_xydata())


def legend(ax: Any) -> list[str]:
    found = ax.get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


def notes(ax: Any) -> str:
    return " ".join(text.get_text() for text in ax.texts).replace("\n", " ")


def band(ax: Any, i: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the lower and upper edge of the i-th band, step by step."""
    bands = [c for c in ax.collections if isinstance(c, PolyCollection)]
    outline = corners(bands[i].get_paths()[0])
    at = [outline[outline[:, 0] == step, 1] for step in np.unique(outline[:, 0])]
    return np.array([y.min() for y in at]), np.array([y.max() for y in at])


def rms(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(np.sqrt(np.mean(values**2, axis=1)))


def test_moments_of_several_are_root_mean_squares_over_the_steps(run: Run) -> None:
    ax: Any = ao.plots.moments(run.probe)
    for name in SIZES:
        m, root_v = drawn(ax, f"m of {name}"), drawn(ax, f"√v of {name}")
        np.testing.assert_array_equal(m[:, 0], np.arange(1, 7))
        np.testing.assert_allclose(m[:, 1], rms(run.m[name]), rtol=CLOSE)
        np.testing.assert_allclose(root_v[:, 1], rms(np.sqrt(run.v[name])), rtol=CLOSE)
    assert ax.get_yscale() == "log"


@pytest.mark.parametrize(("i", "low", "high"), [(0, 0.05, 0.95), (1, 0.25, 0.75)])
def test_moments_of_one_are_its_median_and_bands_of_its_quantiles(
    run: Run, i: int, low: float, high: float
) -> None:
    ax: Any = ao.plots.moments(run.probe, "a")
    for first, label, values in ((0, "m", run.m["a"]), (2, "√v", np.sqrt(run.v["a"]))):
        np.testing.assert_allclose(
            drawn(ax, label)[:, 1], np.median(values, axis=1), rtol=1e-3, atol=1e-7
        )
        for edge, level in zip(band(ax, first + i), (low, high), strict=True):
            expected = np.quantile(values, level, axis=1)
            np.testing.assert_allclose(edge, expected, rtol=1e-3, atol=1e-7)


def test_step_sizes_are_medians_beside_the_learning_rate(run: Run) -> None:
    ax: Any = ao.plots.step_sizes(run.probe)
    for name in SIZES:
        expected = np.median(np.abs(run.delta[name]), axis=1)
        np.testing.assert_allclose(drawn(ax, name)[:, 1], expected, rtol=CLOSE)
    cosine = 0.005 * (1 + np.cos(np.pi * np.arange(6) / 10))
    np.testing.assert_allclose(drawn(ax, "learning rate")[:, 1], cosine, rtol=1e-6)


def test_the_first_step_is_marked_as_large_as_the_learning_rate(run: Run) -> None:
    ax: Any = ao.plots.step_sizes(run.probe, "b")
    assert ax.get_title("left") == "Step sizes: the first equals lr"
    np.testing.assert_allclose(drawn(ax, "first step"), [[1, 0.01]], rtol=1e-6)


def test_a_first_step_of_another_size_is_not_marked() -> None:
    ax: Any = ao.plots.step_sizes(train({"w": 5}, steps=2, eps=1.0).probe)
    assert ax.get_title("left") == "Step sizes"
    assert not [line for line in ax.lines if line.get_label() == "first step"]


def test_effective_rates_are_those_of_the_rule(run: Run) -> None:
    ax: Any = ao.plots.step_sizes(run.probe, "a", show="rate")
    np.testing.assert_allclose(drawn(ax, "a")[:, 1], np.median(run.rate["a"], axis=1), rtol=CLOSE)
    low, high = band(ax, 0)
    np.testing.assert_allclose(low, np.quantile(run.rate["a"], 0.05, axis=1), rtol=CLOSE)
    np.testing.assert_allclose(high, np.quantile(run.rate["a"], 0.95, axis=1), rtol=CLOSE)


def test_the_update_ratio_is_that_of_the_norms(run: Run) -> None:
    ax: Any = ao.plots.step_sizes(run.probe, show="update_ratio")
    for name, size in SIZES.items():
        before = 1 + np.cumsum(run.delta[name], axis=0) - run.delta[name]
        expected = np.linalg.norm(run.delta[name], axis=1) / np.linalg.norm(before, axis=1)
        assert before.shape == (6, size)
        np.testing.assert_allclose(drawn(ax, name)[:, 1], expected, rtol=CLOSE)


def test_of_many_parameters_the_largest_are_shown_and_the_figure_says_so() -> None:
    probe = train({f"w{i}": i + 1 for i in range(20)}, steps=2).probe
    for ax in (ao.plots.moments(probe), ao.plots.step_sizes(probe, show="rate")):
        assert legend(ax) == ["w19", "w18", "w17", "w16", "w15"]
        assert "the 5 largest of 20 parameters" in notes(ax)


def test_ten_thousand_parameters_are_summarised() -> None:
    class Many(ao.Probe):
        steps = np.array([1])
        names = tuple(f"w{i}" for i in range(10_000))
        sizes = dict.fromkeys(names, 1)
        slots, quantities = ("m", "v"), ("m", "v", "sqrt_v")

        def rms(self, quantity: str, name: str) -> np.ndarray[Any, Any]:
            return np.ones(1)

    ax: Any = ao.plots.moments(Many())
    assert len(ax.lines) == 10
    assert "the 5 largest of 10,000 parameters" in notes(ax)


def test_named_parameters_are_shown_in_that_order(run: Run) -> None:
    assert legend(ao.plots.moments(run.probe, ["c", "a"])) == ["c", "a"]


def test_what_is_not_finite_is_a_gap_with_a_cross_and_a_note() -> None:
    gradients = np.ones((5, 4))
    gradients[3, 2] = np.nan
    probe = train({"w": 4, "ok": 4}, steps=5, gradients={"w": gradients}).probe
    ax: Any = ao.plots.moments(probe)
    values = drawn(ax, "m of w")[:, 1]
    np.testing.assert_array_equal(np.isnan(values), [False, False, False, True, True])
    np.testing.assert_array_equal(drawn(ax, "not finite")[:, 0], [4, 5])
    assert "4 samples hold NaN or infinities" in notes(ax)  # of m and of sqrt(v)


def test_a_single_step_is_shown_by_markers_and_upright_bands() -> None:
    run = train({"w": 21}, steps=1)
    ax: Any = ao.plots.step_sizes(run.probe)
    (line,) = [line for line in ax.lines if line.get_label() == "w"]
    assert line.get_marker() not in ("None", "")
    assert line.get_markevery() == [0]
    spans = [c.get_segments()[0][:, 1] for c in ax.collections if hasattr(c, "get_segments")]
    expected = np.quantile(np.abs(run.delta["w"]), [0.05, 0.95])
    np.testing.assert_allclose(spans[0], expected, rtol=CLOSE)
    assert ax.get_xlim() == (0, 2)


def test_a_sample_between_gaps_has_a_marker_since_no_line_shows_it() -> None:
    class Gappy(ao.Probe):
        steps = np.arange(1, 7)
        names = ("a", "b")
        sizes: ClassVar = {"a": 1, "b": 1}
        slots, quantities = ("m", "v"), ("m", "v", "sqrt_v")

        def rms(self, quantity: str, name: str) -> np.ndarray[Any, Any]:
            return np.array([1, np.nan, 2, np.inf, 3, 4])

    ax: Any = ao.plots.moments(Gappy())
    lines = {line.get_label(): line for line in ax.lines}
    assert lines["√v of a"].get_markevery() == [0, 2]
    assert {0, 2} <= set(lines["m of b"].get_markevery())


def test_zeros_are_named_since_a_logarithmic_axis_cannot_show_them() -> None:
    run = train({"w": 4, "dead": 4}, steps=3, gradients={"dead": np.zeros((3, 4))})
    ax: Any = ao.plots.step_sizes(run.probe)
    assert legend(ax)[:2] == ["w", "dead (all 0)"]
    only = ao.plots.moments(run.probe, ["dead", "dead"])
    assert only.get_yscale() == "linear"
    assert only.get_ylim() == (0, 1)


def test_a_constant_series_has_a_decade_around_it() -> None:
    ax: Any = ao.plots.step_sizes(train({"w": 4}, 3, gradients={"w": np.ones((3, 4))}).probe)
    low, high = ax.get_ylim()
    assert low < 0.01 < high
    assert high / low == pytest.approx(10)


@pytest.mark.parametrize("draw", [ao.plots.moments, ao.plots.step_sizes])
def test_nothing_sampled_says_what_to_do(draw: Any) -> None:
    with pytest.raises(ValueError, match=r"the probe has sampled nothing; pass it to AdamOffload"):
        draw(ao.Probe())


def test_unknown_names_and_views_are_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="'z'"):
        ao.plots.moments(run.probe, "z")
    with pytest.raises(ValueError, match="1 to 7 names"):
        ao.plots.moments(run.probe, ["a"] * 8)
    with pytest.raises(ValueError, match="1 to 7 names"):
        ao.plots.step_sizes(run.probe, [])
    with pytest.raises(ValueError, match="show must be one of step_size, rate, update_ratio"):
        ao.plots.step_sizes(run.probe, show="speed")  # type: ignore[arg-type]


def test_names_are_no_mathematics_and_not_left_out_of_the_legend() -> None:
    names = ["a$b$", "_hidden", "é" * 60, "tab\tnew\nline"]
    ax: Any = ao.plots.moments(train(dict.fromkeys(names, 3), steps=2).probe)
    assert legend(ax) == [r"a\$b\$", " _hidden", "é" * 10 + "…" + "é" * 9, r"tab\tnew\nline"]
    ax.figure.canvas.draw()  # warnings are errors
