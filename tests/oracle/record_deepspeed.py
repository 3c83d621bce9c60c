"""Records DeepSpeed's CPU Adam behind 16-bit weights: ``python3 tests/oracle/record_deepspeed.py``.

It needs DeepSpeed (0.19.8 was used, with PyTorch 2.13.0, on a CPU) and a compiler, which the tests do
not. ZeRO stage 2 with its optimizer on the CPU, one process, trains 600 bfloat16 weights for 8 steps
of three micro-steps each; the loss is ``sum(w * g)``, so that each gradient is the bfloat16 that is
recorded. In step k, of the numbers 75 k to 75 k + 74, are saved: the gradients; master weights, both
moments and weights, before and after.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
STEPS, WIDTH, MICRO_STEPS = 8, 75, 3
OPTIONS = {"lr": 1e-2, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.1}
CONFIG: dict[str, Any] = {
    "train_batch_size": MICRO_STEPS,
    "train_micro_batch_size_per_gpu": 1,
    "gradient_accumulation_steps": MICRO_STEPS,
    "bf16": {"enabled": True},
    "gradient_clipping": 0.0,
    "optimizer": {"type": "AdamW", "params": OPTIONS},
    "zero_optimization": {
        "stage": 2,
        "offload_optimizer": {"device": "cpu", "pin_memory": False},
    },
}
ALONE = {
    **{"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"},
    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"},
}


def bits(tensor: Any) -> np.ndarray[Any, Any]:
    """Return a bfloat16 tensor as uint16."""
    import torch

    return np.asarray(tensor.detach().view(torch.uint16).numpy()).copy()


def run() -> dict[str, np.ndarray[Any, Any]]:
    """Train; return what is saved."""
    import deepspeed
    import torch

    class Products(torch.nn.Module):  # type: ignore[misc]  # torch is not there when types are checked
        def __init__(self, start: Any) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(start)

        def forward(self, g: Any) -> Any:
            return (self.w * g).sum()

    rng, count = np.random.default_rng(1908), STEPS * WIDTH
    start = rng.standard_normal(count) * 10.0 ** rng.uniform(-3, 1, count)
    model = Products(torch.from_numpy(start.astype(np.float32)))
    engine, optimizer, _, _ = deepspeed.initialize(model=model, config=CONFIG)
    master = optimizer.single_partition_of_fp32_groups[0]

    def snapshot() -> dict[str, np.ndarray[Any, Any]]:
        state = optimizer.optimizer.state.get(master, {})
        found = {"master": master, "m": state.get("exp_avg"), "v": state.get("exp_avg_sq")}
        zeros = np.zeros(count, np.float32)
        arrays = {k: zeros if t is None else t.detach().numpy().copy() for k, t in found.items()}
        return {"weights": bits(engine.module.w), **arrays}

    saved: dict[str, list[Any]] = {}
    for step in range(STEPS):
        part = slice(step * WIDTH, (step + 1) * WIDTH)
        before, gradients = snapshot(), []
        for _ in range(MICRO_STEPS):
            values = rng.standard_normal(count) * 10.0 ** rng.uniform(-3, 1, count)
            g = torch.from_numpy(values.astype(np.float32)).bfloat16()
            gradients.append(bits(g)[part])
            engine.backward(engine(g), scale_wrt_gas=False)
            engine.step()
        saved.setdefault("g", []).append(gradients)
        for key, after in snapshot().items():
            saved.setdefault(key, []).append([before[key][part], after[part]])
    return {key: np.array(value) for key, value in saved.items()}


def main() -> None:
    """Write deepspeed.json and deepspeed.npz."""
    os.environ.update(ALONE)
    import deepspeed
    import torch

    arrays: dict[str, Any] = run()
    np.savez_compressed(HERE / "deepspeed.npz", **arrays)
    about = {"deepspeed": deepspeed.__version__, "torch": torch.__version__, "options": OPTIONS}
    (HERE / "deepspeed.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
