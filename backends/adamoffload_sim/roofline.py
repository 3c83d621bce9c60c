"""What an operation costs: the bytes it moves in the device's memory, and its arithmetic.

Every operand is read once and every result written once, as by a kernel of its own. An elementwise
operation counts one FLOP an element, a reduction one for each element that goes in, a product of
matrices two for each multiplication and addition. What NumPy calls a view costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from adamoffload.device.array import DeviceArray

__all__ = ["Cost", "arrays_in", "cost"]


class Cost(NamedTuple):
    """Bytes that an operation moves in the device's memory, and its FLOPs."""

    nbytes: int
    flops: int


def arrays_in(value: Any) -> Iterator[DeviceArray]:
    """Yield the device arrays in an argument or a result."""
    if isinstance(value, DeviceArray):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from arrays_in(item)


def cost(name: str, operands: list[DeviceArray], labels: str, made: list[DeviceArray]) -> Cost:
    """Return the bytes and the FLOPs of one operation.

    Parameters
    ----------
    name : str
        NumPy's name of it.
    operands : list of DeviceArray
        What it read; one that stands there twice is read once.
    labels : str
        The subscripts of an ``einsum``; empty for anything else.
    made : list of DeviceArray
        What it made or wrote.
    """
    distinct = {id(array): array for array in operands}.values()
    nbytes = sum(map(_bytes, distinct)) + sum(map(_bytes, made))
    elements = max((array.size for array in (*distinct, *made)), default=0)
    return Cost(nbytes, max(_product(name, operands, labels, made), elements))


def _bytes(array: DeviceArray) -> int:
    """Return the bytes behind an array: a broadcast one has fewer than its elements say."""
    repeated = math.prod(
        n for n, stride in zip(array.shape, array.strides, strict=True) if stride == 0 and n
    )
    return array.nbytes // repeated


def _product(name: str, operands: list[DeviceArray], labels: str, made: list[DeviceArray]) -> int:
    """Return the FLOPs of a product of matrices; 0 for anything else."""
    if name == "einsum":
        return _einsum(labels, operands)
    if name not in _CONTRACTIONS or len(operands) < 2 or not made:
        return 0
    a, b = operands[:2]
    size = made[0].size
    if name == "vdot":
        length = a.size
    elif name == "tensordot":  # a.size * b.size = size * length**2
        length = math.isqrt(a.size * b.size // size) if size else 0
    else:
        length = a.shape[-1] if a.ndim else 1
    return 2 * size * length


def _einsum(labels: str, operands: list[DeviceArray]) -> int:
    """Return two FLOPs for each combination of all the indices, as if it were one loop nest."""
    lengths: dict[str, int] = {}
    terms = labels.split("->")[0].replace(" ", "").split(",")
    for term, array in zip(terms, operands, strict=False):
        head, _, tail = term.partition("...")
        lengths.update(zip(head, array.shape, strict=False))
        lengths.update(zip(reversed(tail), reversed(array.shape), strict=False))
        if "..." in term:
            rest = math.prod(array.shape[len(head) : array.ndim - len(tail)])
            lengths["..."] = max(rest, lengths.get("...", 1))
    return 2 * math.prod(lengths.values())


_CONTRACTIONS = frozenset(["matmul", "dot", "inner", "vdot", "tensordot", "vecdot", "matvec"])
