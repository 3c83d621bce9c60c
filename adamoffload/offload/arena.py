"""Where the host's state lives.

The moments of all parameters stand in two flat arrays, the arena, ordered so that parameters of
one group are neighbours. `adamoffload.plan.chunks` cuts it into what crosses the link at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from adamoffload.device.parameter import Parameter
from adamoffload.offload.groups import Group

__all__ = ["Arena"]

Moments = np.ndarray[Any, np.dtype[np.float32]]


class Arena:
    """The moments of all parameters, in two flat arrays on the host.

    Parameters
    ----------
    parameters : sequence of Parameter
        In update order.
    groups : sequence of Group
        The group of each.

    Attributes
    ----------
    order : tuple of int
        The parameters' places in update order, as they follow each other in the arena.
    m, v : ndarray, shape (size,), float32
        First and second moments, zero at first.
    moment1, moment2 : mapping from str to ndarray
        Views into `m` and `v`, of each parameter's shape, by its name.
    """

    def __init__(self, parameters: Sequence[Parameter], groups: Sequence[Group]) -> None:
        rank = {id(group): i for i, group in reversed(list(enumerate(groups)))}
        self.order = tuple(sorted(range(len(groups)), key=lambda i: rank[id(groups[i])]))
        self.size = sum(p.size for p in parameters)
        self.m: Moments = np.zeros(self.size, np.float32)
        self.v: Moments = np.zeros(self.size, np.float32)
        moment1, moment2 = {}, {}
        start = 0
        for i in self.order:
            parameter = parameters[i]
            stop = start + parameter.size
            moment1[parameter.name] = self.m[start:stop].reshape(parameter.shape)
            moment2[parameter.name] = self.v[start:stop].reshape(parameter.shape)
            start = stop
        names = [parameter.name for parameter in parameters]
        self.moment1 = _in_order(moment1, names)
        self.moment2 = _in_order(moment2, names)


def _in_order(views: dict[str, Moments], names: list[str]) -> Mapping[str, Moments]:
    return MappingProxyType({name: views[name] for name in names})
