"""Records PyTorch's fused AdamW on bfloat16: ``python3 tests/oracle/record_torch_bfloat16.py``.

It needs PyTorch (2.13.0 was used, on a CPU), which the tests do not. Weights, moments and gradients
are bfloat16, as in torchao's CPU offload without a master. Every case trains the same 1,000 numbers
for 20 steps; in step k the numbers 50 k to 50 k + 49 are saved, before and after.

The last arrays are operations on bfloat16 tensors: what a device computes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
STEPS, WIDTH = 20, 50
FALLING = [0.1 * 0.8**k for k in range(STEPS)]
CASES: dict[str, dict[str, Any]] = {
    "default": {"learning_rate": 1e-3},
    "no_decay": {"learning_rate": 0.1, "weight_decay": 0.0},
    "falling": {"learning_rate": FALLING, "beta2": 0.95, "weight_decay": 0.5},
    "betas": {"learning_rate": 0.01, "beta1": 0.6, "beta2": 0.7, "eps": 1e-3},
}
OPERATIONS = "exp log1p tanh sigmoid sqrt reciprocal sum mean cumsum matmul".split()


def inputs() -> tuple[Any, Any]:
    """Return the numbers at the start and the gradients: over some orders of magnitude, some 0."""
    rng = np.random.default_rng(2613)
    count = STEPS * WIDTH
    w = rng.standard_normal(count) * 10.0 ** rng.uniform(-4, 1, count)
    g = rng.standard_normal((STEPS, count)) * 10.0 ** rng.uniform(-4, 1, count)
    g[rng.random(g.shape) < 0.05] = 0
    return w.astype(np.float32), g.astype(np.float32)


def bits(tensor: Any) -> np.ndarray[Any, Any]:
    """Return a bfloat16 tensor as uint16."""
    import torch

    return np.asarray(tensor.detach().view(torch.uint16).numpy()).copy()


def record(name: str, case: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Run a case; return w, m and v, each of shape (2, steps, width): before and after."""
    import torch

    start, gradients = inputs()
    options = {key: value for key, value in case.items() if key != "learning_rate"}
    options["betas"] = options.pop("beta1", 0.9), options.pop("beta2", 0.999)
    w = torch.nn.Parameter(torch.from_numpy(start).bfloat16())
    optimizer = torch.optim.AdamW([w], lr=0.0, fused=True, **options)
    saved: dict[str, np.ndarray[Any, Any]] = {}
    for step in range(STEPS):
        rate = case["learning_rate"]
        optimizer.param_groups[0]["lr"] = rate[step] if isinstance(rate, list) else rate
        w.grad = torch.from_numpy(gradients[step]).bfloat16()
        part = slice(step * WIDTH, (step + 1) * WIDTH)
        for moment in range(2):
            if moment:
                optimizer.step()
            state = optimizer.state[w]
            found = {"w": w, "m": state.get("exp_avg"), "v": state.get("exp_avg_sq")}
            for key, tensor in found.items():
                pair = saved.setdefault(f"{name}_{key}", np.zeros((2, STEPS, WIDTH), np.uint16))
                pair[moment, step] = 0 if tensor is None else bits(tensor)[part]
    return saved


def operations() -> dict[str, np.ndarray[Any, Any]]:
    """Return what operations make of a matrix of bfloat16, one row of which is small."""
    import torch

    rng = np.random.default_rng(16)
    x = torch.from_numpy(np.abs(rng.standard_normal((8, 128))).astype(np.float32)).bfloat16()
    arguments: dict[str, tuple[Any, ...]] = {
        "sum": (x, 1),
        "mean": (x, 1),
        "cumsum": (x, 1),
        "matmul": (x, x.T),
    }
    made = {name: getattr(torch, name)(*arguments.get(name, (x,))) for name in OPERATIONS}
    return {"x": bits(x), **{f"op_{name}": bits(result) for name, result in made.items()}}


def main() -> None:
    """Write torch_bfloat16.json and torch_bfloat16.npz."""
    import torch

    _, gradients = inputs()
    g = np.stack([gradients[k, k * WIDTH : (k + 1) * WIDTH] for k in range(STEPS)])
    arrays: dict[str, Any] = {"g": bits(torch.from_numpy(g).bfloat16())}
    for name, case in CASES.items():
        arrays |= record(name, case)
    arrays |= operations()
    np.savez_compressed(HERE / "torch_bfloat16.npz", **arrays)
    about = {"torch": torch.__version__, "numpy": np.__version__, "cases": CASES}
    (HERE / "torch_bfloat16.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
