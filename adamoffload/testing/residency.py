"""Whose an array is, and that nothing crosses the link unasked."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

from adamoffload.device.backend import Backend, ResidencyError, backend_of
from adamoffload.device.registry import get_backend
from adamoffload.testing.promises import (
    NewDevice,
    Promises,
    refused,
    same,
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
        for theirs in (np.zeros(3), np.float32(1), 1.0, elsewhere):
            assert not device.owns(theirs), f"owns() claims a {type(theirs).__name__}"

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
        with refused(TypeError, "np.asarray copied a device array to the host implicitly"):
            np.asarray(x)
        with refused(TypeError, "an assignment copied a device array to the host implicitly"):
            host[...] = x

    def test_host_and_device_operands_do_not_mix(self, new_device: NewDevice) -> None:
        """An operation with one operand on either side copies neither."""
        device, host = new_device(), np.ones(3, np.float32)
        x = device.asarray(host)
        mixtures: dict[str, Callable[[], object]] = {
            "device + host": lambda: x + host,
            "host + device": lambda: host + x,
            "np.add(device, device, out=host)": lambda: np.add(x, x, out=host),
            "np.add(host, host, out=device)": lambda: np.add(host, host, out=x),
        }
        for what, mixed in mixtures.items():
            with refused(TypeError, f"{what} was computed with an implicit copy"):
                mixed()

    def test_results_stay_on_the_device(self, new_device: NewDevice) -> None:
        """``np.*`` runs where its operands are; small whole numbers make every result exact."""
        device = new_device()
        host = np.arange(12, dtype=np.float32).reshape(3, 4)
        x = device.asarray(host)
        for what, compute in _EXPRESSIONS.items():
            result, expected = compute(x), compute(host)
            assert device.owns(result), f"the result of {what} left the device"
            same(device.asnumpy(result), np.asarray(expected), f"{what} differs")
        for what, write in _IN_PLACE.items():
            y, expected = device.asarray(host), host.copy()
            write(y, x)
            write(expected, host)
            same(device.asnumpy(y), expected, f"{what} differs")


class _Hostile:
    """An object that answers no question."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("mind your own business")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("beyond compare")

    __hash__ = None  # type: ignore[assignment]


_EXPRESSIONS: dict[str, Callable[[Any], Any]] = {
    "arithmetic": lambda x: 2 * x - np.square(x) + x * x / 2,
    "np.sqrt": lambda x: np.sqrt(x * x),
    "np.maximum and abs": lambda x: np.maximum(x, 3) - abs(-x),
    "a matrix product": lambda x: x @ x.T,
    "np.sum to one number": lambda x: np.sum(x),
    "np.sum along an axis": lambda x: np.sum(x, axis=0, keepdims=True) + x,
    "np.mean": lambda x: np.mean(x, axis=1),
    "np.max": lambda x: np.max(x, axis=1),
    "np.min and np.max to one element": lambda x: (
        np.min(x, keepdims=True) - np.max(x, keepdims=True)
    ),
    "np.where": lambda x: np.where(x > 4, x, 0),
    "np.concatenate": lambda x: np.concatenate([x, x[1:]]),
    "np.reshape": lambda x: np.reshape(x, (2, 6)),
    "a reversed view": lambda x: x.reshape(-1)[::-1],
    "np.transpose and copy": lambda x: np.transpose(x).copy(),
    "np.zeros_like and astype": lambda x: np.zeros_like(x) + x.astype(np.float64),
}

_IN_PLACE: dict[str, Callable[[Any, Any], Any]] = {
    "np.add(..., out=)": lambda y, x: np.add(x, x, out=y),
    "np.multiply(..., out=) into a view": lambda y, x: np.multiply(x[1], 3, out=y[0]),
    "np.copyto": lambda y, x: np.copyto(y[1:], 2 * x[:2]),
    "np.concatenate(..., out=)": lambda y, x: np.concatenate([x[2], x[1], x[0]], out=y.reshape(-1)),
    "y += x": operator.iadd,
    "y[...] = x": lambda y, x: operator.setitem(y, np.s_[1:], x[:2]),
}
