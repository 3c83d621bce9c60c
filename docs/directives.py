"""Directives that show what the code itself says, in the very build of the page."""

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

import adamoffload as ao
from adamoffload.engine.fused import source
from adamoffload.engine.program import trace
from adamoffload.estimates.published import sites
from adamoffload.estimates.validation import ROUNDS, score, validate
from adamoffload.labs.grading import NUMBERS, lab
from adamoffload.plan.strategy import strategies
from adamoffload.rules.adam import Adam, adam

ROOT = Path(__file__).resolve().parents[1]


class ProgramListing(Directive):
    """The in-place program that the step compiler makes of Adam."""

    language = "text"
    text = staticmethod(str)

    def run(self) -> list[nodes.Node]:
        text = self.text(trace(adam, ("g", "m", "v"), ("lr_t", "beta1", "beta2", "eps")))
        return [nodes.literal_block(text, text, language=self.language)]


class ProgramSource(ProgramListing):
    """The loop that Numba compiles."""

    language = "python"
    text = staticmethod(source)


class StrategiesTable(Directive):
    """What lives where and what moves under each strategy, as it is declared."""

    def run(self) -> list[nodes.Node]:
        rule, rows = Adam(), []
        for name, strategy in strategies.items():
            weights = strategy.usual_weights
            homes = strategy.homes(rule, weights)
            moved = strategy.bytes_per_parameter(rule, weights)
            lives = [f"{sum(things.values()) or '–'}" for things in homes.values()]
            master = strategy.master or "–"
            places = [strategy.state, master, strategy.arithmetic]
            label = f"{name}, {weights}" if weights != "float32" else name
            rows.append((label, *places, *lives, *(f"{n or '–'}" for n in moved.values())))
        heads = ("Strategy", "State", "Master", "Arithmetic", *("Device", "Host", "Disk"))
        return [table((*heads, "Down", "Up", "Read", "Write"), (5, *[2] * 10), rows)]


class ValidationScores(Directive):
    """The error factors of the estimates beside what was published."""

    def run(self) -> list[nodes.Node]:
        compared = validate()
        groups = {
            "table 4, CPU-Adam": [c for c in compared if "CPU-Adam" in c.row.name],
            "all steps": [c for c in compared if c.row.step],
            "of these, on the DGX-2": [c for c in compared if c.row.step and c.row.machine == "Z"],
            "steps that offload changes": [c for c in compared if c.sensitive],
            "of these, not on the DGX-2": [
                c for c in compared if c.sensitive and c.row.machine != "Z"
            ],
        }
        rows = []
        for label, members in groups.items():
            cells = []
            for name in (*ROUNDS, "null"):
                factor, worst, count = score(members, name)
                hidden = name == "null" and not members[0].row.step  # nothing is left of these
                cells.append("–" if hidden else f"{factor:.2f}, {worst:.1f} ({count})")
            rows.append((label, *cells))
        return [table(("Rows", *ROUNDS, "null"), (4, 3, 3, 3, 3), rows)]


class ValidationTable(Directive):
    """Every published row beside its estimates."""

    def run(self) -> list[nodes.Node]:
        rows = []
        for c in validate():
            cells = []
            for name in ROUNDS:
                found, factor = c.estimates[name], c.factor(name)
                cells.append("fit" if found is None else f"{found:.3g}, {factor:.2f}")
            label = f"{c.row.name}{' *' if c.sensitive else ''}"
            rows.append((label, c.row.machine, f"{c.row.seconds:.3g}", *cells, c.row.source))
        heads = ("Row", "On", "Published", *(f"{name}, factor" for name in ROUNDS), "Source")
        machines = [
            (key, site.title, f"{site.dram_bytes_per_s / 1e9:g}", site.host)
            for key, site in sites().items()
        ]
        known = table(("On", "Machine", "Host, nominal GB/s", "Host is"), (1, 4, 2, 4), machines)
        return [known, table(heads, (6, 1, 2, 3, 3, 3, 4), rows)]


