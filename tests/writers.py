"""Judges what is written of a ledger made of anything: the trace, the page's tables, the CSV."""

from __future__ import annotations

import csv
import json
import struct
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NoReturn

from adamoffload.device.backend import Done
from adamoffload.observe.ledger import HOPS, Ledger
from adamoffload.observe.trace import write_trace
from adamoffload.reports.markup import Section, page
from adamoffload.reports.summary import Table

ALLOWED = {"html", "head", "meta", "title", "style", "body", "header", "h1", "p", "nav", "ul"}
ALLOWED |= {"li", "a", "main", "section", "h2", "div", "table", "caption", "small", "thead"}
ALLOWED |= {"tbody", "tr", "th", "td", "footer", "link", "time"}


def ledger_of(data: bytes) -> Ledger:
    """Return a ledger whose hops, names, sizes and times are whatever the bytes say."""
    ledger = Ledger()
    while len(data) >= 24:
        hop, step, chunk, size, start_s, more, letters = struct.unpack_from("<BBBiddB", data)
        name = data[24 : 24 + letters].decode("utf-8", "surrogatepass" if chunk % 2 else "replace")
        data = data[24 + letters :]
        record = ledger.at(step or None, chunk or None, ((name, abs(size)),))
        nbytes = 4 * abs(size) if HOPS[hop % len(HOPS)] in ("d2h", "h2d") else 0
        record(HOPS[hop % len(HOPS)], abs(size), nbytes, Done(start_s, start_s + abs(more)))
    return ledger


def judge(data: bytes) -> str:
    """Write what the bytes say in every form and read it with somebody else's reader."""
    try:
        ledger = ledger_of(data)
    except UnicodeDecodeError:
        return "no ledger"
    verdict = _judge_trace(ledger)
    names = [name for event in ledger.events for name, _ in event.parts]
    _judge_page(names)
    _judge_csv(ledger)
    return verdict


def _judge_trace(ledger: Ledger) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        try:
            write_trace(path, ledger)
        except ValueError as refusal:
            if not str(refusal).startswith("write_trace: the ledger ") or path.exists():
                raise
            return "refused"
        trace = json.loads(path.read_text("ascii"), parse_constant=_not_json)
    records = trace["traceEvents"]
    slices = [record for record in records if record["ph"] == "X"]
    assert all(record["dur"] >= 0 for record in slices)
    assert sum(r["args"].get("bytes", 0) for r in slices if "chunk" in r["args"]) == sum(
        event.nbytes for event in ledger.events if event.step is not None
    )
    return "written"


def _judge_page(names: list[str]) -> None:
    rows = tuple((name, str(i)) for i, name in enumerate(names or ["none"]))
    table = Table(names[0] if names else "none", ("name", "place"), rows)
    text = "".join(page("title", names, [Section("s", (), (table,))], simulated=False))
    text.encode()  # whatever the names hold, it can be written to a file
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader.tags <= ALLOWED, reader.tags - ALLOWED
    assert reader.cells == 2 * len(rows)


def _judge_csv(ledger: Ledger) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.csv"
        ledger.save(path)
        with path.open(newline="", encoding="utf-8") as file:
            assert len([*csv.reader(file)]) == 1 + len(ledger)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.cells += tag in ("td", "th") and dict(attrs).get("scope") != "col"


def _not_json(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is no JSON")


__all__: list[Any] = ["judge", "ledger_of"]
