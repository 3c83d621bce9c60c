"""The page "Checkpoints": its examples run, and the reference's checkpoint goes on as it did."""

from __future__ import annotations

import doctest
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reference import ORACLE, U

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.rst"
FACTS = json.loads((ORACLE / "api_facts.json").read_text())["checkpoint"]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the page's examples; return their names."""
    monkeypatch.chdir(PAGE.parents[1])
    test = doctest.DocTestParser().get_doctest(PAGE.read_text(), {}, PAGE.name, str(PAGE), 0)
    assert doctest.DocTestRunner().run(test, clear_globs=False).failed == 0
    return test.globs


def test_the_recorded_values_are_those_of_the_reference(names: dict[str, Any]) -> None:
    arrays = names["arrays"]
    assert set(arrays) == set(FACTS["keys"])
    for key, array in arrays.items():
        assert list(array.shape) == FACTS["shapes"][key]
        assert array.dtype == FACTS["dtypes"][key]
        expected = np.array(FACTS["after_3_steps"][key], FACTS["dtypes"][key])
        np.testing.assert_array_equal(array, expected)


def test_the_run_goes_on_as_in_the_reference(names: dict[str, Any]) -> None:
    optimizer, device = names["opt"], names["device"]
    for gradient in FACTS["grads"][3:]:
        optimizer([device.asarray(np.array(gradient, np.float32))])
    w = device.asnumpy(optimizer.parameters[0].data)
    limit = 4 * U * (1 + 6 * 0.1)  # the bound of oracle/README.md
    np.testing.assert_allclose(w, FACTS["param_after_6_steps"], rtol=0, atol=limit)
    assert optimizer.global_step == 6
