"""The step compiler: traces a rule written in NumPy and makes an in-place program of it.

The rule runs once, with symbols for its arrays and scalars (NEP 13). Every ufunc that it calls is
noted, and the notes become a program that needs no temporaries: each result is written over an
operand that is not needed any more, or into one of a few scratch buffers, and what depends on
scalars alone is computed once a step, outside. No rounding changes: the same ufuncs meet the same
values in the same precision.

It knows nothing of Adam, and takes any rule made of elementwise ufuncs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

__all__ = ["Instruction", "Program", "Register", "trace"]

_FLOAT32 = np.dtype(np.float32)


class Register(NamedTuple):
    """A place for a value.

    Attributes
    ----------
    name : str
        As the listing shows it.
    kind : str
        ``array``: an argument, updated in place. ``scratch``: a buffer. ``scalar``: an argument.
        ``folded``: computed from scalars, once a step. ``constant``: stands in the rule.
    dtype : dtype
        Element type.
    value : scalar, optional
        What a constant is.
    """

    name: str
    kind: Literal["array", "scratch", "scalar", "folded", "constant"]
    dtype: np.dtype[Any]
    value: Any = None


class Instruction(NamedTuple):
    """One ufunc call: the numbers of the registers that it reads, and of the one it writes."""

    ufunc: np.ufunc
    operands: tuple[int, ...]
    result: int


@dataclass(frozen=True)
class Program:
    """An elementwise rule as a list of in-place ufunc calls; `trace` makes one, ``str`` lists it.

    Attributes
    ----------
    registers : tuple of Register
        The arrays come first.
    folded : tuple of Instruction
        On scalars: once a step.
    body : tuple of Instruction
        On arrays: for each block.
    """

    registers: tuple[Register, ...]
    folded: tuple[Instruction, ...]
    body: tuple[Instruction, ...]

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the array arguments."""
        return tuple(r.name for r in self.registers if r.kind == "array")

    @property
    def scalars(self) -> tuple[str, ...]:
        """Names of the scalar arguments."""
        return tuple(r.name for r in self.registers if r.kind == "scalar")

    @property
    def scratch(self) -> tuple[np.dtype[Any], ...]:
        """Types of the scratch buffers."""
        return tuple(r.dtype for r in self.registers if r.kind == "scratch")

    @cached_property
    def _constants(self) -> list[Any]:
        return [register.value for register in self.registers]

    @cached_property
    def _scalars(self) -> list[tuple[int, str]]:
        return [(i, r.name) for i, r in enumerate(self.registers) if r.kind == "scalar"]

    @property
    def passes(self) -> int:
        """How many times a block is gone through."""
        return len(self.body)

    @property
    def bytes_per_element(self) -> int:
        """Bytes to and from memory for an element: each array read once and written once.

        Everything else stays in the cache.
        """
        return 2 * sum(r.dtype.itemsize for r in self.registers if r.kind == "array")

    def bind(self, scalars: Mapping[str, Any]) -> list[Any]:
        """Compute what depends on scalars alone.

        Parameters
        ----------
        scalars : mapping from str to float32
            A value for each of `scalars`.

        Returns
        -------
        list
            A value for each register; None for arrays and scratch buffers.
        """
        values = self._constants.copy()
        for i, name in self._scalars:
            values[i] = scalars[name]
        for line in self.folded:
            values[line.result] = line.ufunc(*[values[i] for i in line.operands])
        return values

    def __str__(self) -> str:
        scratch = [r.name for r in self.registers if r.kind == "scratch"]
        lines = [f"arrays    {', '.join(self.arrays)}: float32, updated in place"]
        lines.append(f"scalars   {', '.join(self.scalars)}: float32")
        lines.append(f"scratch   {', '.join(scratch) or 'none'}")
        if self.folded:
            lines += ["once a step:", *(self._show(line) for line in self.folded)]
        lines += ["for each block:", *(self._show(line) for line in self.body)]
        lines.append(
            f"{self.passes} passes over a block in the cache, {self.bytes_per_element} bytes of "
            f"memory traffic an element"
        )
        return "\n".join(lines)

    def _show(self, line: Instruction) -> str:
        operands = ", ".join(self.registers[i].name for i in line.operands)
        width = max(len(r.name) for r in self.registers if r.kind != "constant")
        name = self.registers[line.result].name
        return f"    {name:<{width}} = {line.ufunc.__name__}({operands})"


