"""The contract holds for what is right, and bites what is broken: each fault in a test of its own.

Every broken backend below is a right one with one mistake that an author could make. It must fail
exactly the tests listed beside it, the first of them with the message that names its fault. The
table is printed in ``docs/backends.rst``, and a test compares the two.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.device.array import DeviceArray, MemoryPool, address, storage
from adamoffload.device.backend import Array, Backend, HostArray, Memory, Ticket
from adamoffload.testing import BackendContract, NewDevice

from lazy_backend import DONE, Later, LazyArray, LazyBackend

pytest_plugins = ["pytester"]

PAGE = Path(__file__).parents[2] / "docs" / "backends.rst"


class TestNumpyBackend(BackendContract):
    @pytest.fixture
    def new_device(self) -> NewDevice:
        return functools.partial(ao.get_backend, "numpy")


class TestSimBackend(BackendContract):
    @pytest.fixture
    def new_device(self) -> NewDevice:
        return functools.partial(ao.get_backend, "sim")


class TestLazyBackend(BackendContract):
    @pytest.fixture
    def new_device(self) -> NewDevice:
        return LazyBackend


class PlainBackend(Backend):
    """What the broken ones are made from: right, and done when its calls return."""

    name = "plain"

    def __init__(self, memory_bytes: int | None = None) -> None:
        self.pool = MemoryPool(self.name, memory_bytes)
        super().__init__()

    def owns(self, array: object) -> bool:
        return isinstance(array, DeviceArray) and array.device is self

    def memory(self) -> Memory:
        return self.pool.memory()

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return DeviceArray(np.empty(shape, dtype), self, self.pool)

    def _address(self, array: Array) -> int:
        return address(array)

    def _d2h(self, source: Array, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        return self._run(lambda: np.copyto(target, storage(source)), after)

    def _h2d(self, source: HostArray, target: Array, after: tuple[Ticket, ...]) -> Ticket:
        return self._run(lambda: np.copyto(storage(target), source), after)


class TestPlainBackend(BackendContract):
    @pytest.fixture
    def new_device(self) -> NewDevice:
        return PlainBackend


class PagedBackend(PlainBackend):
    """Its memory comes in pages of 512 bytes and is kept when it is freed; it knows few dtypes."""

    def __init__(self, memory_bytes: int | None = None) -> None:
        super().__init__(memory_bytes)
        self.pool = PagedPool(self.name, memory_bytes)


class PagedPool(MemoryPool):
    def reserve(self, nbytes: int) -> int:
        return super().reserve(-(-nbytes // 512) * 512)

    def release(self, nbytes: int) -> None:
        super().release(-(-nbytes // 512) * 512)

    def memory(self) -> Memory:
        used, peak, limit = super().memory()
        return Memory(used, min(2 * peak, limit or 2 * peak), limit)


class TestPagedBackend(BackendContract):
    allocation_bytes = 512
    exact_peak = False
    several_devices = False
    dtypes = "bef"

    @pytest.fixture
    def new_device(self) -> NewDevice:
        return PagedBackend


# -- the broken ones ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken:
    backend: NewDevice
    name: str
    mistake: str
    message: str
    fails: tuple[str, ...]


PlainOrLazy = PlainBackend | LazyBackend
BROKEN: list[Broken] = []


def broken(mistake: str, message: str, *fails: str) -> Callable[[type[PlainOrLazy]], Any]:
    """Note a backend's mistake, and what must fail: the first test with this in its message."""

    def note(backend: type[PlainOrLazy]) -> type[PlainOrLazy]:
        BROKEN.append(Broken(backend, backend.__name__, mistake, message, fails))
        return backend

    return note


