"""The report: a page that is whole, escapes what it is told, and asks for nothing."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adamoffload as ao
from adamoffload.reports import summary
from adamoffload.reports.sentences import sentences

from html_page import Page

ODD_NAMES = (
    "<script>alert(1)</script>",
    "]]></svg><img src=x onerror=alert(1)>",
    "quote \" ' & &amp; \\",
    "line\nbreak\ttab\0zero",
    "μ 𝜈 日本 \ud800",
    "$x^2$ and $ and _begin",
    "n" * 300,
)


def run(
    names: tuple[str, ...] = ("w", "b"),
    *,
    backend: str = "sim",
    size: int = 50,
    steps: int = 3,
    gradient: float = 1.0,
    **options: Any,
) -> tuple[ao.Ledger, ao.Probe, ao.AdamOffload]:
    device = ao.get_backend(backend, memory_bytes=8 << 20)
    rng = np.random.default_rng(0)
    parameters = [ao.Parameter(device.asarray(np.ones(size, np.float32)), n) for n in names]
    ledger, probe = ao.Ledger(), ao.Probe()
    optimizer = ao.AdamOffload(
        parameters,
        ao.CosineDecayLR(0.0, 1e-3, steps),
        ledger=ledger,
        probe=probe,
        engine="numpy",
        threads=1,
        **options,
    )
    gradients = [gradient * rng.standard_normal(size).astype(np.float32) for _ in names]
    for _ in range(steps):
        optimizer([device.asarray(g) for g in gradients])
    return ledger, probe, optimizer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of everything, with names that a page may trip over."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    return ao.report(path, *run(ODD_NAMES, chunk_bytes=400), title="<b>Odd</b> & “even”")


@pytest.fixture(scope="module")
def page(whole: Path) -> Page:
    return Page(whole.read_text("utf-8"))


def test_every_section_is_there(page: Page) -> None:
    assert page.text_of("h2") == [
        "In short",
        "What waited for what",
        "Where the bytes went",
        "What lies where",
        "What the optimizer did",
        "Settings and versions",
    ]
    assert len(page.all("svg")) == len(page.all("figure")) == 9
    assert len(page.all("table")) == 7


def test_the_tables_are_those_of_the_summary(tmp_path: Path) -> None:
    ledger, probe, optimizer = run()
    page = Page(ao.report(tmp_path / "r.html", ledger, probe, optimizer).read_text("utf-8"))
    cells = page.text_of("th", "td")
    for table in (
        summary.totals(ledger),
        summary.bytes_by_parameter(ledger),
        summary.steps(ledger),
        summary.memory(ledger),
        summary.moments_by_parameter(probe),
        summary.settings(optimizer),
        summary.versions(),
    ):
        expected = [*table.columns, *(cell for row in table.rows for cell in row)]
        at = cells.index(expected[0])
        starts = [i for i in range(at, len(cells)) if cells[i : i + len(expected)] == expected]
        assert len(starts) == 1, table.caption
    assert page.text_of("li")[-4:] == sentences(ledger, probe)


def test_names_are_text_whatever_they_hold(page: Page) -> None:
    assert not page.all("script")
    assert not page.all("img")
    rows = page.text_of("th")
    for name in ODD_NAMES:
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)
        assert shown in rows
    assert page.text_of("title", "h1") == 2 * ["<b>Odd</b> & “even”"]


def test_figures_name_parameters_as_text(page: Page) -> None:
    assert any("alert(1)" in text for text in page.text_of("text", "tspan"))


def test_the_page_asks_for_nothing(whole: Path, page: Page) -> None:
    for tag, attributes in page.elements:
        for key, value in attributes.items():
            if key in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
                assert value is not None
                assert value.startswith(("#", "data:")), (tag, key, value)
            assert not key.startswith("on"), (tag, key)
    outside = re.findall(r"url\((?!#)[^)]*\)|@import|https?://", whole.read_text("utf-8"))
    assert outside == []


def test_ids_are_unique_and_references_lead_somewhere(whole: Path, page: Page) -> None:
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert ids
    assert max(ids.values()) == 1
    named = {a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a}
    text = whole.read_text("utf-8")
    wanted = {*re.findall(r'href="#([^"]+)"', text), *re.findall(r"url\(#([^)]+)\)", text), *named}
    assert wanted
    assert wanted <= set(ids)


def test_the_page_can_be_read_without_seeing_it(page: Page) -> None:
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert {th["scope"] for th in page.all("th")} == {"col", "row"}
    assert len(page.all("figcaption")) == len(page.all("figure"))


def test_simulated_time_is_called_so(page: Page) -> None:
    assert any("times are simulated" in text for text in page.text_of("p"))
    assert any("of simulated time" in text for text in page.text_of("li"))


def test_measured_time_is_not_called_simulated(tmp_path: Path) -> None:
    text = ao.report(tmp_path / "r.html", *run(backend="numpy")).read_text("utf-8")
    assert "simulated" not in text


def test_equal_runs_give_equal_pages_but_for_the_date(tmp_path: Path) -> None:
    texts = [
        re.sub(r"<time .*?</time>", "", ao.report(tmp_path / name, *run()).read_text("utf-8"))
        for name in ("a.html", "b.html")
    ]
    assert texts[0] == texts[1]


def test_nobodys_name_is_in_it(page: Page) -> None:
    import getpass
    import socket

    words = {word for _, text in page.texts for word in text.split()}
    assert not words & {socket.gethostname(), getpass.getuser()}


@pytest.mark.parametrize(
    ("which", "sections"),
    [
        ((0,), ["What waited for what", "Where the bytes went", "What lies where"]),
        ((1,), ["What the optimizer did"]),
        ((1, 2), ["What lies where", "What the optimizer did"]),
    ],
)
def test_what_is_not_given_is_left_out(
    tmp_path: Path, which: tuple[int, ...], sections: list[str]
) -> None:
    given = run()
    arguments: dict[str, Any] = {("ledger", "probe", "optimizer")[i]: given[i] for i in which}
    page = Page(ao.report(tmp_path / "r.html", **arguments).read_text("utf-8"))
    assert page.text_of("h2") == ["In short", *sections, "Settings and versions"]


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 1},
        {"gradient": np.nan},
        {"gradient": np.inf},
        {"gradient": 0.0},
        {"size": 1, "names": ("w",)},
        {"backend": "numpy"},
        {"steps": 70},
    ],
    ids=str,
)
def test_any_run_has_a_report(tmp_path: Path, options: dict[str, Any]) -> None:
    page = Page(ao.report(tmp_path / "r.html", *run(**options)).read_text("utf-8"))
    assert len(page.all("svg")) == 9


def test_groups_are_reported_as_groups(tmp_path: Path) -> None:
    device = ao.get_backend("numpy")
    w = ao.Parameter(device.asarray(np.ones(4, np.float32)), "w")
    probe = ao.Probe(by="group")
    optimizer = ao.AdamOffload([{"params": [w], "lr": 0.5}], probe=probe, engine="numpy")
    optimizer([device.asarray(np.ones(4, np.float32))])
    page = Page(ao.report(tmp_path / "r.html", probe=probe).read_text("utf-8"))
    assert "group 0" in page.text_of("th")


@pytest.mark.parametrize("limit", [None, 1 << 20])
def test_a_resident_adam_is_reported_too(tmp_path: Path, limit: int | None) -> None:
    device, ledger = ao.get_backend("numpy", memory_bytes=limit), ao.Ledger()
    w = ao.Parameter(device.asarray(np.ones(4, np.float32)), "w")
    optimizer = ao.Adam([w], ledger=ledger)
    optimizer([device.asarray(np.ones(4, np.float32))])
    page = Page(ao.report(tmp_path / "r.html", ledger, optimizer=optimizer).read_text("utf-8"))
    assert "Nothing crossed the link" in "".join(page.text_of("li"))
    assert "Where the bytes went" not in page.text_of("h2")
    assert "Adam" in page.text_of("td")


def test_ten_thousand_parameters_make_a_small_page(tmp_path: Path) -> None:
    names = tuple(f"layer.{i}" for i in range(10_000))
    path = ao.report(tmp_path / "r.html", *run(names, size=1, steps=2, backend="numpy"))
    assert path.stat().st_size < 3_000_000
    assert "and 9,980 more" in Page(path.read_text("utf-8")).text_of("th")


def test_a_thousand_steps_make_a_small_page(tmp_path: Path) -> None:
    names = tuple(f"layer.{i}" for i in range(20))
    path = ao.report(tmp_path / "r.html", *run(names, size=2, steps=1000, backend="numpy"))
    assert path.stat().st_size < 3_000_000


def test_a_step_of_thousands_of_chunks_makes_a_small_page(tmp_path: Path) -> None:
    path = ao.report(tmp_path / "r.html", *run(size=800, steps=1, chunk_bytes=4))
    assert path.stat().st_size < 3_000_000
    assert "data:image/png;base64," in path.read_text("utf-8")


def test_a_report_leaves_no_figure_open(tmp_path: Path) -> None:
    from matplotlib import pyplot as plt

    before = plt.get_fignums()
    ao.report(tmp_path / "r.html", *run())
    assert plt.get_fignums() == before


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "report: pass a ledger, a probe, or both"),
        ({"ledger": ao.Ledger()}, ValueError, "the ledger has recorded no step; pass it to"),
        ({"probe": ao.Probe()}, ValueError, "the probe has recorded no step; pass it to"),
        ({"ledger": 3}, TypeError, "ledger must be a Ledger, got"),
        ({"probe": ao.Ledger()}, TypeError, "probe must be a Probe, got"),
        ({"optimizer": "adam"}, TypeError, "optimizer must be an optimizer of adamoffload, got"),
        ({"title": 3}, TypeError, "title must be a str, got"),
    ],
)
def test_a_wrong_argument_is_an_error_and_no_file(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ao.report(tmp_path / "r.html", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_path_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="folder does not exist; create it") as caught:
        ao.report(tmp_path / "missing" / "r.html", *run())
    assert caught.value.filename == str(tmp_path / "missing" / "r.html")


def test_a_run_whose_every_call_was_skipped_has_a_report(tmp_path: Path) -> None:
    device, ledger = ao.get_backend("numpy"), ao.Ledger()
    w = ao.Parameter(device.asarray(np.ones(4, np.float32)), "w")
    optimizer = ao.AdamOffload([w], ledger=ledger, on_nonfinite="skip")
    assert optimizer([device.asarray(np.full(4, np.nan, np.float32))]) == (False,)
    path = ao.report(tmp_path / "report.html", ledger, optimizer=optimizer)
    assert "No step was taken: every call was skipped, or has raised." in path.read_text("utf-8")
