"""``adamoffload demo``: a network on a device too small for Adam.

The device holds the parameters, the gradients and the activations of a classifier of handwritten
digits, but not Adam's two moments as well. The demo predicts, to the byte, where training with
Adam's state on the device must fail; lets it fail there; then trains with Adam on the host, and
draws what happened. Parameters in bfloat16 have float32 master weights, on the host too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

import adamoffload as ao
from adamoffload.autodiff.data import Digits, batches, load_digits
from adamoffload.autodiff.functions import softmax_cross_entropy
from adamoffload.cli.results import prepare, save_figure, save_json, writing
from adamoffload.cli.text import UsageError
from adamoffload.plan.formats import each

__all__ = [
    "BATCH",
    "CHUNK_BYTES",
    "LEARNING_RATE",
    "loss_and_gradients",
    "new_device",
    "new_parameters",
    "run",
    "too_little",
]

LAYERS = (64, 512, 512, 10)
BATCH = 64
CHUNK_BYTES = 128 << 10
LEARNING_RATE = 1e-3
RULE = ao.rules.Adam(learning_rate=LEARNING_RATE)
OFFLOADED = {"float32": "adam-offload", "bfloat16": "zero-offload"}
"""By the type of the weights, the strategy that keeps Adam's state on the host."""
TARGET_ACCURACY = 0.97

Weights = Literal["float32", "bfloat16"]

_Failure = tuple[str, int, int]
"""A refused allocation: what it was for, its bytes, and the bytes in use before."""


def run(
    output: Path,
    epochs: int,
    seed: int,
    backend: str,
    memory_bytes: int,
    weights: Weights = "float32",
) -> int:
    """Run the demo; return 0, or 1 if it did not find what it promises.

    Parameters
    ----------
    output : Path
        Folder for the results; made if it does not exist.
    epochs, seed : int
        Passes over the training images; seed of weights and batches.
    backend : str
        Name of the backend whose device is trained on.
    memory_bytes : int
        Memory of that device.
    weights : str
        Type of the parameters, the gradients and the activations: ``"float32"`` or ``"bfloat16"``.

    Raises
    ------
    UsageError
        If a setting is wrong: an unknown backend, too little memory, a folder that can't be made;
        or if a result cannot be written.
    """
    picture, numbers = output / "demo.png", output / "demo.json"
    prepare(output, picture, numbers)
    device = new_device(backend, memory_bytes=memory_bytes)
    digits = load_digits()
    size = sum(size for _, size in _shapes())
    print(
        f"A network {'-'.join(map(str, LAYERS))} for handwritten digits: {size:,} parameters in "
        f"{weights}.\n"
        f"A device with {memory_bytes:,} bytes of memory.\n"
    )
    _print_needs(memory_bytes, weights)
    try:
        as_predicted = _show_resident(device, digits, seed, memory_bytes, weights)
        result = _train_offloaded(
            new_device(backend, memory_bytes=memory_bytes), digits, epochs, seed, weights
        )
    except ao.DeviceMemoryError as error:
        raise too_little(error, memory_bytes) from None
    with writing(output):
        _draw(result, memory_bytes, picture)
        save_json(_summary(result, memory_bytes), numbers)
    print(f"\nPicture: {picture}\nNumbers: {numbers}")
    return 0 if as_predicted and result.bytes_as_predicted else 1


def new_device(backend: str, **options: Any) -> ao.Backend:
    """Return a device, or say which setting was wrong."""
    try:
        return ao.get_backend(backend, **options)
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"--backend {backend}: {error}") from None


def too_little(error: ao.DeviceMemoryError, memory_bytes: int) -> UsageError:
    """Return what to say when training itself does not fit on the device."""
    return UsageError(
        f"--memory {memory_bytes}: too little, even with Adam on the host: "
        f"{error.requested_bytes:,} bytes were requested with {error.used_bytes:,} in use. "
        f"Try 4M"
    )


# -- the model ------------------------------------------------------------------------------------


def _shapes() -> Iterator[tuple[tuple[int, ...], int]]:
    for inputs, outputs in pairwise(LAYERS):
        yield (inputs, outputs), inputs * outputs
        yield (outputs,), outputs


