"""The backend keeps the contract. It is found by name: nothing here imports it."""

from __future__ import annotations

import functools

import pytest

import adamoffload as ao
from adamoffload.testing import BackendContract, NewDevice


class TestBackgroundBackend(BackendContract):
    @pytest.fixture
    def new_device(self) -> NewDevice:
        return functools.partial(ao.get_backend, "background")
