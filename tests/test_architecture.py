"""Dependencies point one way, and importing the package is light: read from the source itself."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import adamoffload

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / "adamoffload").rglob("*.py"))
BACKENDS = sorted((ROOT / "backends").rglob("*.py"))
TORCH = ROOT / "backends" / "adamoffload_torch"
LOADED_LATER = [TORCH / f"{name}.py" for name in ("functions", "optimizer", "state", "types")]
"""Modules of backends that import their device library at their top."""
DROP_INS = [TORCH / "optimizer.py"]
"""Modules beside a backend that use the framework as a user would."""
EXAMPLE = ROOT / "tests" / "example_backend" / "adamoffload_background.py"
LAB_FILES = sorted((ROOT / "adamoffload" / "labs").glob("lab*/*.py"))  # use it as a user would
TESTING = sorted((ROOT / "adamoffload" / "testing").rglob("*.py"))
PLOTS = sorted((ROOT / "adamoffload" / "plots").rglob("*.py"))
COMMON = ("arguments", "files", "names", "schedules")
"""What stands beside the rooms, and may be imported from each of them."""
ROOMS = (
    *("rules", "device", "plan", "engine", "observe", "offload", "checkpoint", "estimates"),
    *("autodiff", "playground", "testing", "plots", "reports", "labs", "cli"),
)
"""The rooms of the package: each imports from those before it, and from none that follows."""
TESTED_ELSEWHERE = {
    "offload/hints": "the words are tested where they are said: tests/offload/test_faces.py",
    "observe/rows": "where a probe looks: tests/observe/test_probes.py",
    "observe/sampling": "what it reads there: tests/observe/test_probes.py",
    "testing": "the parts make one contract: tests/testing/test_contract.py breaks each promise",
}
"""Rooms and modules without a test file for each module, and why."""
NOT_AT_IMPORT = (
    *("matplotlib", "ml_dtypes", "tqdm", "cupy", "torch", "numba", "pytest", "importlib.metadata"),
    *("adamoffload_cupy", "adamoffload_numpy", "adamoffload_sim", "adamoffload_torch"),
    *("adamoffload_dpnp", "dpctl", "dpnp"),
)


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the full name of every module, or name in a module, that is imported in `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package if node.level else ""
            module = ".".join(filter(None, [above, node.module or ""]))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imports_of(path: Path) -> set[str]:
    return set(imports(ast.parse(path.read_text()), path.parent.name))


def is_of(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_the_reader_sees_every_form_of_import() -> None:
    source = "import a.b\nfrom c import d\nfrom . import e\nfrom .f import g\ndef h():\n import i"
    assert set(imports(ast.parse(source), "p")) == {"a.b", "c.d", "p.e", "p.f.g", "i"}


def test_every_module_is_in_a_room_or_common_to_all() -> None:
    top = {room_of(module_of(path)) for path in PACKAGE}
    assert top == {"", "__main__", *COMMON, *ROOMS}


@pytest.mark.parametrize("path", sorted({*PACKAGE} - {*LAB_FILES}), ids=name_of)
def test_a_module_has_a_test_of_its_name(path: Path) -> None:
    module = path.relative_to(ROOT / "adamoffload")
    if path.name.startswith("__") or {room_of(module_of(path)), str(module.with_suffix(""))} & set(
        TESTED_ELSEWHERE
    ):
        return
    assert (ROOT / "tests" / module.parent / f"test_{path.name}").is_file()


@pytest.mark.parametrize("path", PACKAGE, ids=name_of)
def test_a_room_imports_only_from_those_before_it(path: Path) -> None:
    """Also for types, and inside of functions."""
    room = room_of(module_of(path))
    if room not in ROOMS or path in LAB_FILES:  # the package itself shows what is in all of them
        return
    others = {room_of(name) for name in imports_of(path) if is_of(name, "adamoffload")} - {room}
    before = ROOMS[: ROOMS.index(room)]
    assert others <= {*COMMON, *before, ""}


@pytest.mark.parametrize("name", COMMON)
def test_what_is_common_to_all_imports_from_no_room(name: str) -> None:
    found = {m for m in imports_of(ROOT / "adamoffload" / f"{name}.py") if is_of(m, "adamoffload")}
    assert {room_of(module) for module in found} <= {"arguments"}


def test_no_module_imports_itself_by_way_of_others() -> None:
    modules = {module_of(path): path for path in PACKAGE}
    graph = {}
    for module, path in modules.items():
        found = imports_of(path)
        named = {name for name in found if name in modules}
        within = {name.rpartition(".")[0] for name in found - named} & set(modules)
        graph[module] = {m for m in named | within if m not in (module, "adamoffload")}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_the_contract_imports_nothing_of_ours() -> None:
    found = imports_of(ROOT / "adamoffload" / "device" / "backend.py")
    assert not {module for module in found if is_of(module, "adamoffload")}


@pytest.mark.parametrize("path", [*BACKENDS, EXAMPLE], ids=name_of)
def test_a_backend_imports_only_from_the_room_of_devices(path: Path) -> None:
    own = path.stem if path == EXAMPLE else path.relative_to(ROOT / "backends").parts[0]
    ours = {
        module
        for module in imports_of(path)
        if is_of(module, "adamoffload") or module.startswith("adamoffload_")
    }
    if path in DROP_INS:
        return
    devices = ("backend", "array", "events", "library")
    contract = [f"adamoffload.device.{name}" for name in devices] + [own]
    if own == "adamoffload_sim":  # which runs on the machines and the clock of estimates
        contract += [f"adamoffload.estimates.{name}" for name in ("clock", "hardware", "machines")]
    assert not {module for module in ours if not is_of(module, *contract)}


@pytest.mark.parametrize("path", sorted({*BACKENDS} - {*LOADED_LATER}), ids=name_of)
def test_a_backend_imports_its_device_library_only_when_it_is_used(path: Path) -> None:
    tree = ast.parse(path.read_text())
    known = {"numpy", "adamoffload", path.parent.name, *sys.stdlib_module_names}
    for node in ast.walk(tree):  # a function's imports happen when it is called
        if isinstance(node, ast.FunctionDef):
            node.body = [ast.Pass()]
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found = {*imports(tree, path.parent.name)}
    assert {name.split(".")[0] for name in found} <= known
    assert not {name for name in found for late in LOADED_LATER if late.stem in name.split(".")}


@pytest.mark.parametrize("path", PACKAGE, ids=name_of)
def test_nothing_imports_a_backend(path: Path) -> None:
    own = {folder.name for folder in (ROOT / "backends").iterdir() if folder.is_dir()}
    assert own
    allowed = {"adamoffload_sim"} if path in LAB_FILES else set()
    ours = {module for module in imports_of(path) if is_of(module, "backends", *own)}
    assert not {module for module in ours if not is_of(module, *allowed)}


@pytest.mark.parametrize("path", PACKAGE, ids=name_of)
def test_nothing_imports_the_contracts_tests(path: Path) -> None:
    names_it_for_type_checkers = path.parent.name == "adamoffload" and path.name == "__init__.py"
    if path not in TESTING and not names_it_for_type_checkers:
        assert not {module for module in imports_of(path) if is_of(module, "adamoffload.testing")}


@pytest.mark.parametrize("path", sorted({*PACKAGE} - {*PLOTS}), ids=name_of)
def test_only_what_draws_imports_plots_and_only_when_it_draws(path: Path) -> None:
    tree = ast.parse(path.read_text())
    top = ast.Module([node for node in tree.body if not is_later(node)], [])
    assert not {m for m in imports(top, path.parent.name) if is_of(m, "adamoffload.plots")}


def is_later(node: ast.stmt) -> bool:
    """Whether an import in `node` happens when a function is called, or for a type checker only."""
    return isinstance(node, ast.FunctionDef) or (
        isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )


@pytest.mark.parametrize("path", sorted({*PACKAGE} - {*PLOTS}), ids=name_of)
def test_only_plots_imports_matplotlib_at_its_top(path: Path) -> None:
    tree = ast.parse(path.read_text())
    top = ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef)], [])
    assert not {m for m in imports(top, path.parent.name) if is_of(m, "matplotlib")}


@pytest.mark.parametrize("path", [*PACKAGE, *BACKENDS], ids=name_of)
def test_the_framework_depends_on_numpy_alone(path: Path) -> None:
    if path in PACKAGE:
        known = {
            "numpy",
            "adamoffload",
            "matplotlib",
            "ml_dtypes",
            "tqdm",
            *sys.stdlib_module_names,
        }
        optional = {"numba"}  # the `fast` extra
        if path.name == "peers.py":
            optional = {"torch", "deepspeed", "jax", "optax"}  # peers, measured if installed
        if path.name == "animation.py":
            optional = {"PIL"}  # Pillow, on which matplotlib depends
        if path in TESTING:
            optional = {"pytest"}  # what runs the contract; nothing of ours imports it
        if path in LAB_FILES:
            optional = {"adamoffload_sim"}
        assert {module.split(".")[0] for module in imports_of(path)} <= known | optional


def test_there_is_no_package_called_backends() -> None:
    assert not (ROOT / "backends" / "__init__.py").exists()


def test_importing_the_package_loads_no_device_and_no_drawing_library() -> None:
    script = "import sys, json, adamoffload; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    modules = set(json.loads(done.stdout))
    assert "adamoffload.device.backend" in modules
    assert not modules.intersection(NOT_AT_IMPORT)
    assert done.stderr == ""


def test_a_misspelt_name_tells_python_where_to_look_for_the_right_one() -> None:
    with pytest.raises(AttributeError, match="'AdamOfload'") as caught:
        _ = adamoffload.AdamOfload  # type: ignore[attr-defined]  # checkers say so too
    assert (caught.value.name, caught.value.obj) == ("AdamOfload", adamoffload)
