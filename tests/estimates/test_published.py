"""The published measurements: complete, with machine, inputs and source."""

from __future__ import annotations

import pytest

from adamoffload.estimates.published import rows, sites


def test_no_row_is_dropped() -> None:
    found = rows()
    assert len(found) == 113
    assert len({row.name for row in found}) == len(found)
    by_figure = {"table 4": 15, "figure 8": 10, "figure 9": 8, "figure 14": 26, "figure 10": 5}
    for figure, count in by_figure.items():
        assert sum(row.name.startswith(figure) for row in found) == count


def test_every_row_has_a_machine_and_a_source() -> None:
    for row in rows():
        assert row.machine in sites()
        assert row.published > 0
        assert row.source
    assert {site.group for site in sites().values()} <= set(sites())


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("table 4, CPU-Adam 4B", 1.03),
        ("figure 8, 1B", 117),
        ("figure 14, ZeRO-Offload, micro-batch 1", 0.512),
        ("figure 10, 16 cards, 13B", 98.8),
        ("torchao #7, Llama-2-7B, 1e4 tokens", 3.12),
    ],
)
def test_what_is_published_in_another_unit_becomes_seconds(name: str, seconds: float) -> None:
    row = next(row for row in rows() if row.name == name)
    assert row.seconds == pytest.approx(seconds, rel=0.005)


def test_at_most_two_constants_are_fitted_on_a_machine_and_one_for_unfused_updates() -> None:
    fitted: dict[str, list[str]] = {}
    for row in rows():
        if row.fits:
            fitted.setdefault(row.machine, []).append(row.fits)
    for constants in fitted.values():
        assert len(set(constants)) == len(constants)
        assert len(set(constants) - {"unfused"}) <= 2
