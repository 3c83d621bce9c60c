"""Tables, against numbers counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.observe.ledger import Holding
from adamoffload.reports import summary

from hops import Clock, Span, one_step, trained


@pytest.fixture
def ledger() -> ao.Ledger:
    ledger = ao.Ledger()
    for step in (1, 2, 3):
        one_step(ledger, step, at_s=step, host_s=step)
    return ledger


def cells(table: summary.Table, column: str) -> list[str]:
    i = table.columns.index(column)
    assert all(len(row) == len(table.columns) for row in table.rows)
    return [row[i] for row in table.rows]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1 kB"),
        (1000, "1 kB"),
        (12_345_678, "12.3 MB"),
        (2.5e13, "25 TB"),
        (1e17, "1e+05 TB"),
        (1.5e-6, "1.5 µB"),
        (1e-15, "0.001 pB"),
        (-2000, "-2 kB"),
        (math.nan, "–"),
        (math.inf, "–"),
    ],
)
def test_quantities_have_three_digits_and_a_prefix(value: float, text: str) -> None:
    assert summary.scaled(value, "B") == text


def test_totals_are_summed_by_hop(ledger: ao.Ledger) -> None:
    table = summary.totals(ledger)
    assert cells(table, "hop") == ["prepare", "d2h", "wait", "update", "h2d", "apply"]
    assert cells(table, "times") == ["3"] * 6
    assert cells(table, "bytes") == ["0", "4,800", "0", "0", "4,800", "0"]
    assert cells(table, "time in all") == ["0 s", "3 ms", "6 ms", "6 ms", "3 ms", "0 s"]
    assert cells(table, "rate") == ["–", "1.6 MB/s", "–", "–", "1.6 MB/s", "–"]


def test_bytes_by_parameter_begin_with_the_most(ledger: ao.Ledger) -> None:
    table = summary.bytes_by_parameter(ledger)
    assert table.rows == [
        ("big", "3,600", "3,600", "75.0%"),
        ("small", "1,200", "1,200", "25.0%"),
    ]


def test_of_thousands_of_parameters_the_others_are_summed_up() -> None:
    ledger = ao.Ledger()
    record = ledger.at(1, 0, tuple((f"p{i}", 1) for i in range(1020)))
    record("d2h", 1020, 4080, Span(0, 1))
    table = summary.bytes_by_parameter(ledger)
    assert len(table.rows) == 21
    assert table.rows[-1] == ("and 1,000 more", "4,000", "0", "98.0%")


def test_steps_have_their_times(ledger: ao.Ledger) -> None:
    table = summary.steps(ledger)
    assert cells(table, "step") == ["1", "2", "3"]
    assert cells(table, "begins at") == ["0 s", "1 s", "2 s"]
    assert cells(table, "takes") == ["4 ms", "5 ms", "6 ms"]
    assert cells(table, "host waits") == ["2 ms"] * 3
    assert cells(table, "bytes") == ["3,200"] * 3


def test_of_many_steps_the_first_the_last_and_the_slowest_are_shown() -> None:
    ledger = ao.Ledger()
    slow = {50: 90.0, 60: 80.0}
    for step in range(1, 101):  # slower and slower
        one_step(ledger, step, at_s=step, host_s=slow.get(step, step / 10))
    table = summary.steps(ledger)
    shown = list(map(int, cells(table, "step")))
    assert {*range(1, 6), 50, 60, *range(96, 101)} <= set(shown)
    assert len(shown) <= 20
    assert shown == sorted(shown)
    assert f"{100 - len(shown)} more" in table.note


def test_memory_is_summed_by_place_with_the_limit() -> None:
    ledger = ao.Ledger()
    ledger.attach(Clock(0, 1000))
    kinds = (Holding("device", "parameters", 300), Holding("host", "moments", 600))
    for used in (350, 420, 400):
        ledger.sample_memory(1, Clock(used, 1000), kinds)
    assert sorted(summary.memory(ledger).rows) == sorted(
        [
            ("device", "parameters", "300", "300"),
            ("device", "other", "100", "120"),
            ("device", "in all", "400", "420"),
            ("device", "limit", "1,000", "1,000"),
            ("host", "moments", "600", "600"),
            ("host", "in all", "600", "600"),
        ]
    )


def test_moments_by_parameter_are_those_of_the_last_sample() -> None:
    probe, _ = trained(2.0)
    (row,) = summary.moments_by_parameter(probe).rows
    # after one step m = 0.1 g, v = 0.001 g**2, and the update is the learning rate
    assert row == ("w", "4", "2", "0.2", "0.0632", "0.5", "0.5", "0.0%")


def rows_of(table: summary.Table) -> dict[str, str]:
    return {name: value for name, value in table.rows}  # noqa: C416  (pairs, for mypy)


def test_settings_are_those_given() -> None:
    device = ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.ones(4, np.float32)), "w")
    optimizer = ao.AdamOffload(
        [w],
        [0.5, 0.25],
        0.8,
        0.9,
        1e-6,
        False,
        True,
        lambda step: 0.1,
        8.0,
        threads=3,
        engine="numpy",
    )
    rows = rows_of(summary.settings(optimizer))
    assert rows["optimizer"] == "AdamOffload"
    assert rows["parameters"] == "1, 4 elements"
    assert rows["learning rate"] == "a table of 2: 0.5 to 0.25"
    assert (rows["rule"], rows["strategy"]) == ("Adam", "adam-offload")
    assert (rows["beta1"], rows["beta2"], rows["eps"]) == ("0.8", "0.9", "1e-06")
    assert rows["nesterov"] == "yes"
    assert rows["weight decay"] == "function, called with the step, l2"
    assert rows["loss scale"] == "8"
    assert rows["engine"] == "numpy, 3 threads"
    assert rows["steps done"] == "0"


def test_settings_of_a_resident_adam_have_no_ring() -> None:
    device = ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.ones(4, np.float32)), "w")
    rows = rows_of(summary.settings(ao.Adam([w], ao.WarmUpLR(0.5, 2))))
    assert rows["learning rate"].startswith("WarmUpLR(")
    assert "staging ring" not in rows


def test_versions_tell_nobodys_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import getpass
    import socket

    texts = " ".join(value for _, value in summary.versions().rows)
    assert np.__version__ in texts
    for name in (socket.gethostname(), getpass.getuser()):
        assert name not in texts.split()
