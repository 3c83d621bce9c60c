"""Records steps of PyTorch's optimizers, for tests/rules: ``python3 tests/oracle/record_torch_rules.py``.

It needs PyTorch (2.13.0 was used, on a CPU), which the tests do not. Every case trains the same 400
numbers for 20 steps with the same gradients, over many orders of magnitude. In step k the numbers
20 k to 20 k + 19 are saved, before and after: every step is there, with states that have a history,
in a file that stays small.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
STEPS, WIDTH = 20, 20
STATE = {"momentum_buffer": "m", "exp_avg": "m", "exp_avg_sq": "v", "max_exp_avg_sq": "v_max", "sum": "v"}
FALLING = [0.1 * 0.8**k for k in range(STEPS)]
CASES: dict[str, dict[str, Any]] = {
    "sgd": {"torch": "SGD", "learning_rate": 0.01},
    "sgd_decay": {"torch": "SGD", "learning_rate": FALLING, "weight_decay": 0.03},
    "sgd_momentum": {"torch": "SGD", "learning_rate": 0.01, "momentum": 0.9},
    "sgd_momentum_decay": {"torch": "SGD", "learning_rate": 0.1, "momentum": 0.5, "weight_decay": 0.3},
    "sgd_nesterov": {"torch": "SGD", "learning_rate": FALLING, "momentum": 0.9, "nesterov": True},
    "adagrad": {"torch": "Adagrad", "learning_rate": 0.01},
    "adagrad_decay": {"torch": "Adagrad", "learning_rate": 0.5, "eps": 1e-3, "weight_decay": 0.1},
    "adagrad_falling": {"torch": "Adagrad", "learning_rate": FALLING, "eps": 1e-8},
    "adamw": {"torch": "AdamW", "learning_rate": 0.001},
    "adamw_no_decay": {"torch": "AdamW", "learning_rate": 1.0, "weight_decay": 0.0},
    "adamw_betas": {"torch": "AdamW", "learning_rate": 0.01, "beta1": 0.6, "beta2": 0.7, "eps": 1e-3},
    "adamw_falling": {"torch": "AdamW", "learning_rate": FALLING, "beta2": 0.95, "weight_decay": 0.5},
    "amsgrad": {"torch": "AdamW", "learning_rate": 0.001},
    "amsgrad_betas": {"torch": "AdamW", "learning_rate": 0.1, "beta1": 0.3, "beta2": 0.6, "eps": 1e-5},
    "amsgrad_falling": {"torch": "AdamW", "learning_rate": FALLING, "weight_decay": 0.5},
}


def inputs() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the numbers at the start and the gradients: some are 0, some vanish when squared."""
    rng = np.random.default_rng(2013)
    count = STEPS * WIDTH
    w = rng.standard_normal(count) * 10.0 ** rng.uniform(-6, 3, count)
    g = rng.standard_normal((STEPS, count)) * 10.0 ** rng.uniform(-10, 4, count)
    g *= 10.0 ** rng.uniform(-1, 1, (STEPS, count))
    g[:, ::16] *= 1e-24
    g[rng.random(g.shape) < 0.05] = 0
    return w.astype(np.float32), g.astype(np.float32)


def record(name: str, case: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Run a case; return w and the slots, each of shape (2, steps, width): before and after."""
    import torch

    start, gradients = inputs()
    options = {key: value for key, value in case.items() if key not in ("torch", "learning_rate")}
    if case["torch"] == "AdamW":
        options["betas"] = options.pop("beta1", 0.9), options.pop("beta2", 0.999)
        options["amsgrad"] = name.startswith("amsgrad")
    w = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = getattr(torch.optim, case["torch"])([w], lr=0.0, **options)

    def snapshot() -> dict[str, np.ndarray[Any, Any]]:
        found = {STATE[key]: value for key, value in optimizer.state[w].items() if key in STATE}
        return {key: t.detach().numpy().copy() for key, t in {"w": w, **found}.items()}

    saved: dict[str, np.ndarray[Any, Any]] = {}
    for step in range(STEPS):
        rate = case["learning_rate"]
        optimizer.param_groups[0]["lr"] = rate[step] if isinstance(rate, list) else rate
        part = slice(step * WIDTH, (step + 1) * WIDTH)
        before = snapshot()
        w.grad = torch.from_numpy(gradients[step].copy())
        optimizer.step()
        for key, after in snapshot().items():
            pair = saved.setdefault(f"{name}_{key}", np.zeros((2, STEPS, WIDTH), np.float32))
            pair[0, step] = before[key][part] if key in before else 0
            pair[1, step] = after[part]
    return saved


def main() -> None:
    """Write torch_rules.json and torch_rules.npz."""
    import torch

    _, gradients = inputs()
    g = np.stack([gradients[k, k * WIDTH : (k + 1) * WIDTH] for k in range(STEPS)])
    arrays: dict[str, Any] = {"g": g}
    for name, case in CASES.items():
        arrays |= record(name, case)
    np.savez_compressed(HERE / "torch_rules.npz", **arrays)
    about = {"torch": torch.__version__, "numpy": np.__version__, "cases": CASES}
    (HERE / "torch_rules.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