def new_parameters(
    device: ao.Backend, seed: int, weights: Weights = "float32"
) -> list[ao.Parameter]:
    """Return the network's parameters, drawn at random."""
    rng = np.random.default_rng(seed)
    parameters = []
    for i, (shape, _) in enumerate(_shapes()):
        layer, kind = i // 2 + 1, ("weight", "bias")[i % 2]
        # He et al., arXiv:1502.01852, eq. 10: keeps the variance through layers of ReLU.
        scale = np.sqrt(2 / shape[0]) if kind == "weight" else 0.0
        values = (scale * rng.standard_normal(shape)).astype(np.float32)
        parameters.append(ao.Parameter(device.asarray(values, weights), f"layer{layer}.{kind}"))
    return parameters


def _logits(parameters: list[ao.Parameter], images: Any) -> Any:
    h = images
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        h = np.maximum(h @ weight + bias, 0)
    logits = h @ parameters[-2] + parameters[-1]
    return logits if logits.dtype == np.float32 else logits.astype(np.float32)


def loss_and_gradients(
    parameters: list[ao.Parameter],
) -> Callable[[Any, Any], tuple[Any, tuple[Any, ...]]]:
    """Return what takes images and labels to the loss and its gradients."""

    def loss(images: Any, labels: Any) -> Any:
        return softmax_cross_entropy(_logits(parameters, images), labels)

    return ao.value_and_grad(loss, parameters)


def _accuracy(
    device: ao.Backend, parameters: list[ao.Parameter], images: Any, labels: Any
) -> float:
    weights, right = parameters[0].dtype, 0
    for start in range(0, len(labels), BATCH):
        part = slice(start, start + BATCH)
        logits = device.asnumpy(_logits(parameters, device.asarray(images[part], weights)))
        right += int(np.sum(np.argmax(logits, axis=1) == labels[part]))
    return right / len(labels)


# -- with Adam on the device ----------------------------------------------------------------------


