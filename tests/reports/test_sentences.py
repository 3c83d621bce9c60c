"""What a report says in sentences, against numbers counted by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.observe.ledger import Holding
from adamoffload.observe.probes import NO_PROBE
from adamoffload.reports.sentences import sentences, typical_step

from hops import Clock, Span, declared_ledger, one_step, trained


@pytest.fixture
def ledger() -> ao.Ledger:
    ledger = declared_ledger()
    for step in (1, 2, 3):
        one_step(ledger, step, at_s=step, host_s=step)
    return ledger


def test_the_typical_step_has_the_median_duration(ledger: ao.Ledger) -> None:
    assert typical_step(ledger).step == 2


def found(ledger: ao.Ledger, word: str) -> str:
    (sentence,) = [text for text in sentences(ledger, NO_PROBE) if word in text]
    return sentence


def test_bytes_as_predicted_are_said_to_be(ledger: ao.Ledger) -> None:
    assert found(ledger, "bytes") == (
        "4,800 bytes crossed the link each way, exactly as predicted: 4 bytes × 400 parameters × 3 "
        "steps."
    )


def test_bytes_that_were_not_predicted_are_said_to_be(ledger: ao.Ledger) -> None:
    ledger.at(3, 0)("h2d", 1, 4, Span(9.0, 9.0))
    text = found(ledger, "predicted")
    assert "4,800 bytes came down and 4,804 went up; predicted were 4,800 d2h and 4,800 h2d" in text


def test_without_a_declaration_nothing_is_predicted() -> None:
    ledger = ao.Ledger()
    one_step(ledger, 1, 0.0)
    assert found(ledger, "bytes") == "1,600 bytes came down and 1,600 went up."


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ("resident", "Nothing crossed the link: all lies on the device, where Adam runs."),
        (
            "zero-offload",
            "4,000 bytes crossed the link each way, exactly as predicted: 4 bytes × 500 parameters "
            "× 2 steps.",
        ),
        (
            "state-shuttle",
            "8,000 bytes crossed the link each way, exactly as predicted: 8 bytes × 500 parameters "
            "× 2 steps.",
        ),
    ],
)
def test_the_prediction_is_the_strategys(strategy: str, said: str) -> None:
    ledger, device = ao.Ledger(), ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.ones(500, np.float32)), "w")
    opt = ao.Optimizer([w], ao.rules.Adam(), strategy=strategy, ledger=ledger)
    for _ in range(2):
        opt([device.asarray(np.ones(500, np.float32))])
    assert sentences(ledger, NO_PROBE)[0] == said


def test_what_moves_beside_the_gradients_is_said() -> None:
    ledger, device = ao.Ledger(), ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.ones(500, np.float32)), "w")
    opt = ao.Optimizer(
        [w], ao.rules.Adam(), strategy="zero-offload", ledger=ledger, on_nonfinite="skip"
    )
    opt([device.asarray(np.ones(500, np.float32))])
    texts = sentences(ledger, NO_PROBE)
    assert "2,000 bytes crossed the link each way, exactly as predicted" in texts[0]
    assert texts[1] == "Looking for NaN and infinities brought down 8 bytes more."
    assert texts[2] == "Outside of the steps, 2,000 bytes came down."  # to make the master


@pytest.mark.parametrize(
    ("busy", "lane", "remedy"),
    [
        ("update", "the host", "The arithmetic on the host limits it"),
        ("d2h", "the link's d2h", "on the way down"),
        ("h2d", "the link's h2d", "on the way up"),
        ("apply", "the device", "The device's own work"),
    ],
)
def test_the_busiest_lane_is_the_bottleneck(busy: Any, lane: str, remedy: str) -> None:
    ledger = ao.Ledger()
    for hop in ("d2h", "update", "h2d", "apply"):
        ledger.at(1, 0)(hop, 1, 0, Span(0.0, 0.01 if hop == busy else 0.001))
    text = found(ledger, "bottleneck")
    assert f"takes 10 ms; {lane} is the bottleneck, busy for 100% of it" in text
    assert remedy in text


def test_lanes_that_take_turns_in_one_chunk_are_explained(ledger: ao.Ledger) -> None:
    assert "With 1 chunk a step, the lanes take turns" in found(ledger, "bottleneck")


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        (None, "at most 300 bytes; the moments, 600 bytes, stayed on the host"),
        (899, "at most 300 bytes of its 899 (33%); the moments, 600 bytes on the host, would not"),
        (900, "600 bytes on the host, would have fitted beside that"),
    ],
)
def test_what_fits_is_said(limit: int | None, says: str) -> None:
    ledger = ao.Ledger()
    ledger.attach(Clock(0, limit))
    kinds = (Holding("device", "parameters", 300), Holding("host", "moments", 600))
    ledger.sample_memory(1, Clock(300, limit), kinds)
    one_step(ledger, 1, 0.0)
    assert says in found(ledger, "device held")


def test_the_first_nan_is_found() -> None:
    probe, _ = trained(math.nan)
    assert "gradient of w, element 0, in step 1." in sentences(ao.Ledger(), probe)[0]


def test_coordinates_that_are_frozen_are_found() -> None:
    probe, _ = trained(3e38)
    texts = sentences(ao.Ledger(), probe)
    assert any("In 1 of 1 parameters some coordinates have an infinite v" in t for t in texts)


def test_what_recorded_nothing_says_nothing() -> None:
    assert sentences(ao.Ledger(), ao.Probe()) == []
