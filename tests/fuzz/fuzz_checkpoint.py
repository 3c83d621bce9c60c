"""Fuzz the reader of checkpoints, with atheris (``pip install -e ".[fuzz]"``).

``PYTHONPATH=tests python tests/fuzz/fuzz_checkpoint.py -max_total_time=30 WORK tests/fuzz/corpus``,
where WORK is a folder for what it finds. An input is a checkpoint; after a byte of 1 a header, and
after a byte of 2 values, to which the checksums fit, so that the fuzzer reaches what lies behind
them. A crash is anything but a refusal, or an accepted value that NumPy reads otherwise.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["adamoffload"]):
    import checkpoints

judge = checkpoints.Judge()
text, members = checkpoints.taken_apart(checkpoints.STATES["AdamOffload"].data())


def one_input(data: bytes) -> None:
    """Judge one input: its first byte chooses what it is."""
    if data[:1] == b"\x01":  # a header, in an archive that fits it
        data = checkpoints.put_together(data[1:], members)
    elif data[:1] == b"\x02":  # values, with every checksum right
        changed, rest = {}, data[1:]
        for name, content in members.items():
            begin = 10 + int.from_bytes(content[8:10], "little")
            values, rest = rest[: len(content) - begin], rest[len(content) - begin :]
            changed[name] = content[:begin] + values.ljust(len(content) - begin, b"\0")
        data = checkpoints.put_together(text, changed)
    judge(data)


atheris.instrument_func(one_input)
atheris.Setup(sys.argv, one_input)
atheris.Fuzz()
