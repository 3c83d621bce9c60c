"""What a grader is told of a student's file: reasons of one line, and what it printed."""

from __future__ import annotations

from pathlib import Path

from submissions import graded, reasons, solution


def test_a_reason_is_one_line(tmp_path: Path) -> None:
    score = graded(tmp_path, 1, "raise ValueError('one\\n\\ntwo')")
    assert set(reasons(score).values()) == {"line 1: your code raised ValueError: one two"}


def test_what_a_file_prints_is_kept_in_part(tmp_path: Path) -> None:
    score = graded(tmp_path, 1, "for i in range(300_000):\n    print('noise')\n" + solution(1))
    assert score.score == score.points
    assert "noise" in score.output
    assert "bytes more" in score.output
    assert len(score.output) < 5000