def trace(
    rule: Callable[..., Any], arrays: Sequence[str], scalars: Sequence[str], name: str = "the rule"
) -> Program:
    """Compile a rule.

    Parameters
    ----------
    rule : callable
        Takes the arrays by position and the scalars by keyword, and returns as many arrays as it
        takes: the k-th result replaces the k-th array. Made of elementwise ufuncs of one result.
    arrays, scalars : sequence of str
        Names of the arguments; all float32.
    name : str
        What messages call it.

    Returns
    -------
    Program

    Raises
    ------
    TypeError
        If the rule does something else with its arguments than passing them to ufuncs.

    Examples
    --------
    >>> import numpy as np
    >>> def momentum(g, m, *, lr, mu):
    ...     m = mu * m + (1 - mu) * g
    ...     return -lr * m, m
    >>> print(trace(momentum, ["g", "m"], ["lr", "mu"]))
    arrays    g, m: float32, updated in place
    scalars   lr, mu: float32
    scratch   none
    once a step:
        k0 = subtract(1, mu)
        k1 = negative(lr)
    for each block:
        m  = multiply(mu, m)
        g  = multiply(k0, g)
        m  = add(m, g)
        g  = multiply(k1, m)
    4 passes over a block in the cache, 16 bytes of memory traffic an element
    """
    tape = _Tape()
    inputs = [tape.note(_Value("array", _FLOAT32, name=name, is_array=True)) for name in arrays]
    named = {name: tape.note(_Value("scalar", _FLOAT32, name=name)) for name in scalars}
    try:
        results = rule(*inputs, **named)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from error
    if not isinstance(results, tuple) or len(results) != len(inputs):
        came = f"{len(results)}" if isinstance(results, tuple) else repr(results)
        raise TypeError(
            f"{name} must return a tuple of {len(inputs)} arrays, the new {', '.join(arrays)}, "
            f"got {came}"
        )
    for array, result in zip(arrays, results, strict=True):
        if not isinstance(result, _Symbol) or not result.value.is_array:
            raise TypeError(
                f"{name}: the new {array} must be computed from its arrays, got {result!r}"
            )
        if result.value.dtype != _FLOAT32:
            raise TypeError(
                f"{name}: the new {array} must be float32, got {result.value.dtype}; compute with "
                f"the scalars and with Python numbers, which are as wide as the arrays"
            )
    return _Allocator(tape.values, [result.number for result in results]).program()


class _Value(NamedTuple):
    """What the tape knows of a value: an argument, a constant, or the result of a ufunc."""

    kind: Literal["array", "scalar", "constant", "result"]
    dtype: np.dtype[Any]
    name: str = ""
    constant: Any = None
    ufunc: Any = None
    operands: tuple[int, ...] = ()
    is_array: bool = False


class _Tape:
    """Notes what a rule computes; equal computations are noted once."""

    def __init__(self) -> None:
        self.values: list[_Value] = []
        self._known: dict[Any, _Symbol] = {}

    def note(self, value: _Value) -> _Symbol:
        symbol = _Symbol(self, len(self.values), value)
        self.values.append(value)
        return symbol

    def call(self, ufunc: np.ufunc, operands: Sequence[Any]) -> _Symbol:
        symbols = [self._symbol(operand) for operand in operands]
        key = (ufunc, *(symbol.number for symbol in symbols))
        if key not in self._known:
            samples = [symbol.sample() for symbol in symbols]
            with np.errstate(all="ignore"):
                dtype = ufunc(*samples).dtype
            self._known[key] = self.note(
                _Value(
                    "result",
                    dtype,
                    ufunc=ufunc,
                    operands=tuple(symbol.number for symbol in symbols),
                    is_array=any(symbol.value.is_array for symbol in symbols),
                )
            )
        return self._known[key]

    def _symbol(self, operand: Any) -> _Symbol:
        if isinstance(operand, _Symbol):
            return operand
        if not isinstance(operand, bool | int | float | np.generic):
            raise TypeError(
                f"a rule computes with its arguments and with numbers only, got {operand!r}"
            )
        key = (type(operand), repr(operand))  # 0.0 == -0.0, but they are two constants
        if key not in self._known:
            dtype = np.result_type(operand)
            self._known[key] = self.note(_Value("constant", dtype, constant=operand))
        return self._known[key]


class _Symbol(NDArrayOperatorsMixin):
    """Stands for an array or a scalar while a rule is traced."""

    def __init__(self, tape: _Tape, number: int, value: _Value) -> None:
        self.tape = tape
        self.number = number
        self.value = value

    def sample(self) -> Any:
        """Return something of this type, to ask a ufunc for the type of its result."""
        if self.value.kind == "constant":
            return self.value.constant  # a Python number is weak (NEP 50)
        one = self.value.dtype.type(1)
        return np.array([one]) if self.value.is_array else one

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if "out" in kwargs:
            raise TypeError(
                f"a rule does not write into its arguments: write 'm = m + g' instead of 'm += g', "
                f"and np.{ufunc.__name__} without out="
            )
        if method != "__call__" or kwargs or ufunc.nout != 1 or ufunc.signature is not None:
            call = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
            raise TypeError(
                f"np.{call} with these arguments is not elementwise with one result, so it cannot "
                f"be part of a rule"
            )
        return self.tape.call(ufunc, inputs)

    def __pow__(self, exponent: Any) -> Any:
        # As NumPy's own arrays do: x * x is exact to rounding, a power need not be.
        square = self.value.is_array and isinstance(exponent, int | float) and exponent == 2
        return np.square(self) if square else np.power(self, exponent)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> NoReturn:
        raise TypeError(
            f"np.{function.__name__} is not a ufunc, so it cannot be part of a rule; write the "
            f"rule with elementwise ufuncs, such as np.maximum or a product with a comparison"
        )

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            "a rule is traced once for all elements: it cannot look at values, branch on them, "
            "index or convert them"
        )

    __bool__ = __float__ = __int__ = __index__ = __len__ = __iter__ = _refuse
    __array__ = __getitem__ = __setitem__ = _refuse

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):  # NumPy asks for protocols
            raise AttributeError(name)
        raise TypeError(f"a rule is written with elementwise ufuncs, it cannot use .{name}")

    def __repr__(self) -> str:
        return self.value.name or f"a traced {'array' if self.value.is_array else 'scalar'}"


