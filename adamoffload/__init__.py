"""adamoffload: optimizer offload that one can run, measure and see.

Adam's moments and arithmetic live on the host; the device keeps parameters and gradients and adds
the update. Start reading at `adamoffload.rules.adam` and `adamoffload.device.backend`.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from adamoffload.device.backend import (
    Backend,
    DeviceMemoryError,
    Memory,
    ResidencyError,
    Ticket,
    Traffic,
)
from adamoffload.device.parameter import Parameter
from adamoffload.device.registry import BackendInfo, available_backends, get_backend
from adamoffload.observe.ledger import HOPS, Event, Ledger
from adamoffload.observe.probes import NonFinite, Probe
from adamoffload.observe.steps import StepRecord
from adamoffload.offload.build import OptimizerMemory
from adamoffload.offload.faces import Adam, AdamOffload, OffloadMemory, ResidentMemory
from adamoffload.offload.loss_scale import DynamicLossScale
from adamoffload.offload.optimizer import Optimizer
from adamoffload.plan.strategy import Strategy, strategies
from adamoffload.rules.rule import Rule
from adamoffload.schedules import (
    CosineDecayLR,
    ExponentialDecayLR,
    InverseDecayLR,
    LearningRateSchedule,
    NaturalExpDecayLR,
    PolynomialDecayLR,
    WarmUpLR,
    cosine_decay_lr,
    exponential_decay_lr,
    inverse_decay_lr,
    natural_exp_decay_lr,
    piecewise_constant_lr,
    polynomial_decay_lr,
    warmup_lr,
)

if TYPE_CHECKING:
    from adamoffload import playground, plots, rules
    from adamoffload import testing as testing  # not for `import *`
    from adamoffload.autodiff.data import batches, load_digits
    from adamoffload.autodiff.functions import (
        erf,
        gelu,
        layer_norm,
        softmax,
        softmax_cross_entropy,
    )
    from adamoffload.autodiff.tape import stop_gradient, value_and_grad
    from adamoffload.checkpoint.files import CheckpointError, Loaded, load, save
    from adamoffload.estimates.estimate import Estimate, estimate
    from adamoffload.estimates.machines import Machine, load_machine, machines
    from adamoffload.estimates.models import Model, models
    from adamoffload.observe.live import Live, progress
    from adamoffload.observe.trace import write_trace
    from adamoffload.playground import surfaces
    from adamoffload.reports.page import report

    __version__: str

__all__ = [
    "HOPS",
    "Adam",
    "AdamOffload",
    "Backend",
    "BackendInfo",
    "CheckpointError",
    "CosineDecayLR",
    "DeviceMemoryError",
    "DynamicLossScale",
    "Estimate",
    "Event",
    "ExponentialDecayLR",
    "InverseDecayLR",
    "LearningRateSchedule",
    "Ledger",
    "Live",
    "Loaded",
    "Machine",
    "Memory",
    "Model",
    "NaturalExpDecayLR",
    "NonFinite",
    "OffloadMemory",
    "Optimizer",
    "OptimizerMemory",
    "Parameter",
    "PolynomialDecayLR",
    "Probe",
    "ResidencyError",
    "ResidentMemory",
    "Rule",
    "StepRecord",
    "Strategy",
    "Ticket",
    "Traffic",
    "WarmUpLR",
    "available_backends",
    "batches",
    "cosine_decay_lr",
    "erf",
    "estimate",
    "exponential_decay_lr",
    "gelu",
    "get_backend",
    "inverse_decay_lr",
    "layer_norm",
    "load",
    "load_digits",
    "load_machine",
    "machines",
    "models",
    "natural_exp_decay_lr",
    "piecewise_constant_lr",
    "playground",
    "plots",
    "polynomial_decay_lr",
    "progress",
    "report",
    "rules",
    "save",
    "softmax",
    "softmax_cross_entropy",
    "stop_gradient",
    "strategies",
    "surfaces",
    "value_and_grad",
    "warmup_lr",
    "write_trace",
]

_ON_FIRST_USE = {
    "adamoffload.autodiff.data": ["batches", "load_digits"],
    "adamoffload.autodiff.functions": [
        "erf",
        "gelu",
        "layer_norm",
        "softmax",
        "softmax_cross_entropy",
    ],
    "adamoffload.autodiff.tape": ["stop_gradient", "value_and_grad"],
    "adamoffload.estimates.estimate": ["Estimate", "estimate"],
    "adamoffload.estimates.models": ["Model", "models"],
    "adamoffload.estimates.machines": ["Machine", "load_machine", "machines"],
    "adamoffload.checkpoint.files": ["CheckpointError", "Loaded", "load", "save"],
    "adamoffload.observe.live": ["Live", "progress"],
    "adamoffload.observe.trace": ["write_trace"],
    "adamoffload.reports.page": ["report"],
}
_MODULES_ON_FIRST_USE = {
    "playground": "adamoffload.playground",
    "plots": "adamoffload.plots",
    "surfaces": "adamoffload.playground.surfaces",
    "rules": "adamoffload.rules",
    "testing": "adamoffload.testing",
}


if not TYPE_CHECKING:  # or a type checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        """Import on first use what ``import adamoffload`` need not wait for (PEP 562)."""
        if name == "__version__":
            return import_module("importlib.metadata").version("adamoffload")
        if name in _MODULES_ON_FIRST_USE:
            return import_module(_MODULES_ON_FIRST_USE[name])
        for module, names in _ON_FIRST_USE.items():
            if name in names:
                return getattr(import_module(module), name)
        # With these two, Python adds what was meant: "Did you mean: 'AdamOffload'?"
        raise AttributeError(
            f"module 'adamoffload' has no attribute {name!r}", name=name, obj=sys.modules[__name__]
        )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
