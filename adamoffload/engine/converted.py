"""A kernel whose arrays rest in other formats than float32.

Arithmetic is in float32, whatever rests in 16 or 8 bits: each block is widened into scratch, the
kernel runs, and what came out is narrowed, while all of it is still in the cache. The arrays may be
the host's or a device's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from adamoffload.engine.kernel import Kernel

__all__ = ["Converted", "narrow", "widen"]

_FLOAT32 = np.dtype(np.float32)


def widen(source: Any, out: Any) -> None:
    """Write what rests in `source` to `out`, float32; exactly."""
    np.copyto(out, source)


def narrow(source: Any, out: Any) -> None:
    """Write float32 to where it rests: rounded to the nearest even, or as 8-bit codes."""
    np.copyto(out, source, casting="same_kind")


class Converted:
    """A kernel on arrays that rest in any format.

    It takes the gradient, what is kept (in the kernel's order), and where the result goes, which
    may be the gradient itself.

    Parameters
    ----------
    kernel : Kernel
        What computes; its first array is the gradient, and then what comes of it.
    """

    block_size = 1 << 15  # elements: widened, they still fit into a cache

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.program, self.name = kernel, kernel.program, kernel.name

    def scratch(self, empty: Callable[[int, Any], Any] = np.empty) -> Any:
        """Allocate what one thread needs; `empty` takes a size and a dtype."""
        wide = [empty(self.block_size, _FLOAT32) for _ in range(len(self.program.arrays) + 1)]
        return wide, self.kernel.scratch()

    def __call__(self, arrays: Sequence[Any], values: Sequence[Any], scratch: Any) -> None:
        """Run the kernel on one block.

        Parameters
        ----------
        arrays : sequence of array
            Gradient, what is kept, and the result.
        values : sequence
            What the program has bound; what the gradient is multiplied by first, or None; and what
            times the master is added to it then.
        scratch : object
            From `scratch`.
        """
        bound, scale, l2 = values
        wide, own = scratch
        *given, result = arrays
        loaded = self.load(given, wide, scale, l2)
        self.kernel(loaded, bound, own)
        for array, x in zip(given[1:], loaded[1:], strict=True):
            if array is not x:
                narrow(x, array)
        narrow(loaded[0], result)

    @staticmethod
    def load(given: Sequence[Any], wide: Sequence[Any], scale: Any, l2: Any) -> list[Any]:
        """Return float32 arrays: those that are, as they are, and the others widened.

        The gradient always is a copy, scaled and decayed.
        """
        size = given[0].size
        loaded = []
        for i, (array, buffer) in enumerate(zip(given, wide, strict=False)):
            if i and array.dtype == _FLOAT32:
                loaded.append(array)
            else:
                loaded.append(buffer[:size])
                widen(array, loaded[-1])
        if scale is not None:
            np.multiply(loaded[0], scale, out=loaded[0])
        if l2:
            decayed = wide[-1][:size]
            np.multiply(loaded[-1], l2, out=decayed)
            np.add(loaded[0], decayed, out=loaded[0])
        return loaded
