"""adamoffload: optimizer offload that one can run, measure and see.

Adam's moments and arithmetic live on the host; the device keeps parameters and gradients and adds
the update. Start reading at `adamoffload.adam` and `adamoffload.backend`.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from adamoffload.backend import (
    Backend,
    DeviceMemoryError,
    Memory,
    ResidencyError,
    Ticket,
    Traffic,
)
from adamoffload.ledger import HOPS, Event, Ledger
from adamoffload.optimizer import AdamOffload, OffloadMemory
from adamoffload.parameter import Parameter
from adamoffload.probes import NonFinite, Probe
from adamoffload.registry import BackendInfo, available_backends, get_backend
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
    from adamoffload import playground, plots, surfaces
    from adamoffload.autodiff import stop_gradient, value_and_grad
    from adamoffload.checkpoint import CheckpointError, load, save
    from adamoffload.data import batches, load_digits
    from adamoffload.functions import gelu, layer_norm, softmax, softmax_cross_entropy
    from adamoffload.live import Live, progress
    from adamoffload.page import report
    from adamoffload.perfetto import write_trace
    from adamoffload.resident import Adam, ResidentMemory

__all__ = [
    "HOPS",
    "Adam",
    "AdamOffload",
    "Backend",
    "BackendInfo",
    "CheckpointError",
    "CosineDecayLR",
    "DeviceMemoryError",
    "Event",
    "ExponentialDecayLR",
    "InverseDecayLR",
    "LearningRateSchedule",
    "Ledger",
    "Live",
    "Memory",
    "NaturalExpDecayLR",
    "NonFinite",
    "OffloadMemory",
    "Parameter",
    "PolynomialDecayLR",
    "Probe",
    "ResidencyError",
    "ResidentMemory",
    "Ticket",
    "Traffic",
    "WarmUpLR",
    "available_backends",
    "batches",
    "cosine_decay_lr",
    "exponential_decay_lr",
    "gelu",
    "get_backend",
    "inverse_decay_lr",
    "layer_norm",
    "load",
    "load_digits",
    "natural_exp_decay_lr",
    "piecewise_constant_lr",
    "playground",
    "plots",
    "polynomial_decay_lr",
    "progress",
    "report",
    "save",
    "softmax",
    "softmax_cross_entropy",
    "stop_gradient",
    "surfaces",
    "value_and_grad",
    "warmup_lr",
    "write_trace",
]

_ON_FIRST_USE = {
    "playground": ["playground"],
    "plots": ["plots"],
    "surfaces": ["surfaces"],
    "testing": ["testing"],
    "autodiff": ["stop_gradient", "value_and_grad"],
    "checkpoint": ["CheckpointError", "load", "save"],
    "data": ["batches", "load_digits"],
    "functions": ["gelu", "layer_norm", "softmax", "softmax_cross_entropy"],
    "page": ["report"],
    "perfetto": ["write_trace"],
    "live": ["Live", "progress"],
    "resident": ["Adam", "ResidentMemory"],
}


def __getattr__(name: str) -> Any:
    """Import on first use what ``import adamoffload`` need not wait for (PEP 562)."""
    for module, names in _ON_FIRST_USE.items():
        if name in names:
            loaded = import_module(f"adamoffload.{module}")
            return loaded if name == module else getattr(loaded, name)
    # With these two, Python adds what was meant: "Did you mean: 'AdamOffload'?"
    raise AttributeError(
        f"module 'adamoffload' has no attribute {name!r}", name=name, obj=sys.modules[__name__]
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
