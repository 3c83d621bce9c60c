"""The peers of the benchmark: each takes a step."""

from __future__ import annotations

from adamoffload.cli.peers import make, peers


def test_every_peer_of_ours_takes_a_step() -> None:
    for name in peers():
        if name.startswith(("floor", "textbook", "numpy", "copies")):
            prepare, step = make(name, 1000)
            for _ in range(2):
                prepare()
                step()
