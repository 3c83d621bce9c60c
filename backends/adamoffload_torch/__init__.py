"""PyTorch: a backend whose arrays are tensors, and a drop-in optimizer for models written in it.

``ao.get_backend("torch", device="cuda")`` is the backend, `TorchBackend`. `Offload` is a
``torch.optim.Optimizer``, which trains a model of yours by any rule under any strategy.

The package imports where PyTorch is not installed: ``unavailable`` then says what to install.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adamoffload_torch.backend import TorchArray, TorchBackend

if TYPE_CHECKING:
    from adamoffload_torch.optimizer import Offload

__all__ = ["Offload", "TorchArray", "TorchBackend"]


if not TYPE_CHECKING:  # or a type checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        """Import the optimizer, and with it PyTorch, on first use (PEP 562)."""
        if name == "Offload":
            from adamoffload_torch.optimizer import Offload

            return Offload
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
