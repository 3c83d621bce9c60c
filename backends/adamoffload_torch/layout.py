"""How a parameter lies in memory: an optimizer wants it in one piece, in any order of its axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Layout"]


@dataclass(frozen=True, slots=True)
class Layout:
    """The order of axes in which a tensor is contiguous: ``(0, 2, 3, 1)`` for channels last.

    Attributes
    ----------
    axes : tuple of int
        The slowest first.
    """

    axes: tuple[int, ...]

    @classmethod
    def of(cls, name: str, tensor: Any) -> Layout:
        """Return a tensor's.

        Raises
        ------
        ValueError
            If it has gaps, or elements at one place.

        Examples
        --------
        >>> import torch
        >>> Layout.of("w", torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last))
        Layout(axes=(0, 2, 3, 1))
        """
        axes = tuple(range(tensor.ndim))
        if not tensor.is_contiguous():
            axes = tuple(sorted(axes, key=lambda i: -tensor.stride(i)))
        if not tensor.permute(axes).is_contiguous():
            raise ValueError(
                f"Offload: the memory of parameter {name!r} has gaps or overlaps; make the "
                f"parameter of tensor.contiguous()"
            )
        return cls(axes)

    def packed(self, tensor: Any) -> Any:
        """Return a view of a tensor of the parameter's shape, with axes in this order."""
        return tensor if self.axes == (*range(len(self.axes)),) else tensor.permute(self.axes)

    def unpacked(self, tensor: Any) -> Any:
        """Return the view of the parameter's shape of what `packed` returned."""
        return tensor.permute(sorted(range(len(self.axes)), key=self.axes.__getitem__))
