"""Questions the other way round: which fraction, which model, how many tokens, which host."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from adamoffload.estimates.estimate import Estimate, answer
from adamoffload.estimates.machines import Figure
from adamoffload.estimates.memory import limits
from adamoffload.estimates.models import Model
from adamoffload.estimates.question import MICRO_TOKENS, Question

__all__ = [
    "Fractions",
    "best_fraction",
    "host_that_hides",
    "largest_model",
    "smallest_fraction",
    "tokens_for",
    "with_fraction",
]

_CHUNKS = 200
_GRID = 20


@dataclass(frozen=True)
class Fractions:
    """Which part of a model to offload.

    Attributes
    ----------
    smallest : float or None
        The smallest fraction that fits; None if none does.
    closed_form : float
        The same by the formula ``1 - free / (saved x parameters)``, which knows no tensors.
    fastest : Estimate
        The quickest of those that fit, or of all if none does.
    tried : tuple of Estimate
        Over the fractions from 0 to 1.
    """

    smallest: float | None
    closed_form: float
    fastest: Estimate
    tried: tuple[Estimate, ...]


def with_fraction(question: Question, fraction: float) -> Question:
    """Return the question for another fraction of the model."""
    return replace(question, strategy=replace(question.strategy, fraction=fraction))


def best_fraction(question: Question) -> Fractions:
    """Search for the fraction of the model that a strategy should hold for.

    Examples
    --------
    >>> import adamoffload as ao
    >>> asked = ao.estimate("gpt2-xl", strategy="zero-offload", machine="rtx4090").question
    >>> found = best_fraction(asked)
    >>> round(found.smallest, 2), round(found.closed_form, 2), found.fastest.fits
    (0.33, 0.33, True)
    """
    smallest = _bisect(lambda x: answer(with_fraction(question, x)).fits, 0.0, 1.0)
    fractions = {i / _GRID for i in range(_GRID + 1)}
    if smallest is not None:
        fractions.add(smallest)
    tried = tuple(answer(with_fraction(question, x), _CHUNKS) for x in sorted(fractions))
    fitting = [each for each in tried if each.fits] or list(tried)
    fastest = min(fitting, key=lambda each: each.step_s)
    return Fractions(smallest, smallest_fraction(question), fastest, tried)


def smallest_fraction(question: Question) -> float:
    """Return the smallest fraction that fits on the device, by a formula.

    What is free beside everything that a fraction does not change, over what each parameter saves.
    """
    resident = answer(with_fraction(question, 0.0)).memory["device"]
    whole = answer(with_fraction(question, 1.0)).memory["device"]
    over = resident - limits(question)["device"]
    return min(1.0, max(0.0, over / max(1, resident - whole)))


def largest_model(question: Question) -> int:
    """Return how many parameters fit, in a model of the usual shape; to a thousandth."""

    def fits(parameters: float) -> bool:
        return answer(replace(question, model=Model.of_size(int(parameters)))).fits

    low, high = 1.0, 1e15
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if fits(middle) else (low, middle)
    return int(low)


def tokens_for(question: Question, overhead: float = 0.05) -> int | None:
    """Return from how many tokens a step on the overhead is at most so much; None if from none.

    Micro-batches have at most 8,192 tokens a card.
    """

    def small(tokens: float) -> bool:
        count = math.ceil(tokens / question.cards / MICRO_TOKENS)
        asked = replace(question, tokens_per_step=round(tokens), accumulate=count)
        return answer(asked, _CHUNKS).overhead <= overhead

    low, high = 1.0, 1e9
    if not small(high):
        return None
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if small(middle) else (middle, high)
    return math.ceil(high)


def host_that_hides(question: Question, overhead: float = 0.05) -> float | None:
    """Return the host bandwidth, in bytes a second, from which the overhead is at most so much.

    None if no host is fast enough: the link or the program is the limit.
    """

    def small(rate: float) -> bool:
        figure = Figure(rate, rate, rate, "wanted")
        machine = replace(question.machine, host_bytes_per_s=figure, core_bytes_per_s=figure)
        return answer(replace(question, machine=machine), _CHUNKS).overhead <= overhead

    low, high = 1e8, 1e15
    if not small(high):
        return None
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if small(middle) else (middle, high)
    return high / question.machine.cards


def _bisect(good: Callable[[float], bool], low: float, high: float) -> float | None:
    """Return from where on something is good, to a thousandth; None if nowhere."""
    if good(low):
        return low
    if not good(high):
        return None
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if good(middle) else (middle, high)
    return high