def _print_needs(memory_bytes: int, weights: Weights) -> None:
    unlimited = new_parameters(ao.get_backend("numpy"), 0, weights)
    size = sum(p.size for p in unlimited)
    both = [
        _on_device(ao.Optimizer(unlimited, RULE, strategy=name, chunk_bytes=CHUNK_BYTES))
        for name in ("resident", OFFLOADED[weights])
    ]
    kinds = ["parameters", "gradients", "moments"]
    if weights != "float32":
        kinds.append("master")
    rows = [(kind, [held.get(kind, 0) for held in both]) for kind in kinds]
    lasting = [sum(column) for column in zip(*(needed for _, needed in rows), strict=True)]
    rows += [
        ("  per parameter", [nbytes // size for nbytes in lasting]),
        ("staging", [held.get("staging", 0) for held in both]),
        ("in all", [sum(held.values()) for held in both]),
    ]
    print(f"{'bytes on the device':<22}{'Adam resident':>15}{'Adam offloaded':>17}")
    for name, needed in rows:
        print(f"{name:<22}{needed[0]:>15,}{needed[1]:>17,}")
    verdicts = [
        f"{memory_bytes - total:,} left" if total <= memory_bytes else "too much"
        for total in rows[-1][1]
    ]
    print(f"{'':<22}{verdicts[0]:>15}{verdicts[1]:>17}\n")


def _on_device(optimizer: ao.Optimizer) -> dict[str, int]:
    """Return the bytes on the device, by kind."""
    holdings = optimizer.memory().holdings
    return {held.kind: held.nbytes for held in holdings if held.place == "device"}


def _allocation_bytes(device: ao.Backend) -> int:
    """Return what the device rounds allocations up to: what one byte takes."""
    before = device.memory().used
    byte = device.asarray(np.zeros(1, np.uint8))
    taken = device.memory().used - before
    del byte
    return taken


def _predict_failure(
    parameters: list[ao.Parameter], others: list[int], unit: int, memory_bytes: int
) -> _Failure | None:
    """Return what of Adam's state cannot be allocated, if anything; allocations fill units."""

    def taken(nbytes: int) -> int:
        return -(-nbytes // unit) * unit

    used = sum(2 * taken(p.data.nbytes) for p in parameters) + sum(map(taken, others))
    size = sum(p.size for p in parameters)
    weights: Any = parameters[0].dtype.name
    for thing, _, form in ao.strategies["resident"].kept(RULE, weights):
        nbytes = size * each(form)
        if used + taken(nbytes) > memory_bytes:
            return f"{thing} of {size:,} parameters", nbytes, used
        used += taken(nbytes)
    return None


def _show_resident(
    device: ao.Backend, digits: Digits, seed: int, memory_bytes: int, weights: Weights
) -> bool:
    """Begin to train with Adam's state on the device; return whether it went as predicted."""
    print("Adam on the device: the first step")
    unit = _allocation_bytes(device)
    parameters = new_parameters(device, seed, weights)
    images = device.asarray(digits.train_images[:BATCH], weights)
    labels = device.asarray(digits.train_labels[:BATCH])
    predicted = _predict_failure(
        parameters,
        [images.nbytes, labels.nbytes, 4],  # 4: the loss
        unit,
        memory_bytes,
    )
    loss, gradients = loss_and_gradients(parameters)(images, labels)
    try:
        optimizer = ao.Optimizer(parameters, RULE, chunk_bytes=CHUNK_BYTES)
    except ao.DeviceMemoryError as error:
        (what,) = error.__notes__  # what it was
        return _report(predicted, (what, error.requested_bytes, error.used_bytes))
    if predicted is not None:
        return _report(predicted, None)
    del loss
    try:
        optimizer(gradients)
        print("  it fits: with this much memory there is no need to offload\n")
    except ao.DeviceMemoryError:
        print("  Adam's state fits, but not what computing the update takes\n")
    return True


def _report(predicted: _Failure | None, happened: _Failure | None) -> bool:
    for label, found in (("predicted", predicted), ("happened", happened)):
        print(f"  {label:<10}{_failure(found)}")
    as_predicted = happened == predicted
    print(f"  -> {'exactly as predicted' if as_predicted else 'NOT as predicted'}\n")
    return as_predicted


def _failure(found: _Failure | None) -> str:
    if found is None:
        return "all of Adam's state fits"
    return f"out of memory for {found[0]}: {found[1]:,} bytes asked, {found[2]:,} in use"


# -- with Adam on the host ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Result:
    """What the offloaded run measured."""

    names: tuple[str, ...]
    losses: list[float]
    accuracies: list[float]
    ledger: ao.Ledger
    probe: ao.Probe
    memory: ao.OptimizerMemory
    weights: str
    bytes_per_parameter: dict[str, int]
    peak_bytes: int
    size: int
    seconds: float

    @property
    def steps(self) -> int:
        return len(self.losses)

    @property
    def predicted_bytes(self) -> dict[str, int]:
        """What should be copied, by lane."""
        return {lane: n * self.size * self.steps for lane, n in self.bytes_per_parameter.items()}

    @property
    def bytes_as_predicted(self) -> bool:
        return all(self.moved(lane) == n for lane, n in self.predicted_bytes.items())

    def moved(self, lane: str) -> int:
        """Return the bytes that were copied in steps; master weights are copied down before."""
        return int(self.ledger.bytes_per_step(lane).sum())

    def held(self, place: str, kind: str) -> int:
        """Return the bytes of a kind, in a place."""
        holdings = self.memory.holdings
        return sum(held.nbytes for held in holdings if (held.place, held.kind) == (place, kind))


def _train_offloaded(
    device: ao.Backend, digits: Digits, epochs: int, seed: int, weights: Weights
) -> _Result:
    print("Adam on the host: training")
    parameters = new_parameters(device, seed, weights)
    ledger, probe = ao.Ledger(), ao.Probe()
    optimizer = ao.Optimizer(
        parameters,
        RULE,
        strategy=OFFLOADED[weights],
        ledger=ledger,
        probe=probe,
        chunk_bytes=CHUNK_BYTES,
    )
    forward_and_back = loss_and_gradients(parameters)
    rng = np.random.default_rng(seed)
    losses: list[float] = []
    accuracies: list[float] = []
    count = len(digits.train_labels)
    began_s = time.perf_counter()
    with ao.Live(epochs * -(-count // BATCH), device=device, probe=probe) as live:
        for epoch in range(1, epochs + 1):
            before = len(losses)
            for batch in batches(count, BATCH, rng):
                loss, gradients = forward_and_back(
                    device.asarray(digits.train_images[batch], weights),
                    device.asarray(digits.train_labels[batch]),
                )
                optimizer(gradients)
                del gradients  # the next ones need their memory
                losses.append(float(loss))
                live.update(epoch=f"{epoch}/{epochs}", loss=losses[-1])
            accuracies.append(_accuracy(device, parameters, digits.test_images, digits.test_labels))
            elapsed_s = time.perf_counter() - began_s
            live.print(
                f"  epoch {epoch:>3}/{epochs}   loss {np.mean(losses[before:]):.4f}   "
                f"test accuracy {accuracies[-1]:6.2%}   {elapsed_s:5.1f} s"
            )
    result = _Result(
        names=tuple(p.name for p in parameters),
        losses=losses,
        accuracies=accuracies,
        ledger=ledger,
        probe=probe,
        memory=optimizer.memory(),
        bytes_per_parameter=optimizer.strategy.bytes_per_parameter(RULE, weights),
        weights=weights,
        peak_bytes=device.memory().peak,
        size=sum(p.size for p in parameters),
        seconds=time.perf_counter() - began_s,
    )
    verdict = "exactly as predicted" if result.bytes_as_predicted else "NOT as predicted"
    print(
        f"\n  moved d2h {result.moved('d2h'):,} bytes, h2d {result.moved('h2d'):,} bytes; "
        f"{result.bytes_per_parameter['d2h']} bytes x {result.size:,} parameters\n  x "
        f"{result.steps} steps = {result.predicted_bytes['d2h']:,} each way: "
        f"{verdict}\n  peak device memory {result.peak_bytes:,} bytes; moments on the host "
        f"{result.held('host', 'moments'):,} bytes"
    )
    if master := result.held("host", "master"):
        print(f"  float32 master weights on the host {master:,} bytes")
    return result


def _summary(result: _Result, memory_bytes: int) -> dict[str, Any]:
    return {
        "parameters": result.size,
        "weights": result.weights,
        "device_memory_bytes": memory_bytes,
        "device_peak_bytes": result.peak_bytes,
        "host_moment_bytes": result.held("host", "moments"),
        "host_master_bytes": result.held("host", "master"),
        "steps": result.steps,
        "d2h_bytes": result.moved("d2h"),
        "h2d_bytes": result.moved("h2d"),
        "test_accuracy": result.accuracies,
        "loss": result.losses,
        "seconds": round(result.seconds, 3),
    }


# -- the picture ----------------------------------------------------------------------------------


def _draw(result: _Result, memory_bytes: int, path: Path) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    from adamoffload import plots

    with mpl.rc_context(plots.STYLE):
        figure = Figure(figsize=(15, 8.6), layout="constrained")
        axes = figure.subplots(2, 3)
        weights = result.held("device", "parameters")
        state = {"moments": result.held("host", "moments")}
        if master := result.held("host", "master"):
            state["master"] = master
        activations = result.peak_bytes - result.memory.device
        plots.memory(
            {
                "Adam on the device\n(needed, computed)": {
                    "parameters": weights,
                    "gradients": weights,
                    **state,
                    "other": activations,
                },
                "Adam on the host\n(peak, measured)": {
                    "parameters": weights,
                    "gradients": weights,
                    "staging": result.held("device", "staging"),
                    "other": activations,
                },
            },
            memory_bytes,
            ax=axes[0, 0],
        )
        steps = np.arange(1, result.steps + 1)
        axes[0, 1].plot(steps, result.losses, color=plots.LINES[0])
        axes[0, 1].set(title="Loss", xlabel="step", ylabel="cross-entropy of the batch (nats)")
        axes[0, 1].set_yscale("log")
        epochs = np.arange(1, len(result.accuracies) + 1)
        axes[0, 2].plot(epochs, result.accuracies, color=plots.LINES[0], marker="o")
        axes[0, 2].axhline(
            TARGET_ACCURACY,
            color="black",
            linestyle=":",
            linewidth=1.2,
            label=f"to be reached: {TARGET_ACCURACY:.0%}",
        )
        axes[0, 2].legend(loc="lower right")
        axes[0, 2].set(title="Test accuracy", xlabel="epoch", ylabel="images classified right")
        axes[0, 2].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        weights_only = [name for name in result.names if name.endswith("weight")]
        plots.moments(result.probe, weights_only, ax=axes[1, 0])
        plots.step_sizes(result.probe, weights_only, ax=axes[1, 1])
        plots.transfers(result.ledger, result.size, ax=axes[1, 2])
        figure.suptitle(
            f"{result.size:,} parameters trained with Adam on a device of {memory_bytes:,} bytes: "
            f"the {' and '.join(state)} stay on the host",
            fontsize=15,
        )
        save_figure(figure, path)
