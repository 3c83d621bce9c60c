"""``adamoffload report``: a short training run, and all that can be recorded of it.

It trains the network of the demo for a few steps. For a run of your own, `adamoffload.report` and
`adamoffload.write_trace` do the same.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

import adamoffload as ao
from adamoffload.autodiff.data import batches, load_digits
from adamoffload.cli.demo import (
    BATCH,
    CHUNK_BYTES,
    LEARNING_RATE,
    loss_and_gradients,
    new_device,
    new_parameters,
    too_little,
)
from adamoffload.cli.results import prepare, writing
from adamoffload.reports.sentences import sentences

__all__ = ["run"]

_FILES = ("report.html", "trace.json", "ledger.npz", "probe.npz", "ledger.csv", "probe.csv")
SAMPLES = 60
"""How often the probe samples, at most: more would not be seen in a figure."""


def run(
    output: Path, backend: str, link: str | None, steps: int, seed: int, memory_bytes: int
) -> int:
    """Train, and write report, trace and numbers; return 0.

    Parameters
    ----------
    output : Path
        Folder for the results; made if it does not exist.
    backend : str
        Name of the backend whose device is trained on.
    link : str or None
        The link, if the backend is told which.
    steps, seed : int
        Steps to take; seed of weights and batches.
    memory_bytes : int
        Memory of the device.

    Raises
    ------
    UsageError
        If a setting is wrong, or a result cannot be written.
    """
    prepare(output, *(output / name for name in _FILES))
    options = {} if link is None else {"link": link}
    device = new_device(backend, memory_bytes=memory_bytes, **options)
    try:
        ledger, probe, optimizer = _train(device, steps, seed)
    except ao.DeviceMemoryError as error:
        raise too_little(error, memory_bytes) from None
    where = f"{backend}, {link}" if link else backend
    with writing(output):
        ao.report(
            output / "report.html",
            ledger,
            probe,
            optimizer,
            title=f"{steps} steps of offloaded Adam on {where}",
        )
        ao.write_trace(output / "trace.json", ledger)
        for suffix in (".npz", ".csv"):
            ledger.save(output / f"ledger{suffix}")
            probe.save(output / f"probe{suffix}")
    for sentence in sentences(ledger, probe):
        print(f"- {sentence}")
    print(
        f"\nReport:  {output / 'report.html'}\n"
        f"Trace:   {output / 'trace.json'}, for https://ui.perfetto.dev\n"
        f"Numbers: {output / 'ledger.npz'}, {output / 'probe.npz'}, and the same as .csv"
    )
    return 0


def _train(device: ao.Backend, steps: int, seed: int) -> tuple[ao.Ledger, ao.Probe, ao.AdamOffload]:
    digits = load_digits()
    parameters = new_parameters(device, seed)
    ledger, probe = ao.Ledger(), ao.Probe(every=-(-steps // SAMPLES))
    optimizer = ao.AdamOffload(
        parameters,
        ao.CosineDecayLR(0.0, LEARNING_RATE, steps),
        ledger=ledger,
        probe=probe,
        chunk_bytes=CHUNK_BYTES,
    )
    forward_and_back = loss_and_gradients(parameters)
    rng = np.random.default_rng(seed)
    count = len(digits.train_labels)
    epochs = iter(lambda: batches(count, BATCH, rng), None)
    for batch in islice((batch for epoch in epochs for batch in epoch), steps):
        _, gradients = forward_and_back(
            device.asarray(digits.train_images[batch]), device.asarray(digits.train_labels[batch])
        )
        optimizer(gradients)
        del gradients  # the next ones need their memory
    return ledger, probe, optimizer
