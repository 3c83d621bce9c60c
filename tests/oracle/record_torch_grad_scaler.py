"""Records PyTorch's GradScaler: ``python3 tests/oracle/record_torch_grad_scaler.py``.

It needs PyTorch (2.13.0 was used, on a CPU), which the tests do not. Each case is a sequence of steps,
some of which have a gradient that is infinite or NaN; saved are the scale and the count of sound steps
after each update, and what SGD with a rate of 1 makes of a weight whose gradient is 1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
CASES: dict[str, dict[str, Any]] = {
    "short": {"options": {"growth_interval": 3}, "share": 0.1},
    "odd": {
        "options": {
            "init_scale": 1000.0,
            "growth_factor": 1.7,
            "backoff_factor": 0.3,
            "growth_interval": 2,
        },
        "share": 0.3,
    },
    "largest": {"options": {"init_scale": 2.0**124, "growth_interval": 1}, "share": 0.05},
    "default": {"options": {}, "share": 0.2},
}
STEPS = 60


def run(options: dict[str, Any], nonfinite: list[bool]) -> dict[str, Any]:
    """Return what a scaler makes of a sequence."""
    import torch

    w = torch.nn.Parameter(torch.zeros(1))
    scaler, optimizer = torch.amp.GradScaler("cpu", **options), torch.optim.SGD([w], lr=1.0)
    scales, trackers, weights = [], [], []
    for step, bad in enumerate(nonfinite):
        scaler.scale(torch.ones(()))  # it makes its tensors at the first use
        w.grad = torch.full((1,), scaler.get_scale())
        if bad:
            w.grad.fill_([float("inf"), float("nan")][step % 2])
        scaler.step(optimizer)
        scaler.update()
        state = scaler.state_dict()
        scales.append(state["scale"])
        trackers.append(state["_growth_tracker"])
        weights.append(float(w.detach()[0]))
    return {"scales": scales, "trackers": trackers, "weights": weights, "state": state}


def main() -> None:
    """Write torch_grad_scaler.json."""
    import torch

    rng, cases = np.random.default_rng(88), {}
    for name, case in CASES.items():
        nonfinite = (rng.random(STEPS) < case["share"]).tolist()
        found = run(case["options"], nonfinite)
        cases[name] = {"options": case["options"], "nonfinite": nonfinite, **found}
    about = {"torch": torch.__version__, "cases": cases}
    (HERE / "torch_grad_scaler.json").write_text(json.dumps(about) + "\n")


if __name__ == "__main__":
    main()
