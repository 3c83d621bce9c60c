"""A GPT-2 of the library transformers, trained by its ``Trainer``, which knows nothing of offload.

    python3 -m pip install transformers accelerate
    python3 examples/torch/train_transformers.py --steps 40

The model's class is the pretrained one's; its weights are drawn here, from a small configuration,
so that nothing is downloaded. It learns that numbers go up by one.
"""

from __future__ import annotations

import argparse
import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import adamoffload as ao
from adamoffload_torch import Offload

NUMBERS, LENGTH = 32, 16


class Counting(torch.utils.data.Dataset):
    """Rows of numbers that go up by one, from any number, and begin again after the last."""

    def __len__(self) -> int:
        """Return how many rows there are."""
        return 512

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return a row, to be predicted from its own beginning."""
        row = (index + torch.arange(LENGTH)) % NUMBERS
        return {"input_ids": row, "labels": row}


def train(steps: int, strategy: str = "zero-offload") -> tuple[float, float]:
    """Train; return the loss before and after."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=NUMBERS, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=2,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    optimizer = Offload(
        model.named_parameters(),
        ao.rules.AdamW(learning_rate=1e-2, weight_decay=0.01),
        strategy=strategy,
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            TrainingArguments(
                folder,
                max_steps=steps,
                per_device_train_batch_size=16,
                gradient_accumulation_steps=2,
                save_steps=max(1, steps // 2),
                logging_steps=max(1, steps // 4),
                report_to=[],
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
            ),
            train_dataset=Counting(),
            eval_dataset=Counting(),
            optimizers=(optimizer, schedule),
        )
        before = trainer.evaluate()["eval_loss"]
        trainer.train()
        after = trainer.evaluate()["eval_loss"]
    print(f"loss before {before:.3f}, after {steps} steps {after:.3f}")
    return before, after


def main() -> None:
    """Read the command line, and train."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--strategy", default="zero-offload", choices=[*ao.strategies])
    given = parser.parse_args()
    train(given.steps, given.strategy)


if __name__ == "__main__":
    main()
