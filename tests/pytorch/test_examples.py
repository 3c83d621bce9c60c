"""The three programs run, and learn, at a small size."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install 'adamoffload[torch]'")

import train_digits
import train_gpt


def test_a_convolutional_net_learns_digits() -> None:
    assert train_digits.train(epochs=3, strategy="zero-offload")[-1] > 0.8


def test_a_gpt_learns_more_than_how_often_letters_come() -> None:
    text = train_gpt.README.read_text(encoding="utf-8")
    shares = np.array([text.count(letter) for letter in {*text}]) / len(text)
    entropy = -np.sum(shares * np.log(shares))  # what a model without context can reach
    losses = train_gpt.train(steps=120, width=64, depth=1, context=48)
    assert np.mean(losses[-5:]) < entropy - 0.3


def test_a_trainer_of_transformers_trains_with_it() -> None:
    pytest.importorskip("transformers", reason="needs transformers and accelerate")
    pytest.importorskip("accelerate", reason="needs accelerate")
    import train_transformers

    before, after = train_transformers.train(steps=16)
    assert after < before / 2
