"""Plug-ins: found by entry point, loaded when asked for, and no stranger disturbs another."""

from __future__ import annotations

import importlib.metadata
import sys
import types
from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import Any

import pytest

import adamoffload as ao
from adamoffload.device.registry import GROUP, BackendInfo

NUMPY = EntryPoint("numpy", "adamoffload_numpy:NumpyBackend", GROUP)
Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that makes these plug-ins the installed ones: name -> object or module."""

    def install(*entries: EntryPoint, **plug_ins: Any) -> None:
        found = [*entries]
        for name, plug_in in plug_ins.items():
            module = types.ModuleType(f"plug_in_{name}")
            module.__dict__["Plugged"] = plug_in
            monkeypatch.setitem(sys.modules, module.__name__, module)
            found.append(EntryPoint(name, f"{module.__name__}:Plugged", GROUP))
        monkeypatch.setattr(
            importlib.metadata, "entry_points", lambda group: found if group == GROUP else []
        )

    return install


class Plugged(ao.Backend):
    """A backend for the registry alone: it has options and no memory."""

    name = "plugged"

    def __init__(self, size: int = 1, *, mode: str = "a") -> None:
        super().__init__()
        if mode == "bad":
            raise ValueError("mode must be good")
        if mode == "type":
            raise TypeError("mode is of the wrong type")
        self.size = size

    def owns(self, array: object) -> bool:
        return False

    def memory(self) -> ao.Memory:
        return ao.Memory(0, 0, None)

    def _empty(self, shape: Any, dtype: Any) -> Any: ...

    def _address(self, array: Any) -> int:
        return 0

    def _d2h(self, source: Any, target: Any, after: Any) -> Any: ...

    def _h2d(self, source: Any, target: Any, after: Any) -> Any: ...


class NoHardware(Plugged):
    @classmethod
    def unavailable(cls) -> str:
        return "no such device; install a driver"


class Broken(Plugged):
    @classmethod
    def unavailable(cls) -> str:
        raise OSError("driver crashed")


MISSING = EntryPoint("missing", "no_such_module_anywhere:Backend", GROUP)


def test_the_numpy_backend_is_installed_as_anyones_would_be() -> None:
    assert ao.available_backends()["numpy"] == BackendInfo("numpy", available=True)
    assert ao.get_backend("numpy").name == "numpy"


def test_each_call_makes_a_new_device() -> None:
    assert ao.get_backend("numpy") is not ao.get_backend("numpy")


def test_options_reach_the_plug_in(install: Install) -> None:
    install(plugged=Plugged)
    device = ao.get_backend("plugged", size=7)
    assert isinstance(device, Plugged)
    assert device.size == 7


def test_a_broken_plug_in_disturbs_no_other(install: Install) -> None:
    install(MISSING, NUMPY, wrong=int)
    assert ao.get_backend("numpy").name == "numpy"


def test_a_plug_in_is_not_loaded_before_it_is_asked_for(install: Install) -> None:
    install(NUMPY, EntryPoint("lazy", "this:d", GROUP))
    sys.modules.pop("this", None)
    ao.get_backend("numpy")
    with pytest.raises(ValueError):
        ao.get_backend("unknown")
    assert "this" not in sys.modules


def test_a_plug_in_that_fails_to_import_is_listed_with_the_reason(install: Install) -> None:
    install(NUMPY, MISSING)
    infos = ao.available_backends()
    assert list(infos) == ["missing", "numpy"]
    assert infos["numpy"].available
    assert not infos["missing"].available
    assert "ModuleNotFoundError: No module named 'no_such_module_anywhere'" in (
        infos["missing"].reason
    )


def test_a_plug_in_that_fails_to_import_raises_when_asked_for(install: Install) -> None:
    install(MISSING)
    with pytest.raises(ImportError, match=r"'missing' \(no_such_module_anywhere:Backend, from"):
        ao.get_backend("missing")


def test_a_plug_in_that_cannot_run_here_is_listed_and_raises_with_its_reason(
    install: Install,
) -> None:
    install(gpu=NoHardware)
    assert ao.available_backends()["gpu"] == BackendInfo(
        "gpu", available=False, reason="no such device; install a driver"
    )
    with pytest.raises(RuntimeError, match="'gpu' cannot run here: no such device; install"):
        ao.get_backend("gpu")


def test_a_plug_in_that_crashes_when_asked_is_listed_with_the_crash(install: Install) -> None:
    install(NUMPY, gpu=Broken)
    assert ao.available_backends()["gpu"].reason == "driver crashed"
    assert ao.available_backends()["numpy"].available


@pytest.mark.parametrize("plug_in", [int, 3, Plugged.memory])
def test_a_plug_in_that_is_no_backend_is_refused(install: Install, plug_in: Any) -> None:
    install(wrong=plug_in)
    with pytest.raises(
        TypeError, match=r"must be a subclass of adamoffload\.device\.backend\.Backend"
    ):
        ao.get_backend("wrong")
    assert not ao.available_backends()["wrong"].available


def test_an_unknown_name_lists_what_there_is_and_the_closest(install: Install) -> None:
    install(NUMPY, plugged=Plugged)
    with pytest.raises(ValueError, match=r"did you mean 'plugged'\? Installed: numpy, plugged"):
        ao.get_backend("pluged")
    with pytest.raises(ValueError, match=r"called 'zzz'\. Installed: numpy, plugged"):
        ao.get_backend("zzz")


@pytest.mark.parametrize(
    ("name", "meant"), [("cuda", "cupy"), ("cuda:0", "cupy"), ("GPU", "cupy"), ("cpu", "numpy")]
)
def test_a_name_from_elsewhere_gets_a_hint(install: Install, name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"called '{name}'; did you mean '{meant}'\?"):
        ao.get_backend(name)
    install(plugged=Plugged)
    with pytest.raises(ValueError, match=rf"called '{name}'\. Installed: plugged"):
        ao.get_backend(name)


def test_an_unknown_name_says_so_when_there_is_none(install: Install) -> None:
    install()
    with pytest.raises(ValueError, match="Installed: none"):
        ao.get_backend("numpy")


@pytest.mark.parametrize("name", [None, 1, b"numpy", ao.Backend])
def test_a_name_is_a_string(name: Any) -> None:
    with pytest.raises(TypeError, match="name must be a string"):
        ao.get_backend(name)


def test_two_plug_ins_with_one_name_are_an_error(install: Install) -> None:
    install(NUMPY, EntryPoint("numpy", "other_package:Backend", GROUP))
    with pytest.raises(ValueError, match=r"2 plug-ins are called 'numpy'.*other_package:Backend"):
        ao.get_backend("numpy")
    assert "uninstall all but one" in ao.available_backends()["numpy"].reason


def test_one_plug_in_seen_twice_on_the_path_is_one(install: Install) -> None:
    install(NUMPY, NUMPY)
    assert ao.get_backend("numpy").name == "numpy"


def test_an_unknown_option_lists_the_known_ones(install: Install) -> None:
    install(plugged=Plugged)
    with pytest.raises(TypeError, match=r"'plugged' has no option 'sise'; it takes: size, mode"):
        ao.get_backend("plugged", sise=3)


@pytest.mark.parametrize(("mode", "error"), [("bad", ValueError), ("type", TypeError)])
def test_an_error_of_the_options_own_passes_through(
    install: Install, mode: str, error: type[Exception]
) -> None:
    install(plugged=Plugged)
    with pytest.raises(error, match=r"^mode "):
        ao.get_backend("plugged", mode=mode)


def test_a_plug_in_may_take_any_option(install: Install) -> None:
    class Open(Plugged):
        def __init__(self, **options: Any) -> None:
            super().__init__()
            self.options = options

    install(open=Open)
    device = ao.get_backend("open", anything=1)
    assert isinstance(device, Open)
    assert device.options == {"anything": 1}
