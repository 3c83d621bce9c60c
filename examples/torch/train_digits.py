"""A small convolutional net on handwritten digits, trained in PyTorch with an offloaded AdamW.

    python3 examples/torch/train_digits.py --epochs 3

What differs from any other training script is the optimizer, and that the learning rate and the
first beta are cycled by a scheduler of PyTorch's, which finds both in ``param_groups``.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

import adamoffload as ao
from adamoffload_torch import Offload


def net() -> nn.Module:
    """Return a net for images of 8 x 8 pixels, with 19,454 parameters."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 28),
        nn.ReLU(),
        nn.Linear(28, 10),
    )


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of images that the net tells right."""
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()


def train(epochs: int, strategy: str, device: str = "cpu", batch: int = 32) -> list[float]:
    """Train, print a line an epoch, and return the accuracies on images not trained with."""
    torch.manual_seed(0)
    digits = [torch.from_numpy(array).to(device) for array in ao.load_digits()]
    images, labels, test_images, test_labels = digits
    model, ledger = net().to(device), ao.Ledger()
    optimizer = Offload(
        model.named_parameters(),
        ao.rules.AdamW(learning_rate=1e-3, weight_decay=0.01),
        strategy=strategy,
        ledger=ledger,
    )
    steps = epochs * (len(images) // batch)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    accuracies = []
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(images), device=device)
        for places in order.split(batch)[: steps // epochs]:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[places]), labels[places])
            loss.backward()
            optimizer.step()
            scheduler.step()
        accuracies.append(accuracy(model, test_images, test_labels))
        print(f"epoch {epoch}  loss {loss.item():.3f}  accuracy {accuracies[-1]:.3f}")
    moved = optimizer.core.bytes_per_step
    print(f"each step: {moved['d2h']:,} bytes down, {moved['h2d']:,} up; {len(ledger.events)} hops")
    return accuracies


def main() -> None:
    """Read the command line, and train."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--strategy", default="zero-offload", choices=[*ao.strategies])
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps")
    given = parser.parse_args()
    train(given.epochs, given.strategy, given.device)


if __name__ == "__main__":
    main()
