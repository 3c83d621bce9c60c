"""The ``torch`` backend: PyTorch's tensors, on the CPU, an NVIDIA GPU or an Apple one.

A tensor and its wrapper are one memory: `TorchBackend.wrap` and `TorchArray.tensor` copy nothing.
What is written here is written for autograd as well: it raises a tensor's version, so that a
backward pass that still needed the old numbers is refused.

On the CPU everything runs at once, as on the ``numpy`` backend. On an NVIDIA GPU, copies run beside
computation, on streams of their own; what is computed stays on the caller's current stream.

The module imports where PyTorch is not installed: ``unavailable`` then says what to install.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import numpy as np

from adamoffload.device.backend import (
    DeviceMemoryError,
    HostArray,
    ResidencyError,
    Ticket,
    backend_of,
)
from adamoffload.device.library import LibraryArray, LibraryBackend
from adamoffload_torch.link import CudaLink, HostLink

__all__ = ["TorchArray", "TorchBackend"]


@final
class TorchArray(LibraryArray):
    """A tensor that answers ``np.*``; see `LibraryArray`."""

    __slots__ = ()

    @property
    def tensor(self) -> Any:
        """The tensor itself: the same memory, without a gradient."""
        return self._array


@final
class TorchBackend(LibraryBackend):
    """A device of PyTorch's.

    Parameters
    ----------
    device : str or torch.device
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    memory_bytes : int, optional
        Bytes that may be in use at once; no limit if left out. Counted are arrays that were made
        here or by ``np.*``; not what PyTorch allocates for a model, nor tensors that are wrapped.

    Raises
    ------
    TypeError, ValueError
        If `memory_bytes` is no whole number of at least 1, or `device` none of PyTorch's.
    RuntimeError
        If there is no such device here.
    ImportError
        If PyTorch is not installed.

    Notes
    -----
    PyTorch has no views in reverse order: ``x[::-1]`` is a ValueError, ``np.flip`` copies. Its
    unsigned integers but uint8 do not compute, and are no element types here.

    Examples
    --------
    >>> import adamoffload as ao
    >>> import numpy as np, torch
    >>> device = ao.get_backend("torch", device="cpu")
    >>> w = torch.ones(3)
    >>> x = device.wrap(w)
    >>> np.multiply(x, 2, out=x)
    TorchArray(shape=(3,), dtype=float32, device='torch')
    >>> w
    tensor([2., 2., 2.])
    """

    name = "torch"
    negative_strides = False
    array_type = TorchArray

    def __init__(self, device: Any = "cpu", memory_bytes: int | None = None) -> None:
        import torch

        from adamoffload_torch import functions, types

        self._torch = torch
        self._numpy_type, self._torch_type = types.numpy_type, types.torch_type
        self.library_type = torch.Tensor
        self.device = _found(torch, device)
        on_cpu = self.device.type == "cpu"
        self.functions = functions.ON_THE_CPU if on_cpu else functions.FUNCTIONS
        super().__init__(memory_bytes)
        self._link: HostLink | CudaLink = HostLink(torch, self)
        if self.device.type == "cuda":
            self._link = CudaLink(torch, self, self.device)

    @classmethod
    def unavailable(cls) -> str:
        """Return why PyTorch cannot be used, and the remedy; empty if it can."""
        try:
            import torch  # noqa: F401
        except ImportError as error:
            return f"PyTorch cannot be imported ({error}); pip install 'adamoffload[torch]'"
        return ""

    def wrap(self, tensor: Any) -> TorchArray:
        """Return a tensor as an array of this device: the same memory, nothing is copied.

        Parameters
        ----------
        tensor : torch.Tensor, or anything with DLPack
            On this device. It is wrapped without its gradient; writing to the array raises the
            version of the tensor.

        Raises
        ------
        ResidencyError
            If it is on another device.
        TypeError
            If it is no tensor, or not a dense one, or its element type has no name in NumPy.
        """
        torch = self._torch
        if not isinstance(tensor, torch.Tensor):
            if backend_of(tensor) is self:
                return tensor  # type: ignore[no-any-return]
            if not hasattr(tensor, "__dlpack__"):
                raise TypeError(f"wrap: expected a tensor, got a {type(tensor).__name__}")
            tensor = torch.from_dlpack(tensor)
        if tensor.layout != torch.strided:
            raise TypeError(f"wrap: expected a dense tensor, got {tensor.layout}")
        if tensor.device != self.device:
            raise _elsewhere(tensor, self)
        self._dtype(tensor)  # raises
        return self._wrapped(tensor.detach())  # type: ignore[return-value]

    def synchronize(self) -> None:
        """Block the host until everything issued to the device, on any stream, is done."""
        self._link.synchronize()

    def run_on_device(
        self, function: Callable[[], object], *, after: tuple[Ticket, ...] = ()
    ) -> Ticket:
        """Issue what `function` computes; on a GPU, to the caller's current stream.

        Parameters
        ----------
        function : callable without arguments
            Issues ``np.*`` operations on arrays of this device.
        after : tuple of Ticket
            What must be done before it starts.
        """
        return self._link.compute(function, after)

    def _d2h(self, source: Any, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        return self._link.down(source._array, target, after)

    def _h2d(self, source: HostArray, target: Any, after: tuple[Ticket, ...]) -> Ticket:
        return self._link.up(source, target._array, after)

    def _empty_pinned(self, size: int, dtype: np.dtype[Any]) -> HostArray:
        return self._link.empty_pinned(size, dtype)

    # -- what `LibraryArray` asks for -------------------------------------------------------------

    def _new(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        try:
            return self._torch.empty(shape, dtype=self._torch_type(dtype), device=self.device)
        except self._torch.OutOfMemoryError as error:
            nbytes = math.prod(shape) * dtype.itemsize
            free, total = self._torch.cuda.mem_get_info(self.device)
            raise DeviceMemoryError(self.name, nbytes, total - free, total) from error

    def _dtype(self, array: Any) -> np.dtype[Any]:
        return self._numpy_type(array.dtype)

    def _strides(self, array: Any) -> tuple[int, ...]:
        return tuple([n * array.itemsize for n in array.stride()])

    def _pointer(self, array: Any) -> int:
        return int(array.data_ptr())

    def _is_view(self, array: Any, source: Any) -> bool:
        pointer = array.untyped_storage().data_ptr()
        return bool(pointer) and bool(pointer == source.untyped_storage().data_ptr())

    def _cast(self, array: Any, dtype: np.dtype[Any]) -> Any:
        return array.to(self._torch_type(dtype))

    def _view(self, array: Any, dtype: np.dtype[Any]) -> Any:
        return array.view(self._torch_type(dtype))

    def _scalar(self, value: Any, dtype: np.dtype[Any]) -> Any:
        where = "mps" if self.device.type == "mps" else "cpu"  # CUDA takes numbers from the host
        number = value.item() if isinstance(value, np.generic) else value
        return self._torch.tensor(number, dtype=self._torch_type(dtype), device=where)

    def _assign(self, target: Any, source: Any) -> None:
        self._set(target, ..., source)

    def _get(self, array: Any, index: Any) -> Any:
        return array[self._places(index)]

    def _set(self, array: Any, index: Any, value: Any) -> None:
        if isinstance(value, np.generic):
            value = value.item()
        if index is Ellipsis and isinstance(value, self._torch.Tensor):
            array.copy_(value)  # also where shapes differ by leading axes
        else:
            array[self._places(index)] = value

    def _add_at(self, array: Any, index: Any, values: Any) -> None:
        places = self._places(index)
        places = places if isinstance(places, tuple) else (places,)
        if not isinstance(values, self._torch.Tensor):
            values = array.new_tensor(values)
        array.index_put_(places, values.to(array.dtype), accumulate=True)

    def _places(self, index: Any) -> Any:
        """Return an index as PyTorch takes it, to whom uint8 would be a mask."""
        if isinstance(index, tuple):
            return tuple(map(self._places, index))
        torch = self._torch
        if isinstance(index, torch.Tensor) and index.dtype not in (torch.bool, torch.int64):
            return index.to(torch.int64)
        return int(index) if isinstance(index, np.integer) else index


def _found(torch: Any, device: Any) -> Any:
    """Return PyTorch's device, with its number, if it is here."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"torch: device must be one of PyTorch's, got {device!r}") from error
    if found.type == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError("torch: PyTorch finds no GPU; check the driver with nvidia-smi")
        index = torch.cuda.current_device() if found.index is None else found.index
        if index >= torch.cuda.device_count():
            raise RuntimeError(f"torch: PyTorch finds {torch.cuda.device_count()} GPUs, no {found}")
        found = torch.device("cuda", index)
    elif found.type == "mps" and not torch.backends.mps.is_available():
        raise RuntimeError("torch: PyTorch finds no Apple GPU here; use device='cpu'")
    elif found.type not in ("cpu", "mps"):
        raise ValueError(f"torch: device must be 'cpu', 'cuda' or 'mps', got {device!r}")
    return found


def _elsewhere(tensor: Any, backend: TorchBackend) -> ResidencyError:
    return ResidencyError(
        f"wrap: the tensor is on {str(tensor.device)!r}, this device is "
        f"{str(backend.device)!r}; move it with tensor.to({str(backend.device)!r})"
    )
