"""Directives that show what the code itself says, in the very build of the page."""

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from adamoffload.engine.fused import source
from adamoffload.engine.program import trace
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
            homes = strategy.homes(rule)
            moved = strategy.bytes_per_parameter(rule, "float32")
            lives = [f"{sum(things.values()) or '–'}" for things in homes.values()]
            master = strategy.master or "–"
            places = [strategy.state, master, strategy.arithmetic]
            rows.append((name, *places, *lives, *(f"{n or '–'}" for n in moved.values())))
        heads = ("Strategy", "State", "Master", "Arithmetic", *("Device", "Host", "Disk"))
        return [table((*heads, "Down", "Up", "Read", "Write"), (5, *[2] * 10), rows)]


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
    app.add_directive("lab-rubric", LabRubric)
    app.add_directive("lab-mistakes", LabMistakes)
    app.add_directive("lab-slides", LabSlides)
    return {"parallel_read_safe": True}
