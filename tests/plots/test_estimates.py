"""Figures of estimates show the numbers of the estimates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

import adamoffload as ao
from adamoffload.estimates.search import best_fraction
from adamoffload.estimates.validation import Compared, Round, validate


@pytest.fixture(scope="module")
def compared() -> tuple[Compared, ...]:
    return validate()


@pytest.fixture(autouse=True)
def closing() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.mark.parametrize("name", ["sheet", "fitted", "left out"])
def test_every_row_that_is_no_fit_is_a_point(name: Round, compared: tuple[Compared, ...]) -> None:
    ax: Any = ao.plots.validation(compared, name)
    drawn = [line for line in ax.lines if line.get_label() in LABELS]
    x = np.concatenate([line.get_xdata() for line in drawn])
    y = np.concatenate([line.get_ydata() for line in drawn])
    rows = [each for each in compared if each.estimates[name] is not None]
    assert sorted(zip(x, y, strict=True)) == sorted(
        (each.row.seconds, each.estimates[name]) for each in rows
    )
    inside = (y > ax.get_ylim()[0]) & (y < ax.get_ylim()[1])
    assert inside.all()


LABELS = ("parts of steps", "steps it hardly changes", "steps that offload changes")


@pytest.mark.parametrize("strategy", ["zero-offload", "disk", "resident"])
def test_a_training_step_is_drawn_bar_by_bar(strategy: str) -> None:
    found = ao.estimate(1e8, strategy=strategy, machine="rtx4090", chunk_bytes=64 << 20)
    ax: Any = ao.plots.training_step(found)
    spans = sorted(
        (path.vertices[:, 0].min(), path.vertices[:, 0].max())
        for bars in ax.collections
        for path in bars.get_paths()
    )
    bars = found.simulated.bars
    expected = sorted(
        (b.start_s, b.stop_s) for b in bars if b.what != "wait" and b.stop_s > b.start_s
    )
    np.testing.assert_allclose(spans, expected)
    assert ax.get_xlim() == (0, found.step_s)


def test_an_unknown_round_is_refused(compared: tuple[Compared, ...]) -> None:
    with pytest.raises(ValueError, match="which must be"):
        ao.plots.validation(compared, "null")


def test_the_fraction_that_is_fastest_is_marked() -> None:
    asked = ao.estimate("gpt2-xl", strategy="zero-offload", machine="rtx4090").question
    found = best_fraction(asked)
    ax: Any = ao.plots.fractions(found)
    steps, point = ax.lines
    np.testing.assert_array_equal(steps.get_ydata(), [each.step_s for each in found.tried])
    assert point.get_xdata()[0] == found.fastest.question.strategy.fraction
    memory = ax.figure.axes[1].lines[0]
    assert memory.get_ydata()[-1] == found.tried[-1].memory["device"] / 1e9
    with pytest.raises(TypeError, match="found must be"):
        ao.plots.fractions(asked)  # type: ignore[arg-type]
