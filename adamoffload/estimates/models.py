"""`Model`: a transformer's shape; and public ones, from their published hyper-parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from adamoffload.names import ByName

__all__ = ["Model", "Models", "models"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A decoder-only transformer, as far as its cost is concerned.

    Attributes
    ----------
    name : str
        For messages.
    layers, width : int
        Blocks, and the hidden size.
    heads, kv_heads, head_width : int
        Of attention: queries, keys and values, and the length of each.
    inner : int
        The width of the feed-forward part.
    vocabulary, positions : int
        Rows of the token table, and of a table of positions; 0 for rotary ones.
    gated : bool
        Three matrices without biases and RMS norms, as in Llama; else two with biases and layer
        norms, as in GPT-2.
    head_norms : bool
        Whether queries and keys are normalized, as in Qwen3.
    tied : bool
        Whether the token table is the output's too.
    source : str
        Where the hyper-parameters are from.
    given : tuple of int
        The sizes of its tensors, if they are given instead of following from the shape.

    Examples
    --------
    >>> model = models["llama-2-7b"]
    >>> model.parameters, model.layers, model.width
    (6738415616, 32, 4096)
    >>> len(model.sizes)
    291
    """

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    inner: int
    vocabulary: int
    positions: int = 0
    gated: bool = True
    head_norms: bool = False
    tied: bool = False
    source: str = ""
    given: tuple[int, ...] = ()

    @cached_property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter, from the input to the output."""
        found: dict[str, tuple[int, ...]] = {"tokens": (self.vocabulary, self.width)}
        if self.positions:
            found["positions"] = (self.positions, self.width)
        layer = self._gated_layer() if self.gated else self._plain_layer()
        for i in range(self.layers):
            found |= {f"{i}.{name}": shape for name, shape in layer.items()}
        found["norm.weight"] = (self.width,)
        if not self.gated:
            found["norm.bias"] = (self.width,)
        if not self.tied:
            found["output"] = (self.vocabulary, self.width)
        return found

    def _gated_layer(self) -> dict[str, tuple[int, ...]]:
        d, q, kv = self.width, self.heads * self.head_width, self.kv_heads * self.head_width
        layer: dict[str, tuple[int, ...]] = {"attention.norm": (d,)}
        layer |= {"query": (q, d), "key": (kv, d), "value": (kv, d), "project": (d, q)}
        if self.head_norms:
            layer |= {"query.norm": (self.head_width,), "key.norm": (self.head_width,)}
        layer |= {"feed.norm": (d,), "gate": (self.inner, d), "up": (self.inner, d)}
        return {**layer, "down": (d, self.inner)}

    def _plain_layer(self) -> dict[str, tuple[int, ...]]:
        d, inner = self.width, self.inner
        matrices = {"attention": (3 * d, d), "project": (d, d)}
        matrices |= {"up": (inner, d), "down": (d, inner)}
        layer: dict[str, tuple[int, ...]] = {"norm1.weight": (d,), "norm1.bias": (d,)}
        for name, shape in matrices.items():
            if name == "up":
                layer |= {"norm2.weight": (d,), "norm2.bias": (d,)}
            layer |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        return layer

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Elements of each parameter, from the input to the output."""
        return self.given or tuple(math.prod(shape) for shape in self.tensors.values())

    @cached_property
    def parameters(self) -> int:
        """Elements of all."""
        return sum(self.sizes)

    def forward_flops(self, sequence_length: int = 0) -> float:
        """Return the FLOPs of a token on its way forward: 2 a parameter, and attention's.

        Parameters
        ----------
        sequence_length : int
            Tokens that attend to each other, each to those before it; 0 leaves attention out.
        """
        attention = 2 * self.layers * self.heads * self.head_width * sequence_length
        return 2 * self.parameters + attention

    @classmethod
    def of_size(cls, parameters: int) -> Model:
        """Return the shape that a model of so many parameters usually has: 128 wide per layer.

        Examples
        --------
        >>> model = Model.of_size(7_000_000_000)
        >>> model.layers, model.width, model.parameters
        (33, 4224, 7000000000)
        """
        layers = max(1, round((parameters / 12 / 128**2) ** (1 / 3)))
        width = 128 * layers
        return cls(
            name=f"{parameters:,} parameters",
            layers=layers,
            width=width,
            heads=layers,
            kv_heads=layers,
            head_width=128,
            inner=4 * width,
            vocabulary=32_000,
            source="assumed: 128 wide per layer, a vocabulary of 32,000",
            given=(parameters,),
        )


