"""Fuzz the writers of traces, pages and tables, with atheris (``pip install -e ".[fuzz]"``).

``PYTHONPATH=tests python tests/fuzz/fuzz_writers.py -max_total_time=30 WORK tests/fuzz/ledgers``,
where WORK is a folder for what it finds. An input is a ledger, as ``writers.ledger_of`` reads it. A
crash is anything but a refusal in words, or output that another reader takes for something else.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["adamoffload"]):
    import writers

atheris.instrument_func(writers.judge)
atheris.Setup(sys.argv, writers.judge)
atheris.Fuzz()
