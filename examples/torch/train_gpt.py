"""A small GPT that learns to write text, letter by letter, with its optimizer on the host.

    python3 examples/torch/train_gpt.py --steps 300 --text README.md

Gradients leave the device while the backward pass still runs (``during_backward=True``), and two
backward passes make one update (``accumulate=2``). The optimizer's state is saved and read again
half-way, as ``torch.save`` and its safe load do it.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import torch
from torch import Tensor, nn

import adamoffload as ao
from adamoffload_torch import Offload

README = Path(__file__).parents[2] / "README.md"
MICRO_STEPS = 2


class Block(nn.Module):
    """Attention, and two layers that see one position each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_layers = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.from_heads = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.layers = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Take and return one vector for each position."""
        shape = (*x.shape[:2], 3, self.heads, x.shape[2] // self.heads)
        q, k, v = self.to_qkv(self.before_attention(x)).reshape(shape).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.from_heads(seen.transpose(1, 2).flatten(2))
        return x + self.layers(self.before_layers(x))


class GPT(nn.Module):
    """Predicts the next letter; the table of letters is also the last layer: tied weights."""

    def __init__(self, letters: int, context: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(letters, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, letters, bias=False)
        self.head.weight = self.letters.weight
        for table in (self.letters, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, text: Tensor) -> Tensor:
        """Take letters, shape (batch, length), and return the logits of those that follow."""
        places = torch.arange(text.shape[1], device=text.device)
        return self.head(self.norm(self.blocks(self.letters(text) + self.places(places))))


def cut(text: Tensor, batch: int, context: int) -> tuple[Tensor, Tensor]:
    """Return pieces of the text at random, and each shifted by a letter."""
    starts = torch.randint(len(text) - context - 1, (batch, 1))
    places = starts + torch.arange(context + 1)
    return text[places[:, :-1]], text[places[:, 1:]]


def train(
    steps: int,
    path: Path = README,
    strategy: str = "zero-offload",
    device: str = "cpu",
    width: int = 64,
    depth: int = 2,
    context: int = 64,
) -> list[float]:
    """Train, print a line now and then, and return the losses."""
    torch.manual_seed(0)
    letters = sorted({*path.read_text(encoding="utf-8")})
    text = torch.tensor([letters.index(x) for x in path.read_text(encoding="utf-8")])
    model = GPT(len(letters), context, width, depth, heads=4).to(device)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = Offload(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
        ao.rules.AdamW(learning_rate=3e-3, weight_decay=0.1),
        strategy=strategy,
        during_backward=True,
        accumulate=MICRO_STEPS,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for step in range(1, steps + 1):
        for _ in range(MICRO_STEPS):
            given, wanted = (x.to(device) for x in cut(text, batch=16, context=context))
            loss = nn.functional.cross_entropy(model(given).flatten(0, 1), wanted.flatten())
            (loss / MICRO_STEPS).backward()
            optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step == steps // 2:
            saved = io.BytesIO()
            torch.save(optimizer.state_dict(), saved)
            saved.seek(0)
            optimizer.load_state_dict(torch.load(saved, weights_only=True))
        if step == 1 or not step % max(1, steps // 10):
            print(f"step {step}  loss {losses[-1]:.3f}")
    return losses


def main() -> None:
    """Read the command line, and train."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--text", type=Path, default=README)
    parser.add_argument("--strategy", default="zero-offload", choices=[*ao.strategies])
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps")
    given = parser.parse_args()
    train(given.steps, given.text, given.strategy, given.device)


if __name__ == "__main__":
    main()
