"""adamoffload: optimizer offload that one can run, measure and see.

Adam's moments and arithmetic live on the host; the device keeps parameters and gradients and adds
the update. Start reading at `adamoffload.adam` and `adamoffload.backend`.
"""

from adamoffload.autodiff import stop_gradient, value_and_grad
from adamoffload.backend import (
    Backend,
    DeviceMemoryError,
    Memory,
    ResidencyError,
    Ticket,
    Traffic,
)
from adamoffload.data import batches, load_digits
from adamoffload.functions import gelu, layer_norm, softmax, softmax_cross_entropy
from adamoffload.ledger import HOPS, Event, Ledger
from adamoffload.optimizer import AdamOffload, OffloadMemory
from adamoffload.parameter import Parameter
from adamoffload.probes import Probe
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

__all__ = [
    "HOPS",
    "AdamOffload",
    "Backend",
    "BackendInfo",
    "CosineDecayLR",
    "DeviceMemoryError",
    "Event",
    "ExponentialDecayLR",
    "InverseDecayLR",
    "LearningRateSchedule",
    "Ledger",
    "Memory",
    "NaturalExpDecayLR",
    "OffloadMemory",
    "Parameter",
    "PolynomialDecayLR",
    "Probe",
    "ResidencyError",
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
    "load_digits",
    "natural_exp_decay_lr",
    "piecewise_constant_lr",
    "polynomial_decay_lr",
    "softmax",
    "softmax_cross_entropy",
    "stop_gradient",
    "value_and_grad",
    "warmup_lr",
]
