"""Programs: what they make of a machine."""

from __future__ import annotations

import adamoffload as ao
from adamoffload.estimates.software import SOFTWARE, Software, software_of


def test_a_program_is_named_after_a_strategy_that_there_is() -> None:
    assert set(SOFTWARE) <= set(ao.strategies)
    assert all(len(software.source) > 10 for software in SOFTWARE.values())


def test_any_other_strategy_is_carried_out_by_this_package() -> None:
    assert software_of("state-shuttle") == software_of("of my own") == Software()


def test_deepspeed_takes_its_half_second_per_billion() -> None:
    software = software_of("deepspeed-zero2")
    assert software.host_rate is not None
    assert round(software.host_bytes * 1e9 / software.host_rate.typical, 2) == 0.55
