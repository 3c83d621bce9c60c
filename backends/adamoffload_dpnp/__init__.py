"""The ``dpnp`` backend: asynchronous queues on graphics and processors of Intel, and on any x86.

dpnp is NumPy on SYCL. It runs on the graphics of many laptops, and with the OpenCL runtime that is
installed beside it on any x86 processor: so what streams do on a GPU, queues do here for everyone.

- Each of compute, down and up has a queue of its own. Barriers keep what is in one in order, and
  queues are ordered by events alone.
- A copy without tickets to wait for comes after whatever the compute queue holds so far; one with
  tickets comes after these.
- Pinned memory is USM memory of the host, which the device reaches directly.

The module imports where dpnp is not installed: ``unavailable`` then says what to install.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import numpy as np

from adamoffload.device.backend import HostArray, ResidencyError, Ticket
from adamoffload.device.events import Events, Streams, arriving
from adamoffload.device.library import LibraryArray, LibraryBackend

__all__ = ["DpnpArray", "DpnpBackend"]


@final
class DpnpArray(LibraryArray):
    """A dpnp array that answers ``np.*``; see `LibraryArray`."""

    __slots__ = ()

    @property
    def array(self) -> Any:
        """The dpnp array itself: the same memory."""
        return self._array


class DpnpBackend(LibraryBackend):
    """A SYCL device, with three queues.

    Parameters
    ----------
    device : str, optional
        A SYCL filter such as ``"cpu"``, ``"gpu"`` or ``"level_zero:gpu:1"``; SYCL's default, if
        left out.
    memory_bytes : int, optional
        Bytes that may be in use at once; no limit if left out. Counted are arrays that were made
        here or by ``np.*``.

    Raises
    ------
    TypeError, ValueError
        If `memory_bytes` is no whole number of at least 1, or there is no such device.
    ImportError
        If dpnp is not installed.

    Notes
    -----
    *Bits*: OpenCL does not promise a square root that is rounded correctly. Where the device has
    float64, the root of a float32 is taken there, and a step has the bits that it has elsewhere.

    *Times* come from the events' profiles, placed on the host's clock by an event whose time is
    known and that is at most a second old.

    Examples
    --------
    >>> import adamoffload as ao
    >>> device = ao.get_backend("dpnp", device="cpu")  # doctest: +SKIP
    """

    name = "dpnp"
    array_type = DpnpArray

    def __init__(self, device: str | None = None, memory_bytes: int | None = None) -> None:
        import dpctl
        import dpctl.memory
        import dpctl.utils
        import dpnp

        self._dpnp, self._dpctl = dpnp, dpctl
        self.library_type = dpnp.ndarray
        try:
            self.device = dpctl.SyclDevice(device) if device else dpctl.SyclDevice()
        except (TypeError, ValueError, dpctl.SyclDeviceCreationError) as error:
            raise ValueError(
                f"dpnp: there is no SYCL device {device!r} here; {_installed(dpctl)}"
            ) from error
        self.functions: dict[Any, Callable[..., Any]] = _functions(dpnp)
        if self.device.has_aspect_fp64:
            self.functions[np.sqrt] = _exact_root(dpnp)
        super().__init__(memory_bytes)
        option = "enable_profiling"
        first = dpctl.SyclQueue(self.device, property=option)

        def new_queue() -> _Queue:
            queue = dpctl.SyclQueue(first.sycl_context, self.device, property=option)
            return _Queue(queue, dpctl.utils.SequentialOrderManager)

        self._compute = new_queue()
        self._streams = Streams(_SyclEvents(), new_queue, self.now)

    @classmethod
    def unavailable(cls) -> str:
        """Return why there is no SYCL device to use, and the remedy; empty if there is one."""
        try:
            import dpctl
            import dpnp  # noqa: F401
        except ImportError as error:
            return f"dpnp cannot be imported ({error}); pip install 'adamoffload[sycl]'"
        return "" if dpctl.get_devices() else _installed(dpctl)

    def wrap(self, array: Any) -> DpnpArray:
        """Return a dpnp array as an array of this device: the same memory, nothing is copied.

        Parameters
        ----------
        array : dpnp.ndarray
            On this device; what is still computed on its queue is waited for.

        Raises
        ------
        TypeError
            If it is no dpnp array.
        ResidencyError
            If it is on another device.
        """
        if not isinstance(array, self.library_type):
            raise TypeError(f"wrap: expected a dpnp array, got a {type(array).__name__}")
        if array.sycl_device != self.device:
            raise ResidencyError(f"wrap: the array is on {array.sycl_device}, not on {self.device}")
        array.sycl_queue.wait()
        return self._wrapped(array.to_device(self._compute.queue))  # type: ignore[return-value]

    def synchronize(self) -> None:
        """Block the host until everything issued to the three queues is done."""
        for queue in (self._compute, self._streams.down, self._streams.up):
            queue.queue.wait()
        self._streams.finish()

    def run_on_device(
        self, function: Callable[[], object], *, after: tuple[Ticket, ...] = ()
    ) -> Ticket:
        """Issue what `function` computes to the compute queue.

        Parameters
        ----------
        function : callable without arguments
            Issues ``np.*`` operations on arrays of this device.
        after : tuple of Ticket
            What must be done before it starts.
        """
        return self._streams.compute(self._compute, function, after)

    # -- copies ---------------------------------------------------------------------------------

    def _d2h(self, source: Any, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        down = self._streams.down
        start = self._streams.begin(down, self._compute, after)
        arrived, finish = arriving(target, packed=_is_dense(target))
        packed = source._array.to_device(down.queue)  # the same memory, and what packs it is there
        if not packed.flags.c_contiguous:
            packed = self._dpnp.ascontiguousarray(packed)
        if arrived.nbytes:
            packing = [down.barrier()]
            memory = self._memory(packed)
            down.queue.memcpy_async(_bytes(arrived), memory, arrived.nbytes, packing)
        return self._streams.end(down, start, (source, packed, target, arrived), finish)

    def _h2d(self, source: HostArray, target: Any, after: tuple[Ticket, ...]) -> Ticket:
        up = self._streams.up
        if not _is_dense(source):  # the host packs it, and must not before it is complete
            for ticket in after:
                ticket.wait()
        host = source if _is_dense(source) and source.flags.writeable else source.copy()
        start = self._streams.begin(up, self._compute, after)
        there = staged = target._array.to_device(up.queue)
        if not there.flags.c_contiguous:
            staged = self._dpnp.empty(there.shape, dtype=there.dtype, sycl_queue=up.queue)
        if host.nbytes:
            waiting = [up.barrier()]
            up.queue.memcpy_async(self._memory(staged), _bytes(host), host.nbytes, waiting)
        if staged is not there:
            up.barrier()
            there[...] = staged
        return self._streams.end(up, start, (host, target, staged))

    def _memory(self, array: Any) -> Any:
        return self._dpctl.memory.as_usm_memory(array.get_array())

    def _empty_pinned(self, size: int, dtype: np.dtype[Any]) -> HostArray:
        nbytes = max(1, size * dtype.itemsize)
        memory = self._dpctl.memory.MemoryUSMHost(nbytes, queue=self._compute.queue)
        pinned: HostArray = np.asarray(memory)[: size * dtype.itemsize].view(dtype)
        return pinned

    # -- what `LibraryArray` asks for -----------------------------------------------------------

    def _new(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return self._dpnp.empty(shape, dtype=dtype, sycl_queue=self._compute.queue)

    def _dtype(self, array: Any) -> np.dtype[Any]:
        found: np.dtype[Any] = array.dtype
        return found

    def _strides(self, array: Any) -> tuple[int, ...]:
        return tuple(array.strides)

    def _pointer(self, array: Any) -> int:
        return int(array.get_array()._pointer)

    def _is_view(self, array: Any, source: Any) -> bool:
        here, there = array.get_array().usm_data, source.get_array().usm_data
        return bool(here._pointer == there._pointer)

    def _cast(self, array: Any, dtype: np.dtype[Any]) -> Any:
        return array.astype(dtype)

    def _view(self, array: Any, dtype: np.dtype[Any]) -> Any:
        return array.view(dtype)

    def _scalar(self, value: Any, dtype: np.dtype[Any]) -> Any:
        # dpnp brings a number to the device by a copy that the host waits for; this is a kernel.
        return self._dpnp.full((), value, dtype=dtype, sycl_queue=self._compute.queue)

    def _assign(self, target: Any, source: Any) -> None:
        self._set(target, ..., source)

    def _get(self, array: Any, index: Any) -> Any:
        return array[index]

    def _set(self, array: Any, index: Any, value: Any) -> None:
        array[index] = value.item() if isinstance(value, np.generic) else value

    def _add_at(self, array: Any, index: Any, values: Any) -> None:
        # dpnp adds at indices only in a count of places: those of the elements, one by one.
        dpnp, length = self._dpnp, int(np.prod(array.shape[1:], dtype=np.int64))
        row = dpnp.arange(length, sycl_queue=self._compute.queue)
        places = dpnp.reshape(index, (-1, 1)) * length + row
        given = dpnp.broadcast_to(values, (*index.shape, *array.shape[1:]))
        flat = dpnp.reshape(given, (-1,)).astype(array.dtype)
        added = dpnp.bincount(dpnp.reshape(places, (-1,)), weights=flat, minlength=array.size)
        array += dpnp.reshape(added, array.shape).astype(array.dtype)


class _Queue:
    """A queue, as `Streams` takes it."""

    def __init__(self, queue: Any, orders: Any) -> None:
        self.queue = queue
        self._orders = orders  # dpctl's, by which dpnp's functions come after each other

    def barrier(self, *after: Any) -> Any:
        """Return an event: what is issued from now on comes after it, and it after `after`.

        Without `after`, it comes after all that was issued so far.
        """
        event = self.queue.submit_barrier(list(after) or None)
        # A copy within dpnp passes by a barrier that is not yet in the native queue, as it is while
        # it waits for events of other queues. What dpnp is told to come after, it does.
        self._orders[self.queue].add_event_pair(event, event)
        return event

    def wait_event(self, event: _Event) -> None:
        self.barrier(event.event)


class _Event:
    """An event, as `Streams` takes it."""

    def __init__(self, event: Any) -> None:
        self.event = event

    def synchronize(self) -> None:
        self.event.wait()


class _SyclEvents(Events):
    """Barriers of queues."""

    def record(self, stream: Any, *, timed: bool = True) -> Any:  # noqa: ARG002
        return _Event(stream.barrier())

    def done(self, event: Any) -> bool:
        return bool(event.event.execution_status.name == "complete")

    def seconds(self, start: Any, stop: Any) -> float:
        return float(stop.event.profiling_info_end - start.event.profiling_info_end) / 1e9


def _is_dense(host: HostArray) -> bool:
    return host.flags.c_contiguous and min(host.strides, default=0) >= 0


def _bytes(host: HostArray) -> HostArray:
    return host.reshape(-1).view(np.uint8)


def _installed(dpctl: Any) -> str:
    found = ", ".join(device.filter_string for device in dpctl.get_devices())
    if found:
        return f"SYCL finds {found}"
    return (
        "SYCL finds no device; for the processor, let OCL_ICD_FILENAMES name the libintelocl.so of "
        "this environment, or apt-get install pocl-opencl-icd"
    )


def _functions(dpnp: Any) -> dict[Any, Callable[..., Any]]:
    """Return dpnp's functions by NumPy's, whose parameters they have."""
    table = {getattr(np, name): getattr(dpnp, name) for name in _NAMES if hasattr(dpnp, name)}
    table[np.linalg.norm] = dpnp.linalg.norm
    sums = (np.sum, np.mean, np.var, np.std, np.cumsum)
    for function in (np.matmul, np.dot, np.einsum, np.tensordot, *sums):
        table[function] = _in_float32(dpnp, table[function])
    table[np.concatenate] = lambda arrays, axis=0, out=None: dpnp.concatenate(
        arrays, axis=axis, out=out
    )
    table[np.tril] = lambda m, k=0: dpnp.tril(m, k=k)
    table[np.triu] = lambda m, k=0: dpnp.triu(m, k=k)
    return table


def _in_float32(dpnp: Any, product: Callable[..., Any]) -> Callable[..., Any]:
    """Let a product or a sum of float16 be one of float32, rounded once, as hardware does it."""

    def is_half(x: Any) -> bool:
        return isinstance(x, dpnp.ndarray) and x.dtype == np.float16

    def compute(*operands: Any, **options: Any) -> Any:
        if options.get("dtype") is not None or not any(map(is_half, operands)):
            return product(*operands, **options)
        wide = [x.astype(np.float32) if is_half(x) else x for x in operands]
        out, result = options.pop("out", None), product(*wide, **options).astype(np.float16)
        if out is None:
            return result
        out[...] = result
        return out

    return compute


def _exact_root(dpnp: Any) -> Callable[..., Any]:
    """Return a square root of float32 that is rounded correctly, as OpenCL's need not be."""

    def root(x: Any, out: Any = None) -> Any:
        if x.dtype != np.float32:
            return dpnp.sqrt(x, out=out)
        result = dpnp.sqrt(x.astype(np.float64)).astype(np.float32)
        if out is None:
            return result
        out[...] = result
        return out

    return root


_NAMES = (
    "absolute add all allclose amax amin any arccos arcsin arctan arctan2 argmax argmin argsort "
    "array_equal array_split bitwise_and bitwise_or bitwise_xor broadcast_to ceil clip copy "
    "copyto cos cosh count_nonzero cumprod cumsum diagonal divide dot einsum empty_like equal exp "
    "exp2 expand_dims expm1 flip floor floor_divide fmod full_like greater greater_equal hstack "
    "hypot invert isclose isfinite isinf isnan less less_equal log log10 log1p log2 logaddexp "
    "logical_and logical_not logical_or logical_xor matmul matrix_transpose max maximum mean min "
    "minimum moveaxis multiply negative nonzero not_equal ones_like outer pad positive power prod "
    "ravel reciprocal remainder repeat reshape rint roll round sign signbit sin sinh sort split "
    "sqrt square squeeze stack std subtract sum swapaxes take take_along_axis tan tanh tensordot "
    "tile trace transpose trunc var vstack where zeros_like"
).split()
