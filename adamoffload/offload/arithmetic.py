"""The arithmetic of a step: a rule, compiled for where it runs and for what it meets there.

Without a master the program takes the gradient and the slots, and writes the update over the
gradient. With one beside it, it moves the master too, and leaves the new weights in the gradient's
place. Both come in two variants, since in every 64th step denormal state becomes zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from inspect import signature
from typing import Any

import numpy as np

from adamoffload.arguments import describe
from adamoffload.engine.converted import Converted
from adamoffload.engine.kernel import Kernel, Span
from adamoffload.engine.program import Program, trace
from adamoffload.names import listed
from adamoffload.plan.chunks import Segment
from adamoffload.plan.step import Step
from adamoffload.rules.rule import Rule, with_flush

__all__ = ["Arithmetic", "Bound", "check_rule", "compiled"]

_TAKEN = ("g", "gradient", "keep", "master", "parameter", "update", "weights")


def check_rule(owner: str, rule: object) -> Rule:
    """Return a rule, or say what is wrong with its declaration.

    Raises
    ------
    TypeError, ValueError
        If it is no rule, or its slots, decay or numbers cannot be.
    """
    if not isinstance(rule, Rule):
        hint = "; call it" if isinstance(rule, type) and issubclass(rule, Rule) else ""
        raise TypeError(
            f"{owner}: rule must be an adamoffload.Rule, such as adamoffload.rules.Adam(), got "
            f"{describe(rule)}{hint}"
        )
    who, slots = f"{owner}: {type(rule).__name__}", rule.slots
    frozen = is_dataclass(rule) and rule.__dataclass_params__.frozen
    if vars(rule) and not frozen:
        raise TypeError(
            f"{who} keeps {listed(list(vars(rule)))} where it can be changed, but a rule is a "
            f"value: make it a frozen dataclass, with @dataclass(frozen=True)"
        )
    given: object = slots
    if not isinstance(given, tuple) or not all(isinstance(s, str) for s in given):
        raise TypeError(f"{who}.slots must be a tuple of names, got {describe(slots)}")
    bad = [s for s in slots if not s.isidentifier() or s in _TAKEN or slots.count(s) > 1]
    if bad:
        raise ValueError(
            f"{who}.slots: {listed(bad)} cannot be the name of a slot: names are identifiers, each "
            f"given once, and none of {', '.join(_TAKEN)}"
        )
    strange = [s for s in rule.squares if s not in slots]
    if strange:
        raise ValueError(f"{who}.squares: {listed(strange, slots)} is none of the slots")
    if rule.decay not in ("l2", "decoupled"):
        raise ValueError(f"{who}.decay must be 'l2' or 'decoupled', got {describe(rule.decay)}")
    return rule


def compiled(rule: Rule, *, master: bool, weights: bool, flush: bool) -> Program:
    """Compile a rule: arrays ``g``, the slots, and with a master ``master`` as well.

    Parameters
    ----------
    rule : Rule
        What to compute.
    master : bool
        Whether a master is moved too.
    weights : bool
        Whether the new weights, rather than the update, take the gradient's place.
    flush : bool
        Whether denormal state becomes zero.

    Raises
    ------
    TypeError
        If the rule cannot be compiled; see `adamoffload.engine.program.trace`.
    """
    numbers = rule.scalars(np.float32(1), 1)
    if not isinstance(numbers, Mapping):
        raise TypeError(
            f"{type(rule).__name__}.scalars must return a mapping from name to number, got "
            f"{describe(numbers)}"
        )
    decoupled = master and rule.decay == "decoupled"
    slots = len(rule.slots)
    try:
        signature(rule.update).bind(*range(1 + slots), **numbers)
    except TypeError as error:
        name, given = type(rule).__name__, ", ".join(["g", *rule.slots])
        raise TypeError(
            f"{name}.update is called with ({given}), by position, and with what {name}.scalars "
            f"returns, by keyword ({', '.join(numbers) or 'nothing'}): {error}"
        ) from error

    def update(g: Any, *arrays: Any, **scalars: Any) -> tuple[Any, ...]:
        keep = scalars.pop("keep", None)
        delta, *new = with_flush(rule.update, flush, g, *arrays[:slots], **scalars)
        if not master:
            return delta, *new
        moved = arrays[slots] * keep + delta if decoupled else arrays[slots] + delta
        return moved if weights else delta, *new, moved

    return trace(
        update,
        arrays=("g", *rule.slots, *(["master"] * master)),
        scalars=(*numbers, *(["keep"] * decoupled)),
        name=type(rule).__name__,
    )


class Arithmetic:
    """A rule made ready to run in one place.

    Parameters
    ----------
    rule : Rule
        What to compute.
    kernel : callable
        Makes a kernel of a program.
    master : bool
        Whether there is a master beside it.

    Attributes
    ----------
    kernels : dict from bool to Kernel
        What runs, by whether denormals are flushed.
    watched : dict from bool to Kernel
        The same, leaving the update in the gradient's place, for who wants to see it.
    converted : dict from bool to Converted
        What runs where something rests in another format than float32.
    """

    def __init__(self, rule: Rule, kernel: Callable[[Program], Kernel], *, master: bool) -> None:
        def made(weights: bool) -> dict[bool, Kernel]:
            return {
                flush: kernel(compiled(rule, master=master, weights=weights, flush=flush))
                for flush in (False, True)
            }

        self.kernels = made(weights=master)
        self.watched = made(weights=False) if master else self.kernels
        self.converted = {flush: Converted(kernel) for flush, kernel in self.kernels.items()}

    @property
    def program(self) -> Program:
        """The program that runs in most steps."""
        return self.kernels[False].program


class Bound:
    """The numbers of one step, bound to the programs that compute with them.

    Parameters
    ----------
    step : Step
        Whose.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._values: dict[int, list[list[Any]]] = {}

    def spans(
        self,
        kernel: Kernel | Converted,
        segments: Sequence[Segment],
        *,
        converted: bool = False,
        late: bool = False,
    ) -> list[Span]:
        """Return the elements of a chunk with what they are computed with.

        Parameters
        ----------
        kernel : Kernel or Converted
            What computes.
        segments : sequence of Segment
            Runs of one class.
        converted : bool
            Whether it takes arrays in other formats,
        late : bool
            and scales and decays the gradient.
        """
        values = self._values.get(id(kernel))
        if values is None:
            bind, step = kernel.program.bind, self._step
            values = [bind({**c.scalars, "keep": c.keep}) for c in step.coefficients]
            if converted:
                scale = step.unscale if late else None
                values = [
                    [bound, scale, c.l2 if late else 0]
                    for bound, c in zip(values, step.coefficients, strict=True)
                ]
            self._values[id(kernel)] = values
        classes = self._step.classes
        return [(s.start, s.stop, values[classes[s.index]]) for s in segments]