class ValidationReasons(Directive):
    """The rows that are far off, each with its reason."""

    def run(self) -> list[nodes.Node]:
        rows = []
        for c in validate():
            off = {name: factor for name in ROUNDS if (factor := c.factor(name)) is not None}
            far = ", ".join(f"{name} {factor:.1f}" for name, factor in off.items() if factor > 2.5)
            if far:
                rows.append((c.row.name, far, c.row.reason))
        return [table(("Row", "Off by", "Reason"), (3, 3, 5), rows)]


class PlausibilityTable(Directive):
    """What offload costs for Llama-2-7B, over tokens and hosts."""

    def run(self) -> list[nodes.Node]:
        tokens = (8192, 32_768, 131_072, 1_048_576)
        rows = []
        for name in ("zero-offload", "zero-offload-delayed", "state-shuttle", "deepspeed-zero2"):
            for rate in (51e9, 109e9, 200e9) if name == "zero-offload" else (109e9,):
                changes: dict[str, Any] = {"host_bytes_per_s": rate, "half_tokens": 0, "cards": 1}
                machine = replace(ao.machines["a100"], **changes)
                cells = []
                for count in tokens:
                    asked = ao.estimate(
                        "llama-2-7b",
                        strategy=name,
                        machine=machine,
                        tokens_per_step=count,
                        chunk_bytes=16 << 20,
                    )
                    cells.append(f"{float(f'{100 * asked.overhead:.2g}'):g} %")
                rows.append((name, f"{rate / 1e9:g}", *cells))
        heads = ("Strategy", "Host, GB/s", *(f"{count:,} tokens" for count in tokens))
        return [table(heads, (4, 2, 2, 2, 2, 2), rows)]


class LabRubric(Directive):
    """The tasks of a lab and their points, as its grader has them."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        tasks = lab(int(self.arguments[0])).tasks
        rows = [(task.name, str(task.points)) for task in tasks]
        rows.append(("in all", str(sum(task.points for task in tasks))))
        return [table(("Task", "Points"), (3, 1), rows)]


class LabMistakes(Directive):
    """The wrong solutions that a lab's grader is tested with: what each costs, and the reason."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = ROOT / "tests" / "labs" / f"lab{self.arguments[0]}" / "wrong.toml"
        self.state.document.settings.record_dependencies.add(str(path))
        tasks = [task.name for task in lab(int(self.arguments[0])).tasks]
        wrongs = tomllib.loads(path.read_text())["wrong"]
        wrongs.sort(key=lambda wrong: min(map(tasks.index, wrong["lost"])))
        rows = [
            (wrong["mistake"], task, f"... {words} ...")
            for wrong in wrongs
            for task, words in wrong["lost"].items()
        ]
        return [table(("Mistake", "Task lost", "The grader says"), (3, 2, 4), rows)]


class LabSlides(Directive):
    """A list of the decks, which are no pages of Sphinx's."""

    def run(self) -> list[nodes.Node]:
        items = nodes.enumerated_list()
        for number in NUMBERS:
            link = nodes.reference("", lab(number).title, refuri=f"../slides/lab{number}.html")
            items += nodes.list_item("", nodes.paragraph("", "", link))
        return [items]


def table(
    heads: Sequence[str], widths: Sequence[int], rows: Iterable[Sequence[str]]
) -> nodes.table:
    """Return a table of plain text."""
    group = nodes.tgroup(cols=len(heads))
    group.extend(nodes.colspec(colwidth=width) for width in widths)
    head, body = nodes.thead(), nodes.tbody()
    head += row(heads)
    body.extend(row(cells) for cells in rows)
    group.extend([head, body])
    return nodes.table("", group)


def row(cells: Sequence[str]) -> nodes.row:
    """Return a table's row of plain text."""
    return nodes.row("", *(nodes.entry("", nodes.paragraph(text=cell)) for cell in cells))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("program-listing", ProgramListing)
    app.add_directive("program-source", ProgramSource)
    app.add_directive("strategies-table", StrategiesTable)
    app.add_directive("validation-scores", ValidationScores)
    app.add_directive("validation-table", ValidationTable)
    app.add_directive("validation-reasons", ValidationReasons)
    app.add_directive("plausibility-table", PlausibilityTable)
    app.add_directive("lab-rubric", LabRubric)
    app.add_directive("lab-mistakes", LabMistakes)
    app.add_directive("lab-slides", LabSlides)
    return {"parallel_read_safe": True}
