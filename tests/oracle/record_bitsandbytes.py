"""Records bitsandbytes' 8-bit blockwise quantiser: ``python3 tests/oracle/record_bitsandbytes.py``.

It needs bitsandbytes (0.50.2 was used, with PyTorch 2.13.0, on a CPU), which the tests do not. Both
dynamic maps are recorded, and what its quantisers for CPUs make of some numbers in blocks of 256, the
last of them shorter: codes, the largest magnitude of each block, and what they are decoded to. There
are two: that for float64 takes the nearest code of all, as the one for GPUs does; that for float32,
recorded as ``fast``, is coarser near 0.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
BLOCK = 256


def numbers() -> np.ndarray[Any, Any]:
    """Return blocks of many sizes: of one scale, of many, of zeros, nearly denormal, and a tail."""
    rng = np.random.default_rng(508)
    blocks = [
        rng.standard_normal(BLOCK),
        rng.standard_normal(BLOCK) * 1e-7,
        rng.standard_normal(BLOCK) * 10.0 ** rng.uniform(-9, 0, BLOCK),
        rng.standard_normal(BLOCK) * 10.0 ** rng.uniform(-3, 3, BLOCK),
        np.zeros(BLOCK),
        np.where(rng.random(BLOCK) < 0.9, 0, rng.standard_normal(BLOCK)),
        rng.standard_normal(BLOCK) * 1e-30,
        rng.uniform(-1, 1, BLOCK),
        rng.standard_normal(77) * 10.0 ** rng.uniform(-6, 0, 77),
    ]
    return np.concatenate(blocks).astype(np.float32)


def main() -> None:
    """Write bitsandbytes.json and bitsandbytes.npz."""
    import bitsandbytes
    import torch
    from bitsandbytes import functional

    arrays: dict[str, Any] = {"x": numbers()}
    for name, signed in (("signed", True), ("unsigned", False)):
        code = functional.create_dynamic_map(signed=signed)
        x = torch.from_numpy(arrays["x"] if signed else np.abs(arrays["x"]))
        fast, state = functional.quantize_blockwise(x, code=code, blocksize=BLOCK)
        codes, _ = torch.ops.bitsandbytes.quantize_blockwise(x.double(), code, BLOCK)
        arrays[f"{name}_map"] = code.numpy()
        arrays[f"{name}_codes"], arrays[f"{name}_fast"] = codes.numpy(), fast.numpy()
        arrays[f"{name}_absmax"] = state.absmax.numpy()
        arrays[f"{name}_decoded"] = functional.dequantize_blockwise(codes, state).numpy()
    np.savez_compressed(HERE / "bitsandbytes.npz", **arrays)
    about = {"bitsandbytes": bitsandbytes.__version__, "torch": torch.__version__, "block": BLOCK}
    (HERE / "bitsandbytes.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
