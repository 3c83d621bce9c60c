"""The commands ``bench`` and ``backends``: what they list and refuse."""

from __future__ import annotations

import pytest

from adamoffload.cli import main
from adamoffload.device.registry import BackendInfo


def test_backends_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backends"]) == 0
    assert "numpy     available" in capsys.readouterr().out


def test_a_backends_name_may_be_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    infos = {"numpy": BackendInfo("numpy", True), "background": BackendInfo("x", False, "asleep")}
    monkeypatch.setattr("adamoffload.cli.measuring.available_backends", lambda: infos)
    assert main(["backends"]) == 0
    assert capsys.readouterr().out == "numpy      available\nbackground asleep\n"


@pytest.mark.parametrize("sizes", ["", "0", "1e6,x", "1.5"])
def test_wrong_sizes_are_refused(sizes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["bench", "--sizes", sizes])
    assert exit_.value.code == 2
    assert "expected sizes, such as 1e6,1e7" in capsys.readouterr().err