class _Allocator:
    """Gives every value of a tape a register, so that as few buffers as possible are needed."""

    def __init__(self, values: Sequence[_Value], outputs: Sequence[int]) -> None:
        self._values = values
        self._outputs = list(outputs)
        self._needed = self._reachable()
        self._home = self._homes()
        self._last_use: dict[int, float] = {}
        for number in self._needed:
            for operand in values[number].operands:
                self._last_use[operand] = number
        for number in outputs:
            self._last_use[number] = float("inf")
        self._registers: list[Register] = []
        self._place: dict[int, int] = {}  # value -> register
        self._holds: dict[int, int] = {}  # array or scratch register -> value
        self._folded: list[Instruction] = []
        self._body: list[Instruction] = []

    def program(self) -> Program:
        arrays = [i for i, value in enumerate(self._values) if value.kind == "array"]
        scalars = [i for i, value in enumerate(self._values) if value.kind == "scalar"]
        for number in [*arrays, *scalars]:
            value = self._values[number]
            kind: Literal["array", "scalar"] = "array" if value.is_array else "scalar"
            self._assign(number, self._register(value.name, kind, value.dtype))
        for number in self._needed:
            value = self._values[number]
            if value.kind == "constant":
                name = f"{value.constant:g}"
                new = self._register(name, "constant", value.dtype, value.constant)
                self._assign(number, new)
            elif value.kind == "result" and value.is_array:
                self._emit_array(number, value)
            elif value.kind == "result":
                name = f"k{len(self._folded)}"
                self._assign(number, self._register(name, "folded", value.dtype))
                self._folded.append(self._instruction(number, value))
        self._bring_home(len(arrays))
        return Program(tuple(self._registers), tuple(self._folded), tuple(self._body))

    def _reachable(self) -> list[int]:
        reached = set(self._outputs)
        for number in range(len(self._values) - 1, -1, -1):
            if number in reached:
                reached.update(self._values[number].operands)
        return sorted(reached)

    def _emit_array(self, number: int, value: _Value) -> None:
        operands = tuple(self._place[i] for i in value.operands)
        for i in set(value.operands):
            if self._last_use[i] == number:
                self._holds.pop(self._place[i], None)  # its buffer may take the result
        register = self._choose(number, value, operands)
        self._assign(number, register)
        self._body.append(Instruction(value.ufunc, operands, register))

    def _choose(self, number: int, value: _Value, operands: Sequence[int]) -> int:
        """Prefer the array that the value is on its way to, then scratch, then any free array."""
        buffers = [i for i, r in enumerate(self._registers) if r.kind in ("scratch", "array")]
        buffers.sort(key=lambda i: (self._registers[i].kind, i in operands), reverse=True)
        for register in [self._home.get(number, -1), *buffers]:
            free = register >= 0 and register not in self._holds
            if free and self._registers[register].dtype == value.dtype:
                return register
        count = sum(r.kind == "scratch" for r in self._registers)
        return self._register(f"s{count}", "scratch", value.dtype)

    def _homes(self) -> dict[int, int]:
        """Return the array that each result should be written to: from the outputs backwards."""
        homes = {number: k for k, number in enumerate(self._outputs)}
        for number in reversed(self._needed):
            if number in homes:
                for operand in self._values[number].operands:
                    if self._values[operand].is_array:
                        homes.setdefault(operand, homes[number])
                        break
        return homes

    def _bring_home(self, count: int) -> None:
        """Copy results that ended elsewhere; those in another's home go over scratch."""
        away = [k for k in range(count) if self._place[self._outputs[k]] != k]
        sources = {}
        for k in away:
            source = self._place[self._outputs[k]]
            if source < count:
                spare = self._register(f"s{k}_out", "scratch", _FLOAT32)
                self._body.append(Instruction(np.positive, (source,), spare))
                source = spare
            sources[k] = source
        for k, source in sources.items():
            self._body.append(Instruction(np.positive, (source,), k))

    def _assign(self, number: int, register: int) -> None:
        self._place[number] = register
        if self._registers[register].kind in ("array", "scratch"):
            self._holds[register] = number

    def _register(self, name: str, kind: Any, dtype: np.dtype[Any], value: Any = None) -> int:
        self._registers.append(Register(name, kind, dtype, value))
        return len(self._registers) - 1

    def _instruction(self, number: int, value: _Value) -> Instruction:
        return Instruction(
            value.ufunc, tuple(self._place[i] for i in value.operands), self._place[number]
        )
