"""What may be claimed of the estimates: error factors beside published measurements."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from adamoffload.estimates.published import rows
from adamoffload.estimates.validation import (
    ROUNDS,
    Compared,
    constants,
    error,
    mean,
    score,
    validate,
)


def compared() -> tuple[Compared, ...]:
    return validate()


def those(wanted: Callable[[Compared], bool]) -> list[Compared]:
    return [each for each in compared() if wanted(each)]


def steps() -> list[Compared]:
    return those(lambda each: each.row.step)


def sensitive() -> list[Compared]:
    return those(lambda each: each.sensitive)


def test_steps_are_within_1_5_once_fitted_and_with_their_machine_left_out() -> None:
    assert score(steps(), "fitted")[0] <= 1.3
    assert score(steps(), "left out")[0] <= 1.3
    assert len(steps()) >= 80


def test_so_are_those_that_offload_changes_and_well_under_the_null_model() -> None:
    for round_ in ("fitted", "left out"):
        assert score(sensitive(), round_)[0] <= 1.4
    assert score(sensitive(), "null")[0] >= 2.5
    others = [each for each in sensitive() if each.row.machine != "Z"]
    assert len(others) >= 20
    assert score(others, "fitted")[0] <= 1.4


def test_table_4_is_within_1_2_fitted_on_one_row_for_each_optimizer() -> None:
    table = those(lambda each: each.row.name.startswith("table 4") and "GPU" not in each.row.name)
    factor, worst, count = score(table, "fitted")
    assert count == 8
    assert factor <= 1.1
    assert worst <= 1.2
    fused = [each for each in table if "CPU-Adam" in each.row.name]
    assert score(fused, "left out")[0] <= 1.2


def test_four_of_five_steps_are_within_1_5_and_most_within_2() -> None:
    for round_ in ("fitted", "left out"):
        factors = [f for each in steps() if (f := each.factor(round_)) is not None]
        assert np.quantile(factors, 0.8) <= 1.55
        assert np.quantile(factors, 0.95) <= 2.0


def test_data_sheets_alone_are_off_by_1_7() -> None:
    """They would not do: that is the finding, and why programs have constants of their own."""
    assert 1.6 <= score(steps(), "sheet")[0] <= 1.8


def test_what_is_off_by_more_than_2_5_has_its_reason() -> None:
    for each in compared():
        for round_ in ROUNDS:
            factor = each.factor(round_)
            if factor is not None and factor > 2.5:
                assert each.row.reason, (each.row.name, round_, factor)


def test_a_row_that_a_constant_is_fitted_on_is_no_prediction() -> None:
    for each in compared():
        assert (each.estimates["fitted"] is None) == bool(each.row.fits)
        assert (each.estimates["left out"] is None) == (each.row.fits == "base")


@pytest.mark.parametrize(
    ("machine", "name", "value"),
    [
        ("Z", "efficiency", 0.297),
        ("Z", "host", 109e9),
        ("Z", "unfused", 56e9),
        ("D", "efficiency", 0.496),
        ("A", "deepspeed", 78e9),
        ("H", "deepspeed", 76.5e9),
        ("P", "host", 243e9),
        ("N", "torch", 21.7e9),
        ("R", "torch", 29.9e9),
        ("X", "torch", 21.3e9),
    ],
)
def test_fits_are_those_that_were_made_by_hand(machine: str, name: str, value: float) -> None:
    assert getattr(constants(machine, "fitted"), name) == pytest.approx(value, rel=0.015)


def test_a_machine_left_out_has_nothing_of_its_own() -> None:
    left = constants("Z", "left out")
    assert left.efficiency != constants("Z", "fitted").efficiency
    # two sockets: the share of nominal that prime-rl's node reaches
    assert left.host == pytest.approx(243 / 614 * 256e9, rel=0.01)
    assert constants("D", "left out").host == 0.7 * 51.2e9


def test_error_factors() -> None:
    assert error(2, 1) == error(1, 2) == 2
    assert mean([2, 8, None]) == pytest.approx(4)
    assert len(compared()) == len(rows())
