"""Where state lives: flat arrays at their homes, and views of each parameter's part."""

from __future__ import annotations

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.observe.ledger import ignore
from adamoffload.offload.arena import Arena

SHAPES = {"a": (2, 3), "b": (), "c": (4,)}


def make(*kept: tuple[str, str], memory_bytes: int | None = None) -> tuple[ao.Backend, Arena]:
    device = ao.get_backend("numpy", memory_bytes=memory_bytes)
    rng = np.random.default_rng(0)
    parameters = [
        ao.Parameter(device.asarray(rng.standard_normal(shape, np.float32)), name)
        for name, shape in SHAPES.items()
    ]
    things = [(thing, home, "float32") for thing, home in kept]
    return device, Arena(device, parameters, [2, 0], things, pinned=False, record=ignore)  # type: ignore[arg-type]


def test_views_have_the_shapes_and_share_the_arrays_memory() -> None:
    _, arena = make(("m", "host"))
    assert arena.size == 10
    views = arena.views("m")
    assert [(name, view.shape) for name, view in views.items()] == [("c", (4,)), ("a", (2, 3))]
    views["a"][1, 2] = 7
    assert arena.arrays["m"].tolist() == [0] * 9 + [7]


@pytest.mark.parametrize("home", ["host", "device"])
def test_a_master_begins_as_the_parameters(home: str) -> None:
    device, arena = make(("master", "host"))
    for name, view in arena.views("master").items():
        (own,) = [p for p in arena._parameters if p.name == name]
        np.testing.assert_array_equal(view, device.asnumpy(own.data))


def test_what_does_not_fit_on_the_device_is_named() -> None:
    with pytest.raises(ao.DeviceMemoryError) as caught:
        make(("m", "device"), ("v", "device"), memory_bytes=4 * 11 + 40)
    assert caught.value.__notes__ == ["v of 10 parameters"]