def _gpt2(name: str, layers: int, width: int, heads: int, source: str) -> Model:
    return Model(
        name=name,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        inner=4 * width,
        vocabulary=50_257,
        positions=1024,
        gated=False,
        tied=True,
        source=source,
    )


def _llama(
    name: str, layers: int, width: int, heads: int, kv_heads: int, inner: int, source: str
) -> Model:
    return Model(
        name=name,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_width=width // heads,
        inner=inner,
        vocabulary=128_256 if "3" in name.split("-")[1] else 32_000,
        source=source,
    )


def _qwen3(name: str, layers: int, width: int, heads: int, inner: int, tied: bool) -> Model:
    return Model(
        name=name,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=8,
        head_width=128,
        inner=inner,
        vocabulary=151_936,
        head_norms=True,
        tied=tied,
        source=f"A. Yang et al., Qwen3 technical report, arXiv:2505.09388, table 1; {name}'s "
        "config.json",
    )


_GPT2 = "A. Radford et al., Language models are unsupervised multitask learners, 2019, table 2"
_LLAMA2 = "H. Touvron et al., Llama 2, arXiv:2307.09288, table 1; its config.json"
_LLAMA3 = "The Llama 3 herd of models, arXiv:2407.21783, table 3"
_LADDER = "J. Ren et al., ZeRO-Offload, arXiv:2101.06840, table 3; vocabulary and context of GPT-2"
_RUNGS = {
    "1b": (20, 2048),
    "2b": (40, 2048),
    "4b": (64, 2304),
    "6b": (53, 3072),
    "8b": (72, 3072),
    "10b": (50, 4096),
    "11b": (55, 4096),
    "12b": (60, 4096),
    "13b": (65, 4096),
    "15b": (78, 4096),
    "20b": (25, 8192),
    "40b": (50, 8192),
    "60b": (75, 8192),
    "70b": (69, 9216),
}


def _all() -> Iterator[Model]:
    yield _gpt2("gpt2", 12, 768, 12, _GPT2)
    yield _gpt2("gpt2-medium", 24, 1024, 16, _GPT2)
    yield _gpt2("gpt2-large", 36, 1280, 20, _GPT2)
    yield _gpt2("gpt2-xl", 48, 1600, 25, _GPT2)
    yield _llama("llama-2-7b", 32, 4096, 32, 32, 11_008, _LLAMA2)
    yield _llama("llama-2-13b", 40, 5120, 40, 40, 13_824, _LLAMA2)
    yield _llama("llama-2-70b", 80, 8192, 64, 8, 28_672, _LLAMA2)
    yield _llama("llama-3-8b", 32, 4096, 32, 8, 14_336, _LLAMA3)
    yield _qwen3("qwen3-0.6b", 28, 1024, 16, 3072, True)
    yield _qwen3("qwen3-1.7b", 28, 2048, 16, 6144, True)
    yield _qwen3("qwen3-4b", 36, 2560, 32, 9728, True)
    yield _qwen3("qwen3-8b", 36, 4096, 32, 12_288, False)
    yield _qwen3("qwen3-14b", 40, 5120, 40, 17_408, False)
    yield _qwen3("qwen3-32b", 64, 5120, 64, 25_600, False)
    for rung, (layers, width) in _RUNGS.items():
        yield _gpt2(f"zero-offload-{rung}", layers, width, width // 128, _LADDER)


class Models(ByName[Model]):
    """Models by name; an unknown name is answered with the one that comes closest."""

    def __init__(self) -> None:
        self._known = {model.name: model for model in _all()}

    kind = "model"


models = Models()
"""Public models by name."""
