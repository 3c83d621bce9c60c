"""PyTorch: a backend whose arrays are tensors.

``ao.get_backend("torch", device="cuda")`` is the backend, `TorchBackend`.

The package imports where PyTorch is not installed: ``unavailable`` then says what to install.
"""

from __future__ import annotations

from adamoffload_torch.backend import TorchBackend

__all__ = ["TorchBackend"]
