"""Whose an array is, and that nothing crosses the link unasked."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from adamoffload.device.backend import Array, Backend, ResidencyError, backend_of
from adamoffload.device.parameter import Parameter
from adamoffload.device.registry import get_backend
from adamoffload.testing.promises import (
    NewDevice,
    Promises,
    refused,
    together,
)


class Residency(Promises):
    """Arrays are owned by one device, and nothing is copied or mixed implicitly."""

    def test_owns_its_arrays_and_nothing_else(self, new_device: NewDevice) -> None:
        """Arrays, views and results are the device's; the host's and other devices' are not."""
        device, elsewhere = new_device(), get_backend("numpy").asarray(np.zeros(3))
        x = device.asarray(np.zeros((2, 3), np.float32))
        for what, mine in (("an array", x), ("a view", x[1]), ("a result", x + 1)):
            assert device.owns(mine), f"owns() denies {what} of the device"
            assert backend_of(mine) is device, f"backend_of() finds no device for {what}"
        around = [x], (x,), {"x": x}, Parameter(x, "w"), SimpleNamespace(device=device, data=x)
        for theirs in (np.zeros(3), np.float32(1), 1.0, elsewhere, *around, type(x), device):
            assert not device.owns(theirs), f"owns() claims a {type(theirs).__name__}"
        together(lambda: self._check_owned(device, x))

    def _check_owned(self, device: Backend, x: Array) -> None:
        assert device.owns(x), "owns() denies an array in another thread"

    def test_owns_answers_for_any_object_at_any_time(self, new_device: NewDevice) -> None:
        """It is asked about whatever a user passes, as soon as ``Backend.__init__`` returned."""
        x = new_device().asarray(np.zeros(3, np.float32))
        strangers = [None, [1], {}, {1}, "x", object(), Backend, _Hostile(), np.zeros(2)]
        strangers += [x] if self.several_devices else []
        faults: list[str] = []

        def ask(device: Backend, when: str) -> None:
            for stranger in strangers:
                kind = type(stranger).__name__
                try:
                    if device.owns(stranger):
                        faults.append(f"owns(){when} claims a {kind}")
                except Exception as error:
                    faults.append(f"owns(){when} raises for a {kind}: {error!r}")

        def begin(device: Backend) -> None:
            begun(device)
            ask(device, " of a device under construction")

        begun = Backend.__init__
        with mock.patch.object(Backend, "__init__", begin):
            device = new_device()
        ask(device, "")
        assert not faults, faults[0]

    def test_a_device_that_runs_is_available(self, new_device: NewDevice) -> None:
        """Its class says so, and has a name to be found by."""
        kind = type(new_device())
        assert kind.unavailable() == "", "unavailable() gives a reason although the device runs"
        assert kind.name, "the backend has no name"

    def test_devices_are_separate(self, new_device: NewDevice) -> None:
        """Each instance is one device, with arrays, memory and counters of its own."""
        if not self.several_devices:
            return
        one, other = new_device(), new_device()
        before = other.memory(), other.traffic()
        x = one.asarray(np.zeros(100, np.float32))
        assert not other.owns(x), "owns() claims an array of another device of the same kind"
        assert (other.memory(), other.traffic()) == before, "devices share their counters"
        with refused(ResidencyError, "asnumpy took an array of another device"):
            other.asnumpy(x)

    def test_arrays_from_elsewhere_are_refused(self, new_device: NewDevice) -> None:
        """No copy takes one side of the link for the other."""
        device, host = new_device(), np.zeros(3)
        x, foreign = device.asarray(host), get_backend("numpy").asarray(host)
        for wrong in (host, foreign):
            with refused(ResidencyError, "d2h took a source that is not on the device"):
                device.d2h(wrong, host)
            with refused(ResidencyError, "h2d took a target that is not on the device"):
                device.h2d(host, wrong)
        for elsewhere in (x, foreign):
            with refused(ResidencyError, "d2h took a target that is not on the host"):
                device.d2h(x, elsewhere)
            with refused(ResidencyError, "h2d took a source that is not on the host"):
                device.h2d(elsewhere, x)

    # -- nothing implicit -----------------------------------------------------------------------

    def test_implicit_conversion_is_refused(self, new_device: NewDevice) -> None:
        """A device array becomes a host array by `asnumpy` only."""
        device, host = new_device(), np.zeros(3, np.float32)
        x = device.asarray(host)
        down: dict[str, Callable[[], object]] = {
            "np.asarray": lambda: np.asarray(x),
            "np.array": lambda: np.array(x, np.float64),
            "np.array of a list": lambda: np.array([x, x]),
            "memoryview": lambda: memoryview(x),
            "an assignment": lambda: host.__setitem__(..., x),
            "np.copyto": lambda: np.copyto(host, x),
        }
        for what, copies in down.items():
            with refused(TypeError, f"{what} copied a device array to the host implicitly"):
                copies()
        up: dict[str, Callable[[], object]] = {
            "an assignment": lambda: x.__setitem__(..., host),
            "np.copyto": lambda: np.copyto(x, host),
        }
        for what, copies in up.items():
            with refused(TypeError, f"{what} copied a host array to the device implicitly"):
                copies()

    def test_host_and_device_operands_do_not_mix(self, new_device: NewDevice) -> None:
        """An operation with one operand on either side copies neither."""
        device, host = new_device(), np.ones(3, np.float32)
        x = device.asarray(host)
        mixtures: dict[str, Callable[[], object]] = {
            "device + host": lambda: x + host,
            "host + device": lambda: host + x,
            "np.add(device, device, out=host)": lambda: np.add(x, x, out=host),
            "np.add(host, host, out=device)": lambda: np.add(host, host, out=x),
            "np.where(device, host, device)": lambda: np.where(x > 0, host, x),
            "np.concatenate([device, host])": lambda: np.concatenate([x, host]),
            "device @ host": lambda: x @ host,
        }
        for what, mixed in mixtures.items():
            with refused(TypeError, f"{what} was computed with an implicit copy"):
                mixed()


class _Hostile:
    """An object that answers no question."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("mind your own business")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("beyond compare")

    __hash__ = None  # type: ignore[assignment]
