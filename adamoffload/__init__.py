"""adamoffload: optimizer offload that one can run, measure and see.

Adam's moments and arithmetic live on the host; the device keeps parameters and gradients and adds
the update. Start reading at `adamoffload.adam` and `adamoffload.backend`.
"""

from adamoffload.autodiff import value_and_grad
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
    "cosine_decay_lr",
    "exponential_decay_lr",
    "get_backend",
    "inverse_decay_lr",
    "natural_exp_decay_lr",
    "piecewise_constant_lr",
    "polynomial_decay_lr",
    "value_and_grad",
    "warmup_lr",
]
