"""Stochastic rounding on a device, compared bit by bit with that on the host."""

from __future__ import annotations

import ml_dtypes
import numpy as np

import adamoffload as ao
from adamoffload.engine.casts import scratch, stochastic
from adamoffload.engine.random_bits import Stream
from adamoffload.offload.rounding import move_16_bits

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SPECIAL = np.array(
    [
        *(0x7F800000, 0xFF800000, 0x00000000, 0x80000000),  # infinities and zeros
        *(0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00001),  # NaN, with any bits
        *(0x00000001, 0x80012345, 0x7F7FFFFF, 0xFF7F8000),  # the smallest and the largest
    ],
    np.uint32,
).view(np.float32)


def rounds_as_the_host_does(device: ao.Backend, start: int) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([SPECIAL, rng.standard_normal(1000).astype(np.float32)])
    w = device.asarray(np.full(x.size, -0.0, BFLOAT16))  # -0 + 0 is 0, and -0 + -0 is -0
    delta = device.asarray(x)
    places = [device.asarray(np.arange(x.size, dtype=np.int32))]
    places += [device.zeros(x.size, np.int32) for _ in range(2)]
    stream = Stream(1, 2, 3)
    move_16_bits(w, delta, np.float32(1), [device.zeros(x.size)], bits=(stream, start, places))
    host = np.empty(x.size, BFLOAT16)
    stochastic(x, host, scratch(x.size), stream, start)
    np.testing.assert_array_equal(device.asnumpy(w).view(np.uint16), host.view(np.uint16))
