"""What a contestant's text says, and what is refused."""

from __future__ import annotations

import pytest

from adamoffload.playground.descent import OPTIMIZERS, Contestant
from adamoffload.playground.trajectory import run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adam:beta3=0.9", "adam has no setting 'beta3'; did you mean 'beta2'"),
        ("sgd:beta1=0.9", r"sgd has no setting 'beta1'\. There are: lr"),
        ("adam:beta1=1", r"beta1 must be in \(0, 1\), such as beta1=0.9, got '1'"),
        ("adam:beta2=0.99999999999", r"beta2 must be in \(0, 1\)"),
        ("adam:beta1=nan", "got 'nan'"),
        ("adam:beta1", "beta1 must be in"),
        ("adam:eps=0", "eps must be a number > 0"),
        ("adam:eps=1e-60", "eps must be a number > 0"),
        ("adam:lr=1e60", "lr must be a number >= 0"),
        ("adam:lr=", "lr must be a number >= 0, or 'best', got ''"),
        ("", "no optimizer is called ''"),
    ],
)
def test_bad_settings(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Contestant.parse(text)


def test_a_setting_of_its_own_goes_before_the_shared_rate() -> None:
    assert Contestant.parse("adam:lr=0.5", 0.1).options["lr"] == 0.5
    assert Contestant.parse(" adam ", 0.1).options["lr"] == 0.1
    assert "lr" not in Contestant.parse("adam:lr=best", 0.1).options


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends(name: str) -> None:
    (one,) = run("booth", [name], lr=0.02, steps=100)
    assert one.excess[-1] < one.excess[0] / 2