@broken(
    "d2h does not wait for its tickets",
    "d2h started before the tickets in its `after` were done",
    "d2h_starts_after_its_tickets",
    "a_copy_down_sees_what_was_computed_before",
    "device_work_starts_after_its_tickets",
    "device_work_keeps_its_order",
    "a_ring_of_slots_needs_only_tickets",
    "a_ticket_knows_its_times",
    "training_equals_the_numpy_backend",
)
class ForgetsTicketsDown(LazyBackend):
    def _d2h(self, source: LazyArray, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        return super()._d2h(source, target, ())


@broken(
    "h2d does not wait for its tickets",
    "h2d started before the tickets in its `after` were done: the source was not complete",
    "h2d_starts_after_its_tickets",
)
class ForgetsTicketsUp(LazyBackend):
    def _h2d(self, source: HostArray, target: LazyArray, after: tuple[Ticket, ...]) -> Ticket:
        return super()._h2d(source, target, ())


@broken(
    "work on the device does not wait for its tickets",
    "run_on_device started before the tickets in its `after` were done",
    "device_work_starts_after_its_tickets",
    "a_ring_of_slots_needs_only_tickets",
    "a_ticket_knows_its_times",
    "training_equals_the_numpy_backend",
)
class ForgetsTicketsOfWork(LazyBackend):
    def run_on_device(
        self, function: Callable[[], object], *, after: tuple[Ticket, ...] = ()
    ) -> Ticket:
        return super().run_on_device(function)


@broken(
    "work on the host does not wait for its tickets",
    "run_on_host started before the tickets in its `after`",
    "host_work_starts_after_its_tickets",
    "a_ring_of_slots_needs_only_tickets",
)
class ForgetsTicketsOnTheHost(LazyBackend):
    def run_on_host(
        self,
        function: Callable[[], object],
        *,
        elements: int,
        after: tuple[Ticket, ...] = (),
    ) -> Ticket:
        return super().run_on_host(function, elements=elements)


@broken(
    "the ticket of work on the device is taken on another stream, where nothing runs",
    "a copy down overtook the device's work: is it on another stream?",
    "a_copy_down_sees_what_was_computed_before",
    "device_work_starts_after_its_tickets",
    "device_work_keeps_its_order",
    "a_ring_of_slots_needs_only_tickets",
    "a_ticket_knows_its_times",
    "errors_reach_the_host",
    "training_equals_the_numpy_backend",
)
class CopiesOnTheWrongStream(LazyBackend):
    def run_on_device(
        self, function: Callable[[], object], *, after: tuple[Ticket, ...] = ()
    ) -> Ticket:
        super().run_on_device(function, after=after)
        return DONE


@broken(
    "``np.*`` outside run_on_device does not go through the queue",
    "work on the device ran in another order than issued",
    "device_work_keeps_its_order",
    "training_equals_the_numpy_backend",
)
class ComputesBesideTheQueue(LazyBackend):
    def compute(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        queued, self.queued = self.queued, DONE
        try:
            return super().compute(function, args, kwargs)
        finally:
            self.queued = queued


@broken(
    "small copies block, large ones go on after their ticket was waited for",
    "h2d was still reading after its ticket's wait()",
    "a_ticket_is_done_when_it_was_waited_for",
    "a_copy_overwrites_every_element",
    "asarray_never_aliases_the_host",
    "asnumpy_never_aliases_the_device",
    "d2h_starts_after_its_tickets",
    "h2d_starts_after_its_tickets",
    "device_work_starts_after_its_tickets",
    "host_work_starts_after_its_tickets",
    "a_copy_down_sees_what_was_computed_before",
    "device_work_keeps_its_order",
    "a_ring_of_slots_needs_only_tickets",
    "a_ticket_knows_its_times",
)
class LargeCopiesGoOn(LazyBackend):
    def _h2d(self, source: HostArray, target: LazyArray, after: tuple[Ticket, ...]) -> Ticket:
        copy = super()._h2d(source, target, after)
        return Early(copy) if source.nbytes >= 1 << 14 else copy


class Early(Ticket):
    """Knows of its copy, and leaves it to the device's next synchronize."""

    def __init__(self, copy: Ticket) -> None:
        self.copy = copy

    def wait(self) -> None:
        pass

    @property
    def start_s(self) -> float:
        return self.copy.start_s

    @property
    def stop_s(self) -> float:
        return self.copy.stop_s


@broken(
    "a ticket tells its times before it is done",
    "a ticket told its stop_s before it was done",
    "a_ticket_knows_its_times",
)
class TimesTooEarly(LazyBackend):
    def later(
        self, action: Callable[[], object], after: tuple[Ticket, ...], behind: Ticket = DONE
    ) -> Later:
        ticket = Guess(self, action, after, behind)
        ticket.issued_s = self.now()
        self.in_flight = [t for t in self.in_flight if t.times is None] + [ticket]
        return ticket


class Guess(Later):
    issued_s: float

    @property
    def start_s(self) -> float:
        return self.issued_s

    @property
    def stop_s(self) -> float:
        return self.issued_s


@broken(
    "synchronize waits for the work on the device, not for the copies",
    "synchronize returned while a d2h was in flight",
    "synchronize_finishes_everything",
)
class SynchronizesTheWorkOnly(LazyBackend):
    def synchronize(self) -> None:
        self.queued.wait()


@broken(
    "the error of work on the device is swallowed",
    "run_on_device lost the error of its function",
    "errors_reach_the_host",
)
class SwallowsErrors(PlainBackend):
    def run_on_device(
        self, function: Callable[[], object], *, after: tuple[Ticket, ...] = ()
    ) -> Ticket:
        try:
            return super().run_on_device(function, after=after)
        except Exception:
            return DONE


@broken(
    "d2h copies whole words: up to three bytes at the end are lost",
    "d2h of 1 elements of int8 leaves some of them poisoned",
    "a_copy_overwrites_every_element",
    "a_round_trip_returns_the_same_bits",
    "allocations_do_not_overlap",
)
class LosesTheTail(PlainBackend):
    def _d2h(self, source: Array, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        nbytes = source.nbytes
        if nbytes % 4 == 0 or not target.flags.c_contiguous:
            return super()._d2h(source, target, after)
        bytes_ = np.ascontiguousarray(storage(source)).reshape(-1).view(np.uint8)
        whole = nbytes // 4 * 4
        target.reshape(-1).view(np.uint8)[:whole] = bytes_[:whole]
        return DONE


@broken(
    "the ledger loses the bytes of an odd end",
    "traffic() counts 0 bytes d2h and 0 bytes h2d for copies of 1 bytes",
    "every_copy_is_counted_to_the_byte",
)
class CountsWholeWords(PlainBackend):
    def _check_copy(self, hop: str, device: Array, host: HostArray) -> int:
        return super()._check_copy(hop, device, host) // 4 * 4


@broken(
    "a strided source is first made contiguous by a counted copy of its own",
    "traffic() counts 3 bytes d2h and 6 bytes h2d for copies of 3 bytes",
    "every_copy_is_counted_to_the_byte",
)
class CountsTwice(PlainBackend):
    def _h2d(self, source: HostArray, target: Array, after: tuple[Ticket, ...]) -> Ticket:
        if not source.flags.c_contiguous:
            return self.h2d(np.ascontiguousarray(source), target, after=after)
        return super()._h2d(source, target, after)


@broken(
    "d2h of a view copies its elements in the order of memory",
    "d2h of a transposed array moves elements",
    "a_round_trip_keeps_any_layout",
)
class ForgetsTheOrder(PlainBackend):
    def _d2h(self, source: Array, target: HostArray, after: tuple[Ticket, ...]) -> Ticket:
        memory = storage(source)
        if memory.flags.f_contiguous and memory.ndim > 1:
            memory = memory.ravel(order="K").reshape(memory.shape)
        return self._run(lambda: np.copyto(target, memory), after)


@broken(
    "h2d takes over the host's memory instead of copying it",
    "asarray returns an alias of host memory",
    "asarray_never_aliases_the_host",
    "results_stay_on_the_device",
    "a_ticket_is_done_when_it_was_waited_for",
    "a_copy_down_sees_what_was_computed_before",
    "device_work_keeps_its_order",
    "a_ticket_knows_its_times",
    "synchronize_finishes_everything",
)
class AliasesTheHost(PlainBackend):
    def _h2d(self, source: HostArray, target: Array, after: tuple[Ticket, ...]) -> Ticket:
        whole = storage(target).base is None and source.flags.writeable
        if whole and source.flags.c_contiguous:
            target._array = target._block.root = source
            return DONE
        return super()._h2d(source, target, after)


@broken(
    "a copy of a view copies the memory that begins there",
    "h2d into the view (slice(None, None, None), slice(2, 5, None)) writes the wrong elements",
    "a_copy_reaches_through_views_and_no_further",
)
class IgnoresStrides(PlainBackend):
    def _h2d(self, source: HostArray, target: Array, after: tuple[Ticket, ...]) -> Ticket:
        memory = storage(target)
        if memory.flags.c_contiguous or memory.strides[-1] < 0:
            return super()._h2d(source, target, after)
        flat = np.lib.stride_tricks.as_strided(memory, (memory.size,), (memory.itemsize,))
        return self._run(lambda: np.copyto(flat, source.reshape(-1)), after)


@broken(
    "small allocations of one size share their memory",
    "two allocations overlap in memory",
    "allocations_do_not_overlap",
    "results_stay_on_the_device",
    "addresses_count_bytes",
    "memory_is_counted_to_the_byte",
    "training_equals_the_numpy_backend",
)
class SharesAllocations(PlainBackend):
    def __init__(self, memory_bytes: int | None = None) -> None:
        self.cache: dict[int, HostArray] = {}
        super().__init__(memory_bytes)

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        array = super()._empty(shape, dtype)
        if 0 < array.nbytes <= 128:
            memory = self.cache.setdefault(array.nbytes, np.empty(array.nbytes, np.uint8))
            array._array = array._block.root = memory.view(dtype).reshape(shape)
        return array


@broken(
    "one page-locked buffer serves every slot",
    "_empty_pinned gives out the same memory twice",
    "new_memory_is_as_it_was_asked_for",
    "training_equals_the_numpy_backend",
)
class SharesPinnedMemory(PlainBackend):
    def __init__(self, memory_bytes: int | None = None) -> None:
        self.pinned = np.empty(1 << 20, np.uint8)
        super().__init__(memory_bytes)

    def _empty_pinned(self, size: int, dtype: np.dtype[Any]) -> HostArray:
        return self.pinned.view(dtype)[:size]


@broken(
    "addresses count elements",
    "_address() of a view is not where its first byte is",
    "addresses_count_bytes",
    "training_equals_the_numpy_backend",
)
class AddressesInElements(PlainBackend):
    def _address(self, array: Array) -> int:
        return address(array) // int(array.itemsize)


@broken(
    "the limit is noted and ignored",
    "one byte more than the limit was allocated",
    "the_limit_is_kept",
    "the_memory_error_says_what_was_asked",
    "a_refused_allocation_changes_nothing",
)
class IgnoresTheLimit(PlainBackend):
    def __init__(self, memory_bytes: int | None = None) -> None:
        super().__init__()
        self.limit = memory_bytes

    def memory(self) -> Memory:
        return super().memory()._replace(limit=self.limit)


@broken(
    "what does not fit raises the library's own error",
    "expected DeviceMemoryError, got MemoryError('cudaErrorMemoryAllocation')",
    "the_limit_is_kept",
    "the_memory_error_says_what_was_asked",
    "a_refused_allocation_changes_nothing",
)
class RaisesItsOwnError(PlainBackend):
    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        try:
            return super()._empty(shape, dtype)
        except ao.DeviceMemoryError as error:
            raise MemoryError("cudaErrorMemoryAllocation") from error


@broken(
    "dead arrays are never given back",
    "memory() keeps what dead arrays took",
    "memory_returns_when_arrays_die",
    "the_peak_is_remembered",
    "the_limit_is_kept",
    "threads_do_not_disturb_each_other",
)
class LeaksMemory(PlainBackend):
    def __init__(self, memory_bytes: int | None = None) -> None:
        super().__init__(memory_bytes)
        self.pool.release = lambda nbytes: None  # type: ignore[method-assign]


@broken(
    "the peak is what is in use now",
    "the peak is 0, not 6002",
    "the_peak_is_remembered",
)
class ForgetsThePeak(PlainBackend):
    def memory(self) -> Memory:
        used, _, limit = super().memory()
        return Memory(used, used, limit)


@broken(
    "a refused allocation stays counted",
    "a refused array was counted",
    "a_refused_allocation_changes_nothing",
    "the_limit_is_kept",
)
class CountsTheRefused(PlainBackend):
    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        try:
            return super()._empty(shape, dtype)
        except ao.DeviceMemoryError:
            self.pool._used += 1
            raise


@broken(
    "owns() looks at the array's type only",
    "owns() claims an array of another device of the same kind",
    "devices_are_separate",
    "owns_its_arrays_and_nothing_else",
    "owns_answers_for_any_object_at_any_time",
    "arrays_from_elsewhere_are_refused",
)
class OwnsTooMuch(PlainBackend):
    def owns(self, array: object) -> bool:
        return isinstance(array, DeviceArray)


@broken(
    "owns() asks whatever object it gets for its device",
    "raises for a _Hostile",
    "owns_answers_for_any_object_at_any_time",
)
class OwnsByAttribute(PlainBackend):
    def owns(self, array: object) -> bool:
        return getattr(array, "device", None) is self


@broken(
    "owns() uses what __init__ sets after Backend.__init__",
    "owns() of a device under construction raises for a NoneType",
    "owns_answers_for_any_object_at_any_time",
)
class OwnsTooLate(PlainBackend):
    def __init__(self, memory_bytes: int | None = None) -> None:
        super().__init__(memory_bytes)
        self.kind = DeviceArray

    def owns(self, array: object) -> bool:
        return isinstance(array, self.kind) and array.device is self


@broken(
    "a device array converts itself to a host array",
    "np.asarray copied a device array to the host implicitly",
    "implicit_conversion_is_refused",
)
class ConvertsImplicitly(LazyBackend):
    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> LazyArray:
        return Convertible(DeviceArray(np.empty(shape, dtype), self, self.pool), self)


class Convertible(LazyArray):
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.device.asnumpy(self)


@broken(
    "host operands are copied to the device silently",
    "device + host was computed with an implicit copy",
    "host_and_device_operands_do_not_mix",
)
class MixesOperands(LazyBackend):
    def compute(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        args = [self.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
        return super().compute(function, args, kwargs)


@broken(
    "``np.*`` returns host arrays",
    "the result of np.sum to one number left the device",
    "results_stay_on_the_device",
    "nothing_else_is_counted",
)
class ResultsLeaveTheDevice(LazyBackend):
    def compute(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        result = super().compute(function, args, kwargs)
        reduces = getattr(function, "__name__", "") in ("sum", "reduce")
        return self.asnumpy(result) if reduces else result


@broken(
    "all threads copy through one staging buffer without a lock",
    "threads got each other's numbers",
    "threads_do_not_disturb_each_other",
)
class SharesAStagingBuffer(PlainBackend):
    def __init__(self, memory_bytes: int | None = None) -> None:
        self.staging = np.empty(1 << 24, np.uint8)
        super().__init__(memory_bytes)

    def _h2d(self, source: HostArray, target: Array, after: tuple[Ticket, ...]) -> Ticket:
        for ticket in after:
            ticket.wait()
        staged = self.staging[: source.nbytes].view(source.dtype).reshape(source.shape)
        staged[...] = source
        time.sleep(1e-4)  # the link takes its time
        return super()._h2d(staged, target, ())


@broken(
    "the update is rounded to float16 on its way up",
    "w0 after training differs from numpy's",
    "training_equals_the_numpy_backend",
)
class RoundsOnTheWay(PlainBackend):
    def _h2d(self, source: HostArray, target: Array, after: tuple[Ticket, ...]) -> Ticket:
        if not after or source.dtype != np.float32:
            return super()._h2d(source, target, after)
        return super()._h2d(source.astype(np.float16).astype(np.float32), target, after)


# -- it bites -------------------------------------------------------------------------------------


class Quick(BackendContract):
    elements = 1 << 12


TESTS = [name for name in dir(BackendContract) if name.startswith("test_")]


def failures(new_device: NewDevice) -> dict[str, str]:
    """Return the contract's tests that fail, with their messages."""
    found = {}
    for name in TESTS:
        try:
            getattr(Quick(), name)(new_device)
        except Exception as error:
            found[name.removeprefix("test_")] = str(error)
    return found


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_a_broken_backend_fails_where_it_is_broken(case: Broken) -> None:
    found = failures(case.backend)
    assert set(found) == set(case.fails)
    assert case.message in found[case.fails[0]]


def test_every_promise_is_broken_by_some_backend() -> None:
    bitten = {f"test_{name}" for case in BROKEN for name in case.fails}
    # It rests on asarray, which is final: a plug-in that breaks it has broken owns() before.
    assert set(TESTS) - bitten == {"test_asarray_of_its_own_array_returns_it"}


def test_without_the_fixture_the_contract_says_what_is_missing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from adamoffload.testing import BackendContract
        class TestMine(BackendContract):
            pass
        """
    )
    result = pytester.runpytest_inprocess("-k", "round_trip", "-p", "no:cacheprovider")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*TestMine must define the fixture new_device*"])


def table() -> str:
    """Return the broken backends as the page shows them."""
    rows = [("The mistake", "The test that names it", "Also failing")]
    rows += [
        (case.mistake, f"``{case.fails[0]}``", ", ".join(f"``{name}``" for name in case.fails[1:]))
        for case in BROKEN
    ]
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 35 30 35", ""]
    for row in rows:
        for first, cell in zip("*  ", row, strict=True):
            lines.append(f"   {first} - {cell}".rstrip())
    return "\n".join(lines) + "\n"


def test_the_page_shows_this_table() -> None:
    assert table() in PAGE.read_text(), f"{PAGE.name} must contain:\n\n{table()}"
