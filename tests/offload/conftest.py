"""What tests of the optimizers share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _nothing_is_collected_in_a_step(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let no interrupt land in what is called when somebody else's garbage goes, and be lost."""
    if "interrupt" not in request.node.name:
        yield
        return
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
