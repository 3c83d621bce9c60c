"""Compares names of arrays and entries, and says which come closest where they differ."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from adamoffload.arguments import describe

__all__ = ["ByName", "Spelled", "check_keys", "check_names", "listed", "short", "spelled"]

_SHOWN = 4  # names that a message spells out
_ELSEWHERE = {
    "lr": ("learning_rate",),
    "betas": ("beta1", "beta2"),
    "momentum": ("beta1",),
    "epsilon": ("eps",),
    "parameters": ("params",),
    "model_params": ("params",),
    "optimizer": ("rule",),
    "grad_clip": ("max_norm",),
    "max_grad_norm": ("max_norm",),
}
"""What other libraries call an argument: what it may be called here."""


class Spelled(ABCMeta):
    """A type of classes that say what was meant when a keyword argument is none of theirs.

    Examples
    --------
    >>> class Rule(metaclass=Spelled):
    ...     def __init__(self, learning_rate=1e-3): ...
    >>> Rule(lr=0.1)
    Traceback (most recent call last):
    TypeError: Rule has no argument 'lr': it is called learning_rate
    """

    if not TYPE_CHECKING:  # or the arguments of no constructor would be checked

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            """Construct an object."""
            try:
                return super().__call__(*args, **kwargs)
            except TypeError:
                message = _unknown(cls, kwargs)
                if not message:
                    raise
                raise TypeError(message) from None

    @property
    def __signature__(cls) -> Any:
        """The constructor's, which ``help`` would not find behind ``__call__``."""
        from inspect import signature  # for messages and help only

        own = signature(cls.__init__)  # type: ignore[misc]  # of this very class
        parameters = [*own.parameters.values()][1:]
        return own.replace(parameters=parameters, return_annotation=own.empty)


def _unknown(cls: Spelled, given: Mapping[str, Any]) -> str:
    known = cls.__signature__.parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return ""
    for name in given:
        if name not in known:
            here = [other for other in _ELSEWHERE.get(name, ()) if other in known]
            if here:
                called = " and ".join(here)
                return f"{cls.__name__} has no argument {name!r}: it is called {called}"
            near = listed([name], [*known])
            near = near if "near" in near else f"{name!r}; it takes {', '.join(known)}"
            return f"{cls.__name__} has no argument {near}"
    return ""


def check_keys(
    owner: str, what: str, value: Any, keys: Sequence[str], optional: Sequence[str] = ()
) -> None:
    """Refuse what is no mapping with these keys."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{owner}: {what} must be a dict, got {describe(value)}")
    check_names(owner, what, value, keys, optional)


def check_names(
    owner: str,
    what: str,
    found: Iterable[Any],
    expected: Iterable[str],
    optional: Iterable[str] = (),
) -> None:
    """Refuse names that are missing or not expected, with those that come closest.

    Examples
    --------
    >>> check_names("AdamOffload", "moment1", ["fc.weigth"], ["fc.weight"])
    Traceback (most recent call last):
    ValueError: AdamOffload: moment1 lacks 'fc.weight' (there is 'fc.weigth')
    """
    found, expected, optional = dict.fromkeys(found), dict.fromkeys(expected), {*optional}
    missing = [name for name in expected if name not in found and name not in optional]
    unexpected = [name for name in found if name not in expected]
    wrong = []
    lacking = listed(missing, unexpected, "there is")
    if missing:
        wrong.append(f"lacks {lacking}")
    if unexpected:
        near = [name for name in missing if name not in optional]
        if len(unexpected) > len(missing) or lacking == listed(missing):  # not named there
            wrong.append("has the unexpected " + listed(unexpected, near or [*expected], "near"))
    if wrong:
        raise ValueError(f"{owner}: {what} {' and '.join(wrong)}")


def listed(names: Sequence[Any], candidates: Sequence[Any] = (), word: str = "near") -> str:
    """Spell out the first names, each with the candidate that comes closest."""
    from difflib import get_close_matches  # for messages only

    near = [name[:100] for name in candidates if isinstance(name, str)][:1000]
    parts = []
    for name in names[:_SHOWN]:
        close = get_close_matches(name[:100], near, 1) if isinstance(name, str) else []
        shown = short(name)
        parts.append(f"{shown} ({word} {short(close[0])})" if close else shown)
    more = len(names) - _SHOWN
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")


def short(name: Any) -> str:
    """Return how a message shows a name, which may be of any length."""
    shown = repr(name) if isinstance(name, str) else describe(name)
    return shown if len(shown) <= 80 else f"{shown[:60]}... ({len(shown)} characters)"


def spelled(function: Any) -> str:
    """Return how a function of NumPy's is written in a program.

    Examples
    --------
    >>> import numpy as np
    >>> spelled(np.linalg.norm), spelled(np.add)
    ('np.linalg.norm', 'np.add')
    """
    module = getattr(function, "__module__", None) or "numpy"  # a ufunc has none
    return f"{module.replace('numpy', 'np', 1)}.{function.__name__}"


Value = TypeVar("Value")


class ByName(Mapping[str, Value]):
    """Values by name; an unknown name is answered with the one that comes closest.

    Attributes
    ----------
    kind, kinds : str
        What one of them is, and several; an s is added, if the second is left out.
    """

    kind: ClassVar[str]
    kinds: ClassVar[str] = ""
    _known: Any  # a mapping from name to value, also one that is made when it is asked for

    def __getitem__(self, name: str) -> Value:
        if name not in self._known:
            shown = listed([name], [*self._known])
            raise KeyError(f"no {self.kind} {shown}; there are {', '.join(self._known)}")
        value: Value = self._known[name]
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def __repr__(self) -> str:
        return f"{self.kinds or self.kind + 's'}: {', '.join(self._known)}"
