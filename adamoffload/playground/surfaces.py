r"""Loss surfaces of two parameters: the classic test functions, to watch an optimizer on.

Each function is written once, in plain NumPy, elementwise: `adamoffload.value_and_grad`
differentiates it on any device, and a figure evaluates it on a whole grid. `SURFACES` has them by
name, with their minima, a start and a window worth looking at.

References
----------
M. Jamil and X.-S. Yang, "A Literature Survey of Benchmark Functions For Global Optimization
Problems", arXiv:1308.4008, section 3: the numbers 10, 20, 65, 105 and 144 are the functions' there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from adamoffload.arguments import describe

__all__ = [
    "SURFACES",
    "Surface",
    "beale",
    "booth",
    "find",
    "himmelblau",
    "quadratic",
    "rastrigin",
    "rosenbrock",
    "rotated",
    "saddle",
    "styblinski_tang",
    "suggestion",
]


def quadratic(x: Any, y: Any) -> Any:
    r"""Return :math:`(x^2 + 100\,y^2) / 2`: a valley along an axis, of condition number 100.

    Adam divides each coordinate by its own gradients' size: to it, this valley is round.

    Examples
    --------
    >>> quadratic(3.0, 4.0)
    804.5
    """
    return (x**2 + 100 * y**2) / 2


def rotated(x: Any, y: Any) -> Any:
    r"""Return `quadratic` of the coordinates turned by 45 degrees: the same valley, slantwise.

    Gradient descent does not notice the turn, Adam does: its rates belong to the axes (Maes et
    al., "Understanding Adam Requires Better Rotation Dependent Assumptions", arXiv:2410.19964,
    proposition 1).

    Examples
    --------
    >>> round(rotated(1.0, 1.0), 9), round(rotated(-1.0, 1.0), 9)  # along it, and across
    (1.0, 100.0)
    """
    half = math.sqrt(0.5)
    return quadratic(half * (x + y), half * (y - x))


def booth(x: Any, y: Any) -> Any:
    r"""Return :math:`(x + 2y - 7)^2 + (2x + y - 5)^2`, a bowl (Jamil and Yang, 20).

    Examples
    --------
    >>> booth(1.0, 3.0)
    0.0
    """
    return (x + 2 * y - 7) ** 2 + (2 * x + y - 5) ** 2


def rosenbrock(x: Any, y: Any) -> Any:
    r"""Return :math:`100\,(y - x^2)^2 + (1 - x)^2`, a bent valley (Jamil and Yang, 105).

    Into the valley is easy, along it to the minimum is not (H. H. Rosenbrock, "An Automatic Method
    for Finding the Greatest or Least Value of a Function", 1960; his start is the one here).

    Examples
    --------
    >>> rosenbrock(1.0, 1.0), round(rosenbrock(-1.2, 1.0), 9)
    (0.0, 24.2)
    """
    return 100 * (y - x**2) ** 2 + (1 - x) ** 2


def beale(x: Any, y: Any) -> Any:
    r"""Return :math:`\sum_{k=1}^3 (c_k - x + x y^k)^2` (Jamil and Yang, 10).

    With c = (1.5, 2.25, 2.625): steep at the corners, nearly flat in between.

    Examples
    --------
    >>> beale(3.0, 0.5)
    0.0
    """
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def himmelblau(x: Any, y: Any) -> Any:
    r"""Return :math:`(x^2 + y - 11)^2 + (x + y^2 - 7)^2`, with four minima (Jamil and Yang, 65).

    Examples
    --------
    >>> himmelblau(3.0, 2.0)
    0.0
    """
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def styblinski_tang(x: Any, y: Any) -> Any:
    r"""Return :math:`\tfrac12 \sum_z (z^4 - 16 z^2 + 5 z)` over z = x, y (Jamil and Yang, 144).

    Of its four minima one is the lowest.

    Examples
    --------
    >>> styblinski_tang(1.0, 0.0)
    -5.0
    """
    return (x**4 - 16 * x**2 + 5 * x + y**4 - 16 * y**2 + 5 * y) / 2


def rastrigin(x: Any, y: Any) -> Any:
    r"""Return :math:`20 + \sum_z (z^2 - 10 \cos 2 \pi z)` over z = x, y: a bowl full of hollows.

    L. A. Rastrigin, "Systems of Extremal Control" (in Russian), Nauka, 1974.

    Examples
    --------
    >>> float(rastrigin(0.0, 0.0)), float(rastrigin(1.0, 0.0))
    (0.0, 1.0)
    """
    tau = 2 * math.pi
    return 20 + x**2 - 10 * np.cos(tau * x) + y**2 - 10 * np.cos(tau * y)


def saddle(x: Any, y: Any) -> Any:
    r"""Return :math:`x^2/2 + y^4/4 - y^2/2`: a saddle at the origin between two minima.

    Y. Nesterov, "Introductory Lectures on Convex Optimization", 2004, section 1.2.3.

    Examples
    --------
    >>> saddle(0.0, 0.0), saddle(0.0, 1.0)
    (0.0, -0.25)
    """
    return x**2 / 2 + y**4 / 4 - y**2 / 2


@dataclass(frozen=True, slots=True)
class Surface:
    """A function of two parameters and what is known of it.

    Call it to evaluate it, elementwise: ``surface(x, y)``.

    Attributes
    ----------
    name : str
        What `find` knows it by.
    title : str
        How figures call it.
    function : callable
        Takes x and y, in plain ``np.*`` code.
    minima : tuple of (float, float)
        Where it is lowest.
    lowest : float
        Its value there.
    start : (float, float)
        Where a path may begin.
    window : (float, float, float, float)
        The part to look at: left, right, bottom, top.
    """

    name: str
    title: str
    function: Callable[[Any, Any], Any]
    minima: tuple[tuple[float, float], ...]
    lowest: float
    start: tuple[float, float]
    window: tuple[float, float, float, float]

    def __call__(self, x: Any, y: Any) -> Any:
        """Evaluate the function, elementwise."""
        return self.function(x, y)


_HIMMELBLAU = (
    (3.0, 2.0),
    (-2.805118086952745, 3.131312518250573),
    (-3.779310253377747, -3.283185991286169),
    (3.584428340330492, -1.848126526964404),
)
_STYBLINSKI = -2.903534027771177

SURFACES: dict[str, Surface] = {
    surface.name: surface
    for surface in (
        Surface(
            "quadratic",
            "Quadratic, condition number 100",
            quadratic,
            ((0.0, 0.0),),
            0.0,
            (-3.5, 1.5),
            (-4.0, 1.0, -2.0, 2.0),
        ),
        Surface(
            "rotated",
            "Quadratic, condition number 100, turned by 45°",
            rotated,
            ((0.0, 0.0),),
            0.0,
            # where `quadratic` starts, turned
            (math.sqrt(0.5) * -5.0, math.sqrt(0.5) * -2.0),
            (-4.0, 1.0, -3.0, 1.0),
        ),
        Surface("booth", "Booth", booth, ((1.0, 3.0),), 0.0, (-6.0, 6.0), (-8.0, 6.0, -3.0, 9.0)),
        Surface(
            "rosenbrock",
            "Rosenbrock",
            rosenbrock,
            ((1.0, 1.0),),
            0.0,
            (-1.2, 1.0),
            (-2.0, 2.0, -1.0, 3.0),
        ),
        Surface("beale", "Beale", beale, ((3.0, 0.5),), 0.0, (1.0, 1.5), (-1.0, 4.5, -2.0, 2.5)),
        Surface(
            "himmelblau",
            "Himmelblau",
            himmelblau,
            _HIMMELBLAU,
            0.0,
            (-0.5, -4.5),
            (-6.0, 6.0, -6.0, 6.0),
        ),
        Surface(
            "styblinski-tang",
            "Styblinski-Tang",
            styblinski_tang,
            ((_STYBLINSKI, _STYBLINSKI),),
            -78.33233140754282,
            (0.5, 4.5),
            (-5.0, 5.0, -5.0, 5.0),
        ),
        Surface(
            "rastrigin",
            "Rastrigin",
            rastrigin,
            ((0.0, 0.0),),
            0.0,
            (-3.7, 3.3),
            (-5.12, 5.12, -5.12, 5.12),
        ),
        Surface(
            "saddle",
            "Saddle between two minima",
            saddle,
            ((0.0, 1.0), (0.0, -1.0)),
            -0.25,
            (-1.5, 0.001),
            (-2.0, 1.5, -1.75, 1.75),
        ),
    )
}
"""The surfaces by name."""


def find(name: str) -> Surface:
    """Return the surface of that name.

    Raises
    ------
    TypeError
        If `name` is no string.
    ValueError
        If there is none.

    Examples
    --------
    >>> find("rosenbrok")
    Traceback (most recent call last):
    ValueError: no function is called 'rosenbrok'; did you mean 'rosenbrock'? There are: ...
    """
    if not isinstance(name, str):
        raise TypeError(f"find: name must be a string, got {describe(name)}")
    if name not in SURFACES:
        raise ValueError(f"no function is called {name!r}{suggestion(name, SURFACES)}")
    return SURFACES[name]


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: a close one, and all there are.

    Examples
    --------
    >>> suggestion("adm", ["adam", "sgd"])
    "; did you mean 'adam'? There are: adam, sgd"
    """
    from difflib import get_close_matches

    names = list(known)
    close = get_close_matches(name, names, n=1)
    return f"{f'; did you mean {close[0]!r}?' if close else '.'} There are: {', '.join(names)}"
