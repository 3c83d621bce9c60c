"""The recorded runs of the reference implementation, and where we deliberately do better."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import adamoffload as ao

from reference import BETTER, CASES, ORACLE, construct, replay

BY_ID = {case["id"]: case for case in CASES}


def arrays_of(case: dict[str, Any]) -> dict[str, Any]:
    with np.load(ORACLE / case["file"]) as data:
        return {key: data[key] for key in data.files}


@pytest.mark.parametrize(
    "case", [case for case in CASES if case["id"] not in BETTER], ids=lambda case: case["id"]
)
@pytest.mark.parametrize("chunk_bytes", [4 << 20, 20], ids=["one chunk", "chunks of 5"])
def test_recorded_run_is_reproduced(case: dict[str, Any], chunk_bytes: int) -> None:
    worst = replay(case, chunk_bytes=chunk_bytes)
    assert max(worst) <= 1, worst


def test_all_recordings_are_there() -> None:
    assert len(CASES) == 106
    assert set(BETTER) <= set(BY_ID)


@pytest.mark.parametrize("name", [n for n, why in BETTER.items() if "refused" in why])
def test_accepted_nonsense_is_refused(name: str) -> None:
    case = BY_ID[name]
    with pytest.raises(ValueError, match=r"AdamOffload: (learning_rate|beta2|eps)"):
        construct(case, arrays_of(case))


@pytest.mark.parametrize("name", [n for n, why in BETTER.items() if "exact" in why])
def test_fixed_rate_beside_a_changing_one_is_exact(name: str) -> None:
    case = BY_ID[name]
    arrays = arrays_of(case)
    optimizer, device = construct(case, arrays)
    fixed = {
        parameter
        for group in case["groups"]
        if group.get("lr", {"kind": "float"})["kind"] == "float"
        for parameter in group["params"]
    }
    assert fixed
    alone = {}
    for group in case["groups"]:
        for parameter in fixed & set(group["params"]):
            i = [entry["name"] for entry in case["params"]].index(parameter)
            rate = group.get("lr", case["ctor"]["learning_rate"])["value"]
            w = ao.Parameter(device.asarray(arrays[f"p0_{i}"]), parameter)
            alone[parameter] = (i, w, ao.AdamOffload([w], learning_rate=rate))
    order = [[entry["name"] for entry in case["params"]].index(n) for n in case["param_order"]]
    for step in range(case["completed_steps"]):
        optimizer([device.asarray(arrays[f"g_{i}"][step]) for i in order])
        for i, _, single in alone.values():
            single([device.asarray(arrays[f"g_{i}"][step])])
    together = {p.name: device.asnumpy(p.data) for p in optimizer.parameters}
    for name_, (_, w, _) in alone.items():
        np.testing.assert_array_equal(together[name_], device.asnumpy(w.data))


def test_gradient_centralization_is_applied() -> None:
    case = BY_ID["grp_grad_centralization_ignored"]
    arrays = arrays_of(case)
    optimizer, device = construct(case, arrays)
    plain, _ = construct({**case, "groups": None}, arrays)
    own = plain.parameters[0].backend
    assert own is not None
    for step in range(case["completed_steps"]):
        kernel, bias = arrays["g_0"][step], arrays["g_1"][step]
        optimizer([device.asarray(kernel), device.asarray(bias)])
        centred = kernel - kernel.mean(axis=(1, 2, 3), keepdims=True)
        plain([own.asarray(centred), own.asarray(bias)])
    for ours, expected in zip(optimizer.parameters, plain.parameters, strict=True):
        np.testing.assert_array_equal(device.asnumpy(ours.data), own.asnumpy(expected.data))


def test_exhausted_table_changes_nothing() -> None:
    for name in ("lr_list_exhausted", "lr_group_list_exhausted"):
        case = BY_ID[name]
        arrays = arrays_of(case)
        optimizer, device = construct(case, arrays)
        for step in range(case["completed_steps"]):
            optimizer([device.asarray(arrays[f"g_{i}"][step]) for i in range(len(case["params"]))])
        before = [device.asnumpy(p.data) for p in optimizer.parameters]
        moments = [m.copy() for m in optimizer.moment1.values()]
        with pytest.raises(RuntimeError, match="table has"):
            optimizer([device.asarray(arrays[f"g_{i}"][0]) for i in range(len(case["params"]))])
        assert optimizer.global_step == case["expect_error"]["step"]
        for p, expected in zip(optimizer.parameters, before, strict=True):
            np.testing.assert_array_equal(device.asnumpy(p.data), expected)
        for m, expected in zip(optimizer.moment1.values(), moments, strict=True):
            np.testing.assert_array_equal(m, expected)
