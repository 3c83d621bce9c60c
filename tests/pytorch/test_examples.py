"""The three programs run, and learn, at a small size."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install 'adamoffload[torch]'")

import train_digits
import train_gpt


def test_a_convolutional_net_learns_digits() -> None:
    assert train_digits.train(epochs=3, strategy="zero-offload")[-1] > 0.8


def test_a_gpt_learns_letters() -> None:
    losses = train_gpt.train(steps=30, width=32, depth=1, context=32)
    assert losses[-1] < losses[0] - 0.5


def test_a_trainer_of_transformers_trains_with_it() -> None:
    pytest.importorskip("transformers", reason="needs transformers and accelerate")
    pytest.importorskip("accelerate", reason="needs accelerate")
    import train_transformers

    before, after = train_transformers.train(steps=16)
    assert after < before / 2
