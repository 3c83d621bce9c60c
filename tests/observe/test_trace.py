"""The trace: read back by the rules of the format, and compared with the ledger."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adamoffload as ao

Record = dict[str, Any]

ODD_NAMES = (
    "<script>alert(1)</script>",
    'quote " and \\ backslash',
    "zero\0newline\n",
    "μ 𝜈 \ud800",  # a lone surrogate, which UTF-8 cannot hold
    "]]>&amp;",
    "NaN",
)


@dataclass(frozen=True)
class Span:
    """A ticket whose times are known."""

    start_s: float
    stop_s: float


def read(path: Path) -> dict[str, Any]:
    """Read strict JSON: no bare NaN, no infinity, no key given twice."""

    def no_constant(text: str) -> None:
        raise AssertionError(text)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in pairs}) == len(pairs), pairs
        return dict(pairs)

    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    loaded = json.loads(text, parse_constant=no_constant, object_pairs_hook=unique)
    assert isinstance(loaded, dict)
    return loaded


def of(phase: str, trace: dict[str, Any]) -> list[Record]:
    return [record for record in trace["traceEvents"] if record["ph"] == phase]


def lane_names(trace: dict[str, Any]) -> dict[tuple[int, int], str]:
    return {
        (r["pid"], r["tid"]): r["args"]["name"]
        for r in of("M", trace)
        if r["name"] == "thread_name"
    }


def process_names(trace: dict[str, Any]) -> list[str]:
    return [r["args"]["name"] for r in of("M", trace) if r["name"] == "process_name"]


def train(backend: str = "sim", steps: int = 3, **options: Any) -> ao.Ledger:
    device = ao.get_backend(backend, **options)
    rng = np.random.default_rng(0)
    sizes = (100_000, 5, 150_000)
    parameters = [
        ao.Parameter(device.asarray(np.zeros(n, np.float32)), f"layer{i}")
        for i, n in enumerate(sizes)
    ]
    ledger = ao.Ledger()
    optimizer = ao.AdamOffload(parameters, ledger=ledger, chunk_bytes=200_000, engine="numpy")
    for _ in range(steps):
        optimizer([device.asarray(rng.standard_normal(n).astype(np.float32)) for n in sizes])
    return ledger


@pytest.fixture(scope="module")
def ledger() -> ao.Ledger:
    return train()


@pytest.fixture(scope="module")
def trace(ledger: ao.Ledger, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return read(ao.write_trace(tmp_path_factory.mktemp("trace") / "trace.json", ledger))


def test_every_hop_that_took_time_is_a_slice_in_its_lane(
    ledger: ao.Ledger, trace: dict[str, Any]
) -> None:
    lanes = lane_names(trace)
    found = Counter((r["name"].split()[0], lanes[r["pid"], r["tid"]]) for r in of("X", trace))
    hops = Counter(e.hop for e in ledger.events if e.stop_s > e.start_s)
    assert found == {
        ("step", "steps"): 3,
        ("prepare", "compute"): hops["prepare"],
        ("apply", "compute"): hops["apply"],
        ("d2h", "d2h"): hops["d2h"],
        ("h2d", "h2d"): hops["h2d"],
        ("wait", "wait"): hops["wait"],
        ("update", "update"): hops["update"],
    }
    assert min(found.values()) > 0


def test_times_are_the_ledgers_to_the_nanosecond(ledger: ao.Ledger, trace: dict[str, Any]) -> None:
    origin_s = min(min(event.start_s for event in ledger.events), ledger.memory()["at_s"].min())
    expected = sorted(
        (e.hop, round((e.start_s - origin_s) * 1e9), round((e.stop_s - origin_s) * 1e9))
        for e in ledger.events
        if e.hop in ("d2h", "update", "h2d", "apply")
    )
    found = sorted(
        (hop, round(r["ts"] * 1000), round(r["ts"] * 1000) + round(r["dur"] * 1000))
        for r in of("X", trace)
        if (hop := r["name"].split()[0]) in ("d2h", "update", "h2d", "apply")
    )
    assert found == expected


def test_records_are_sorted_begin_at_zero_and_last_no_negative_time(trace: dict[str, Any]) -> None:
    times = [r["ts"] for r in trace["traceEvents"] if r["ph"] != "M"]
    assert times == sorted(times)
    assert times[0] == 0
    assert all(r["dur"] >= 0 for r in of("X", trace))


def test_slices_of_a_lane_do_not_overlap(trace: dict[str, Any]) -> None:
    assert_no_overlap(trace)


def assert_no_overlap(trace: dict[str, Any]) -> None:
    ends: dict[tuple[int, int], int] = defaultdict(int)
    for r in of("X", trace):
        lane, start_ns = (r["pid"], r["tid"]), round(r["ts"] * 1000)
        assert start_ns >= ends[lane], r
        ends[lane] = start_ns + round(r["dur"] * 1000)


def test_each_chunks_arrow_goes_down_over_the_update_and_up_to_where_it_is_applied(
    ledger: ao.Ledger, trace: dict[str, Any]
) -> None:
    slices: dict[tuple[int, int], list[Record]] = defaultdict(list)
    arrows: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for r in trace["traceEvents"]:  # an arrow is at the latest slice before it in its lane
        if r["ph"] == "X":
            slices[r["pid"], r["tid"]].append(r)
        elif r["ph"] in "stf":
            at = slices[r["pid"], r["tid"]][-1]
            assert at["ts"] <= r["ts"] <= at["ts"] + at["dur"]
            arrows[r["id"]].append((r["ph"], f"{at['name']} of {at['args']['step']}"))
    expected = sorted(
        [
            ("s", f"d2h {e.chunk} of {e.step}"),
            ("t", f"update {e.chunk} of {e.step}"),
            ("t", f"h2d {e.chunk} of {e.step}"),
            ("f", f"apply {e.chunk} of {e.step}"),
        ]
        for e in ledger.events
        if e.hop == "d2h"
    )
    assert sorted(arrows.values()) == expected


def test_every_lane_that_is_used_has_a_name_and_a_place(trace: dict[str, Any]) -> None:
    used = {(r["pid"], r["tid"]) for r in of("X", trace)}
    placed = {(r["pid"], r["tid"]) for r in of("M", trace) if r["name"] == "thread_sort_index"}
    assert used == set(lane_names(trace)) == placed
    assert process_names(trace) == [
        "device (simulated time)",
        "host (simulated time)",
        "bytes (simulated time)",
    ]


def test_the_bytes_are_the_ledgers(ledger: ao.Ledger, trace: dict[str, Any]) -> None:
    moved = [r["args"] for r in of("C", trace) if r["name"] == "moved"]
    for way in ("d2h", "h2d"):
        in_slices = sum(r["args"]["bytes"] for r in of("X", trace) if r["name"].split()[0] == way)
        in_steps = sum(r["args"][f"{way}_bytes"] for r in of("X", trace) if "step " in r["name"])
        series = [values[way] for values in moved]
        assert in_slices == in_steps == series[-1] == 3 * 4 * 250_005
        assert series == sorted(series)
        assert series[0] == 0


def test_a_copy_tells_what_it_carried(trace: dict[str, Any]) -> None:
    copy = next(r for r in of("X", trace) if r["name"] == "d2h 0")
    args = copy["args"]
    assert (args["step"], args["chunk"], args["elements"], args["bytes"]) == (1, 0, 50_000, 200_000)
    assert args["parameters"] == ["layer0 (50,000)"]
    assert args["GB/s"] == pytest.approx(200_000 / (copy["dur"] * 1e3), rel=1e-4)


def test_memory_is_counted_by_place_and_kind(ledger: ao.Ledger, trace: dict[str, Any]) -> None:
    table = ledger.memory()
    counters: dict[tuple[str, str], list[int]] = defaultdict(list)
    for r in of("C", trace):
        for kind, nbytes in r["args"].items():
            counters[r["name"], kind].append(nbytes)
    assert len(table)
    for place, kind in {(str(p), str(k)) for p, k in table[["place", "kind"]].tolist()}:
        rows = table[(table["place"] == place) & (table["kind"] == kind)]
        assert counters[f"{place} memory", kind] == rows["nbytes"].tolist()


def test_a_wall_clock_is_not_called_simulated(tmp_path: Path) -> None:
    trace = read(ao.write_trace(tmp_path / "trace.json", train("numpy", steps=1)))
    assert trace["otherData"]["clock"] == "wall"
    assert process_names(trace) == ["device", "host", "bytes"]
    assert_no_overlap(trace)


def test_the_producer_and_the_clock_are_named(trace: dict[str, Any]) -> None:
    assert trace["otherData"]["clock"] == "simulated"
    assert trace["otherData"]["producer"].startswith("adamoffload ")


def test_equal_runs_give_equal_files_packed_or_not(tmp_path: Path) -> None:
    for name in ("a.json", "a.json.gz"):
        first = ao.write_trace(tmp_path / name, train(steps=1)).read_bytes()
        assert ao.write_trace(str(tmp_path / f"b{name[1:]}"), train(steps=1)).read_bytes() == first
    assert read(tmp_path / "a.json") == read(tmp_path / "a.json.gz")
    flags_and_time = (tmp_path / "a.json.gz").read_bytes()[3:8]  # RFC 1952, section 2.3
    assert flags_and_time == bytes(5)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_may_hold_any_character(tmp_path: Path, name: str) -> None:
    ledger = ao.Ledger()
    ledger.at(1, 0, ((name, 25),))("d2h", 25, 100, Span(0.0, 1.0))
    trace = read(ao.write_trace(tmp_path / "trace.json", ledger))
    assert of("X", trace)[-1]["args"]["parameters"] == [f"{name} (25)"]


def test_a_chunk_of_thousands_names_the_first(tmp_path: Path) -> None:
    ledger = ao.Ledger()
    ledger.at(1, 0, tuple((f"p{i}", 1) for i in range(10_000)))("update", 10_000, 0, Span(0, 1))
    trace = read(ao.write_trace(tmp_path / "trace.json", ledger))
    names = of("X", trace)[-1]["args"]["parameters"]
    assert names == [*(f"p{i} (1)" for i in range(8)), "and 9,992 more"]


def test_work_that_overlaps_in_a_lane_gets_another(tmp_path: Path) -> None:
    ledger = ao.Ledger()
    for chunk, (start_s, stop_s) in enumerate([(0, 3), (1, 4), (2, 5), (3, 6)]):
        ledger.at(1, chunk)("d2h", 1, 4, Span(start_s, stop_s))
    trace = read(ao.write_trace(tmp_path / "trace.json", ledger))
    assert_no_overlap(trace)
    lanes = lane_names(trace)
    found = {r["name"]: lanes[r["pid"], r["tid"]] for r in of("X", trace)}
    assert found == {
        "step 1": "steps",
        "d2h 0": "d2h",
        "d2h 1": "d2h (2)",
        "d2h 2": "d2h (3)",
        "d2h 3": "d2h",
    }


def test_steps_of_optimizers_that_take_turns_stand_one_after_the_other(tmp_path: Path) -> None:
    ledger = ao.Ledger()
    for begin, step in enumerate([1, 2, 1, 2]):  # a second optimizer begins with step 1 again
        ledger.at(step, 0)("update", 1, 0, Span(begin, begin + 1.5))
    trace = read(ao.write_trace(tmp_path / "trace.json", ledger))
    assert_no_overlap(trace)
    steps = [(r["name"], r["ts"]) for r in of("X", trace) if r["name"].startswith("step")]
    assert steps == [("step 1", 0), ("step 2", 1e6), ("step 1", 2e6), ("step 2", 3e6)]


def test_the_trace_of_a_resident_adam_has_its_work_alone(tmp_path: Path) -> None:
    device, ledger = ao.get_backend("sim"), ao.Ledger()
    w = ao.Parameter(device.asarray(np.ones(4, np.float32)), "w")
    optimizer = ao.Adam([w], ledger=ledger)
    optimizer([device.asarray(np.ones(4, np.float32))])
    trace = read(ao.write_trace(tmp_path / "trace.json", ledger))
    assert [r["name"] for r in of("X", trace)] == ["step 1", "apply 0"]
    assert not [r for r in trace["traceEvents"] if r["ph"] in "stf"]


def test_a_copy_outside_a_step_has_no_arrow_and_no_step(tmp_path: Path) -> None:
    ledger = ao.Ledger()
    ledger.at()("h2d", 1, 4, Span(0.0, 1.0))
    trace = read(ao.write_trace(tmp_path / "trace.json", ledger))
    (copy,) = of("X", trace)
    assert (copy["name"], copy["args"]) == (
        "h2d",
        {"elements": 1, "bytes": 4, "GB/s": pytest.approx(4e-9)},
    )
    assert not [r for r in trace["traceEvents"] if r["ph"] in "stf"]


def test_a_way_that_was_cut_short_has_no_arrow(tmp_path: Path) -> None:
    ledger = ao.Ledger()
    record = ledger.at(1, 0)
    record("d2h", 1, 4, Span(0.0, 1.0))
    record("update", 1, 0, Span(1.0, 2.0))
    trace = read(ao.write_trace(tmp_path / "trace.json", ledger))
    assert not [r for r in trace["traceEvents"] if r["ph"] in "stf"]


def test_a_way_that_was_begun_again_has_one_arrow(tmp_path: Path) -> None:
    ledger = ao.Ledger()
    hops = ("d2h", "d2h", "update", "h2d", "apply", "d2h", "update", "h2d", "apply")
    for i, hop in enumerate(hops):  # a step that failed, the same again, that of another optimizer
        ledger.at(1, 0)(hop, 1, 0, Span(i, i + 1))  # type: ignore[arg-type]
    trace = read(ao.write_trace(tmp_path / "trace.json", ledger))
    arrows = [(r["ph"], r["ts"] / 1e6) for r in trace["traceEvents"] if r["ph"] in "stf"]
    assert arrows == [
        *zip("sttf", range(1, 5), strict=True),
        *zip("sttf", range(5, 9), strict=True),
    ]
    assert len({r["id"] for r in trace["traceEvents"] if r["ph"] in "stf"}) == 2


def test_bytes_have_moved_when_their_copy_is_done(tmp_path: Path) -> None:
    ledger = ao.Ledger()
    ledger.at(1, 0)("d2h", 1, 4, Span(0.0, 5.0))  # begins first, ends last
    ledger.at(1, 1)("h2d", 1, 8, Span(1.0, 2.0))
    trace = read(ao.write_trace(tmp_path / "trace.json", ledger))
    moved = [(r["ts"] / 1e6, r["args"]) for r in of("C", trace)]
    assert moved == [
        (0, {"d2h": 0, "h2d": 0}),
        (2, {"d2h": 0, "h2d": 8}),
        (5, {"d2h": 4, "h2d": 8}),
    ]


def test_a_copy_in_no_time_has_no_rate(tmp_path: Path) -> None:
    ledger = ao.Ledger()
    ledger.at(1, 0)("d2h", 1, 4, Span(1.0, 1.0))
    trace = read(ao.write_trace(tmp_path / "trace.json", ledger))
    assert of("X", trace)[-1]["args"] == {"step": 1, "chunk": 0, "elements": 1, "bytes": 4}


def test_nothing_recorded_is_an_error_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the ledger is empty; pass it to AdamOffload"):
        ao.write_trace(tmp_path / "trace.json", ao.Ledger())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_time_that_is_none_is_an_error(tmp_path: Path, bad: float) -> None:
    ledger = ao.Ledger()
    ledger.at(1, 0)("d2h", 1, 4, Span(0.0, bad))
    with pytest.raises(ValueError, match="NaN, infinite or a century apart"):
        ao.write_trace(tmp_path / "trace.json", ledger)


def test_something_else_than_a_ledger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"ledger must be a Ledger, got \[\] \(list\)"):
        ao.write_trace(tmp_path / "trace.json", [])  # type: ignore[arg-type]


def test_a_folder_that_is_missing_is_an_error_that_names_the_file(
    ledger: ao.Ledger, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        ao.write_trace(tmp_path / "missing" / "trace.json", ledger)
    assert caught.value.filename == str(tmp_path / "missing" / "trace.json")


def test_an_arrow_follows_the_way_that_the_strategy_declares(tmp_path: Path) -> None:
    device, ledger = ao.get_backend("sim"), ao.Ledger()
    w = ao.Parameter(device.asarray(np.ones(40, np.float32)), "w")
    opt = ao.Optimizer(
        [w], ao.rules.Adam(), strategy="state-shuttle", ledger=ledger, chunk_bytes=80
    )
    opt([device.asarray(np.ones(40, np.float32))])
    trace = read(ao.write_trace(tmp_path / "trace.json", ledger))
    phases: dict[int, str] = defaultdict(str)
    for r in trace["traceEvents"]:
        if r["ph"] in "stf":
            phases[r["id"]] += r["ph"]
    assert sorted(phases.values()) == ["stttf", "stttf"]  # m and v up, Adam, m and v down


def test_the_disk_is_a_process_where_it_is_used(tmp_path: Path) -> None:
    ledger = ao.Ledger()
    ledger.at(1, 0)("read", 1, 12, Span(0.0, 1.0))
    ledger.at(1, 0)("write", 1, 8, Span(1.0, 2.0))
    trace = read(ao.write_trace(tmp_path / "trace.json", ledger))
    assert process_names(trace) == ["device", "host", "disk", "bytes"]
    (step,) = (r["args"] for r in of("X", trace) if r["name"] == "step 1")
    assert (step["read_bytes"], step["write_bytes"]) == (12, 8)
    assert [r["args"] for r in of("C", trace)][-1] == {"d2h": 0, "h2d": 0, "read": 12, "write": 8}
