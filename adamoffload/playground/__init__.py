"""Optimizers that walk on surfaces of two parameters, where one can see them walk.

`run` lets several descend; `surfaces` are what they descend, and `adamoffload.plots` draws.
"""

from adamoffload.playground.trajectory import RATES, Trajectory, run

__all__ = ["RATES", "Trajectory", "run"]
