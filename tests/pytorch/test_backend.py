"""The torch backend: the contract on every device of PyTorch's that is here, and tensors."""

from __future__ import annotations

from functools import partial

import pytest

import adamoffload as ao
from adamoffload.testing import BackendContract, NewDevice

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'adamoffload[torch]'")


class TestOnTheCpu(BackendContract):
    dtypes = "?bBhiqefdFD"

    @pytest.fixture
    def new_device(self) -> NewDevice:
        return partial(ao.get_backend, "torch", device="cpu")
