"""The ``torch`` backend: PyTorch's tensors, on the CPU, an NVIDIA GPU or an Apple one.

A tensor and its wrapper are one memory: `TorchBackend.wrap` and `TorchArray.tensor` copy nothing.
What is written here is written for autograd as well: it raises a tensor's version, so that a
backward pass that still needed the old numbers is refused.

On the CPU everything runs at once, as on the ``numpy`` backend.

The module imports where PyTorch is not installed: ``unavailable`` then says what to install.
"""

from __future__ import annotations

from typing import Any, final

import numpy as np

from adamoffload.device.backend import HostArray, ResidencyError, Ticket, backend_of
from adamoffload.device.library import LibraryArray, LibraryBackend

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
        from adamoffload_torch import functions

        self._torch = torch
        self.library_type = torch.Tensor
        self.functions = functions.FUNCTIONS
        self.device = _found(torch, device)
        super().__init__(memory_bytes)

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
        """Block the host until everything issued to the device is done."""
        if self.device.type == "mps":
            self._torch.mps.synchronize()

    # -- copies -----------------------------------------------------------------------------------

    def _d2h(self, source: Any, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        return self._run(lambda: self._down(source._array, target), after)

    def _h2d(self, source: HostArray, target: Any, after: tuple[Ticket, ...]) -> Ticket:
        return self._run(lambda: self._up(source, target._array), after)

    def _down(self, source: Any, target: HostArray) -> None:
        if _is_dense(target):  # in all of PyTorch's threads, where NumPy has one
            self._tensor_of(target).copy_(source)
        else:
            np.copyto(target, self._ndarray_of(source.cpu()))

    def _up(self, source: HostArray, target: Any) -> None:
        if not (_is_dense(source) and source.flags.writeable):
            source = source.copy()  # a tensor has neither negative strides nor such a flag
        target.copy_(self._tensor_of(source))

    def _tensor_of(self, host: HostArray) -> Any:
        """Return a host array as a tensor: the same memory."""
        if host.dtype.name == "bfloat16":
            return self._torch.from_numpy(host.view(np.int16)).view(self._torch.bfloat16)
        return self._torch.from_numpy(host)

    def _ndarray_of(self, tensor: Any) -> HostArray:
        """Return a tensor on the CPU as a host array: the same memory."""
        if tensor.dtype == self._torch.bfloat16:
            found: HostArray = tensor.view(self._torch.int16).numpy().view(self._dtype(tensor))
        else:
            found = tensor.numpy()
        return found

    # -- what `LibraryArray` asks for -------------------------------------------------------------

    def _new(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        from adamoffload_torch.types import torch_type

        return self._torch.empty(shape, dtype=torch_type(dtype), device=self.device)

    def _dtype(self, array: Any) -> np.dtype[Any]:
        from adamoffload_torch.types import numpy_type

        return numpy_type(array.dtype)

    def _strides(self, array: Any) -> tuple[int, ...]:
        return tuple([n * array.itemsize for n in array.stride()])

    def _pointer(self, array: Any) -> int:
        return int(array.data_ptr())

    def _is_view(self, array: Any, source: Any) -> bool:
        pointer = array.untyped_storage().data_ptr()
        return bool(pointer) and bool(pointer == source.untyped_storage().data_ptr())

    def _cast(self, array: Any, dtype: np.dtype[Any]) -> Any:
        from adamoffload_torch.types import torch_type

        return array.to(torch_type(dtype))

    def _scalar(self, value: Any, dtype: np.dtype[Any]) -> Any:
        from adamoffload_torch.types import torch_type

        where = "mps" if self.device.type == "mps" else "cpu"  # CUDA takes numbers from the host
        number = value.item() if isinstance(value, np.generic) else value
        return self._torch.tensor(number, dtype=torch_type(dtype), device=where)

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
        values = self._torch.as_tensor(values, dtype=array.dtype, device=array.device)
        array.index_put_(places, values, accumulate=True)

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
        found = torch.device("cuda", torch.cuda.current_device() if found.index is None else 0)
    elif found.type == "mps" and not torch.backends.mps.is_available():
        raise RuntimeError("torch: PyTorch finds no Apple GPU here; use device='cpu'")
    elif found.type not in ("cpu", "mps"):
        raise ValueError(f"torch: device must be 'cpu', 'cuda' or 'mps', got {device!r}")
    return found


def _is_dense(host: HostArray) -> bool:
    return host.flags.c_contiguous and min(host.strides, default=0) >= 0


def _elsewhere(tensor: Any, backend: TorchBackend) -> ResidencyError:
    return ResidencyError(
        f"wrap: the tensor is on {str(tensor.device)!r}, this device is "
        f"{str(backend.device)!r}; move it with tensor.to({str(backend.device)!r})"
    )
