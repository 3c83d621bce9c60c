"""What ``adamoffload bench`` compares: each peer, ours included, takes one step on the host.

A peer is a function of the number of parameters. It allocates its state and returns
``prepare``, which restores the gradient and is not timed, and ``step``, which is. Each runs in a
process of its own (``python -m adamoffload.cli.peers NAME SIZE``), since several threading
runtimes in one process disturb each other: the process answers every line on standard input by
the median duration, in seconds, of a few steps in a row. An untimed step goes before them, since
what is measured is a training loop, not a process that has just been woken.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import adamoffload as ao
from adamoffload.engine.kernel import kernel_type
from adamoffload.engine.program import trace
from adamoffload.engine.team import Workers, available_cores
from adamoffload.rules.adam import adam, step_size

__all__ = ["Peer", "make", "peers"]

STEPS = 5
"""Timed steps in a row, of which the median is reported."""

Peer = tuple[Callable[[], Any], Callable[[], Any]]

_SCALARS: Any = {
    "lr_t": step_size(np.float32(1e-3), np.float32(0.9), np.float32(0.999)),
    "beta1": np.float32(0.9),
    "beta2": np.float32(0.999),
    "eps": np.float32(1e-8),
}


def peers() -> dict[str, str]:
    """Return the names of all peers, and what each of them is."""
    threads = sorted({1, available_cores()})
    ours = {
        f"{engine} {kind}, {count}t": f"{engine} engine, {kind}, {count} thread(s)"
        for kind in ("update", "step", "step 200")
        for engine in ("numpy", "numba")
        for count in threads
        if kind == "update" or count == threads[-1]
    }
    return {
        "floor": "memory floor: g, m and v read once and written once",
        "textbook": "the rule as written, on whole arrays",
        **ours,
        "copies": "the four copies of a whole step on the numpy backend",
        "torch fused": "torch.optim.Adam(fused=True)",
        "torch foreach": "torch.optim.Adam(foreach=True)",
        "deepspeed": "deepspeed.ops.adam.DeepSpeedCPUAdam",
        "optax": "optax.adam, jitted, arguments donated",
    }


def make(name: str, size: int) -> Peer:
    """Build a peer.

    Raises
    ------
    ImportError
        If its library is not installed.
    """
    if name in _OTHERS:
        return _OTHERS[name](size)
    engine, _, rest = name.partition(" ")
    kind, _, threads = rest.removesuffix("t").partition(", ")
    builders: dict[str, Callable[..., Peer]] = {
        "update": _update,
        "step": _step,
        "step 200": partial(_step, tensors=200),
    }
    return builders[kind](size, engine, int(threads))


def _arrays(size: int) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    rng = np.random.default_rng(0)
    g = rng.standard_normal(size, np.float32)
    return [g, np.zeros(size, np.float32), np.zeros(size, np.float32)]


def _update(size: int, engine: str, threads: int) -> Peer:
    kernel = kernel_type("bench", engine)(trace(adam, ("g", "m", "v"), tuple(_SCALARS)))
    return _in_place(kernel, size, threads)


def _floor(size: int) -> Peer:
    program = trace(lambda g, m, v: (-g, -m, -v), ("g", "m", "v"), ())
    return _in_place(kernel_type("bench", "auto")(program), size, available_cores())


def _in_place(kernel: Any, size: int, threads: int) -> Peer:
    g, m, v = _arrays(size)
    original, team = g.copy(), Workers(threads)

    def step() -> None:
        team.update(kernel, (g, m, v), [(0, size, kernel.program.bind(_SCALARS))])

    return partial(np.copyto, g, original), step


def _textbook(size: int) -> Peer:
    g, m, v = _arrays(size)
    state = [m, v]

    def step() -> None:
        _, state[0], state[1] = adam(g, state[0], state[1], **_SCALARS)

    return _nothing, step


def _step(size: int, engine: str, threads: int, tensors: int = 1) -> Peer:
    device = ao.get_backend("numpy")
    parts = [part.copy() for part in np.array_split(_arrays(size)[0], tensors)]
    parameters = [ao.Parameter(device.asarray(part), f"p{i}") for i, part in enumerate(parts)]
    gradients = tuple(device.asarray(part) for part in parts)
    optimizer = ao.AdamOffload(parameters, engine=engine, threads=threads)
    return _nothing, partial(optimizer, gradients)


def _copies(size: int) -> Peer:
    """Do what a step does beside the update: stage, down, up, apply, chunk by chunk."""
    device = ao.get_backend("numpy")
    g, w = (device.asarray(_arrays(size)[0]) for _ in range(2))
    chunk = min(size, 1 << 20)
    staged, host = device.asarray(np.zeros(chunk, np.float32)), np.zeros(chunk, np.float32)

    def step() -> None:
        for start in range(0, size, chunk):
            stop = min(start + chunk, size)
            slot, buffer = staged[: stop - start], host[: stop - start]
            np.copyto(slot, g[start:stop])
            device.d2h(slot, buffer)
            device.h2d(buffer, slot)
            part = w[start:stop]
            np.add(part, slot, out=part)

    return _nothing, step


def _torch(size: int, **options: Any) -> Peer:
    import torch

    w = torch.zeros(size, requires_grad=True)
    w.grad = torch.from_numpy(_arrays(size)[0])
    return _nothing, torch.optim.Adam([w], lr=1e-3, **options).step


def _deepspeed(size: int) -> Peer:
    import torch
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    w = torch.zeros(size, requires_grad=True)
    w.grad = torch.from_numpy(_arrays(size)[0])
    return _nothing, DeepSpeedCPUAdam([w], lr=1e-3, adamw_mode=False).step


def _optax(size: int) -> Peer:
    import jax
    import optax

    rule = optax.adam(1e-3)
    g = jax.numpy.asarray(_arrays(size)[0])
    state = [jax.numpy.zeros(size), rule.init(jax.numpy.zeros(size))]

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(w: Any, moments: Any, gradient: Any) -> Any:
        delta, moments = rule.update(gradient, moments)
        return optax.apply_updates(w, delta), moments

    def step() -> None:
        state[0], state[1] = jax.block_until_ready(update(state[0], state[1], g))

    return _nothing, step


def _nothing() -> None:
    """Prepare nothing: the step leaves its gradient as it was."""


_OTHERS: dict[str, Callable[[int], Peer]] = {
    "floor": _floor,
    "textbook": _textbook,
    "copies": _copies,
    "torch fused": partial(_torch, fused=True),
    "torch foreach": partial(_torch, foreach=True),
    "deepspeed": _deepspeed,
    "optax": _optax,
}


def main() -> None:
    """Answer each line on standard input by the duration of a step."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries and their compilers may talk, but not in between
    prepare, step = make(sys.argv[1], int(sys.argv[2]))
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        seconds = []
        for _ in range(1 + STEPS):
            prepare()
            began_s = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - began_s)
        print(statistics.median(seconds[1:]), file=answers, flush=True)


if __name__ == "__main__":
    main()
