"""`BackendContract`: every promise of a backend, as tests that a plug-in adopts with one fixture.

Only tickets and ``after=`` order anything here, as in the pipeline, so the same tests hold for a
device that does everything at once and for one with queues of its own. Targets are filled with NaN
before they are copied into: what was not copied, or not yet, shows. A test's name is the promise;
its message is the fault.

Running it needs pytest. ``import adamoffload`` does not, and does not import this module.
"""

from __future__ import annotations

from adamoffload.testing.copies import Copies
from adamoffload.testing.memory import Capacity
from adamoffload.testing.operations import Operations
from adamoffload.testing.order import Order
from adamoffload.testing.promises import NewDevice
from adamoffload.testing.residency import Residency
from adamoffload.testing.tickets import Tickets
from adamoffload.testing.training import Training

__all__ = ["BackendContract", "NewDevice"]


class BackendContract(Residency, Operations, Copies, Order, Tickets, Capacity, Training):
    """The tests that every backend passes.

    Subclass it in a test module, under a name that begins with ``Test``, and define the fixture
    ``new_device``, which returns a `NewDevice`. The class attributes say what a device cannot
    help; a backend that can, leaves them alone.

    Attributes
    ----------
    allocation_bytes : int
        An allocation takes a multiple of this many bytes: 512 in CuPy's pool.
    clock_resolution_s : float
        How far apart two readings of one moment may be, in seconds, when the device's clock is
        not the host's.
    exact_peak : bool
        Whether the peak counts live arrays alone, not also what an allocator keeps for the next.
    several_devices : bool
        Whether two devices may exist at once, each owning its own arrays only.
    dtypes : str
        Character codes of the element types that the device can hold.
    elements : int
        Length of the arrays by which order is tested. Larger ones leave more time to be wrong in.

    Examples
    --------
    >>> import functools
    >>> import pytest
    >>> import adamoffload as ao
    >>> from adamoffload.testing import BackendContract
    >>> class TestNumpyBackend(BackendContract):
    ...     @pytest.fixture
    ...     def new_device(self):
    ...         return functools.partial(ao.get_backend, "numpy")

    A test is a method like any other:

    >>> new_device = functools.partial(ao.get_backend, "numpy")
    >>> TestNumpyBackend().test_asarray_never_aliases_the_host(new_device)
    """
