"""Say which figures of a document the committed results do not hold.

All figures of a table's row stand in one record. Figures of prose (whole numbers alone left out) stand in a table of
their section, or in the results of the studies that the section names or belongs to; one that many other figures would
match, too, is listed with its place. What is computed, set or quoted is listed with its formula or source. The list is
``benchmarks/claims.yaml``: document, heading, figure, and

    = 0.099 / 0.268        a formula of figures that are found,
    ~ 1022                 roughly the value of such a formula,
    setting: atoms         a number that was chosen,
    quoted: a paper        a figure of somebody else,
    study/file.json name   the beginning of the place of the record that holds it.
"""

import ast
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.house.committed_results import Record, Results, results_of
from tests.house.figures import Figure, cell_figures, figures

LUCK = 0.15
ROUGHLY = 0.06
FREE = ("setting: ", "quoted: ")
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
Listed = dict[str, str]  # figure as written -> why


@dataclass
class Section:
    """The part of a document under one heading: lines of prose and rows of tables, with their numbers."""

    heading: str = ""
    prose: list[tuple[int, str]] = field(default_factory=list)
    rows: list[tuple[int, str]] = field(default_factory=list)


def sections(document: str) -> Iterator[Section]:
    """Yield the sections of a Markdown document, without code; the head of a table is prose."""
    section, code, table = Section(), False, False
    for number, line in enumerate(document.splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        if code:
            continue
        if line.startswith("#"):
            yield section
            section = Section(line.lstrip("# "))
        elif line.startswith("|") and not set(line) <= set("|-: "):
            (section.rows if table else section.prose).append((number, line))
        elif line.strip() and not line.startswith("|"):
            section.prose.append((number, line))
        table = line.startswith("|") and (table or set(line) <= set("|-: "))
    yield section


def studies_of(section: Section, document: str, root: Path) -> list[str]:
    """Return the studies that a section's figures may come from: its own, and those that it names."""
    text = "\n".join(line for _, line in [*section.prose, *section.rows])
    named = set(re.findall(r"(?:benchmarks|\.\.)/(\w+)", text)) | set(re.findall(r"^benchmarks/(\w+)/", document))
    return sorted(name for name in named if (root / "benchmarks" / name / "results").is_dir())


def faults(document: str, root: Path, listed: dict[str, Listed], sources: tuple[str, ...] = ()) -> list[str]:
    """Return what is wrong with the figures of a document, each with its line.

    Args:
        document: its path below ``root``.
        root: of the repository.
        listed: heading -> figures of that section that are listed.
        sources: documents whose figures, which are checked for themselves, it may repeat.
    """
    found = []
    for section in sections((root / document).read_text(encoding="utf-8")):
        results = results_of(root, *studies_of(section, document, root))
        own = [Record(f"row {number}", [], cell_figures(line)) for number, line in section.rows]
        own += [Record(source, [], figures((root / source).read_text(encoding="utf-8"))) for source in sources]
        of_section = Checked(results, Results(own), listed.get(section.heading, {}))
        for number, line in section.rows:
            found += [f"{document}:{number}: {fault}" for fault in of_section.faults_of_row(line)]
        for number, line in section.prose:
            wrong = [fault for figure in figures(line) if (fault := of_section.fault_of(figure))]
            found += [f"{document}:{number}: {fault} in: {line.strip()}" for fault in wrong]
    return found


@dataclass
class Checked:
    results: Results
    own: Results
    listed: Listed

    def faults_of_row(self, row: str) -> list[str]:
        """Return what is wrong with a row: its figures, those that are listed apart, are in no single record."""
        cells = cell_figures(row)
        wanted = [figure for figure in cells if str(figure) not in self.listed]
        wrong = [fault for figure in cells if str(figure) in self.listed and (fault := self.fault_of(figure))]
        holders = [self.results.holders(figure) for figure in wanted]
        if not holders or set.intersection(*holders):
            return wrong
        counts: dict[int, int] = {}
        for number in (number for those in holders for number in those):
            counts[number] = counts.get(number, 0) + 1
        best = max(counts, key=lambda number: counts[number], default=None)
        missing = [str(figure) for figure, those in zip(wanted, holders, strict=True) if best not in those]
        place = "" if best is None else f" (nearest: {self.results.records[best].place})"
        return [*wrong, f"no one record has {', '.join(missing)}{place} of the row: {row[:100]}"]

    def fault_of(self, figure: Figure) -> str | None:
        """Return what is wrong with a figure of prose, or None."""
        why = self.listed.get(str(figure))
        if why is not None:
            return self._fault_of_listed(figure, why)
        if figure.plain or self.own.holders(figure):
            return None
        if not self.results.holders(figure):
            return f"{figure} is nowhere in the results"
        if self.results.luck(figure) > LUCK:
            return f"{figure} is like many figures of the results: list its place in benchmarks/claims.yaml"
        return None

    def _fault_of_listed(self, figure: Figure, why: str) -> str | None:
        if why.startswith(FREE):
            return None
        if why.startswith(("=", "~")):
            value, operands = evaluate(why[1:])
            exact = Results([Record("", [value])]).holders(figure)
            if not exact and (why[0] == "=" or abs(value / figure.stored - 1) > ROUGHLY):
                return f"{figure} is not {why[1:].strip()}, which is {value:.4g}"
            known = (self.results, self.own)
            strange = [one for one in operands if not any(results.holders(Figure(one)) for results in known)]
            return f"{', '.join(strange)} of {figure} {why} is nowhere in the results" if strange else None
        places = [
            record.place for number, record in enumerate(self.results.records) if number in self.results.holders(figure)
        ]
        return None if any(place.startswith(why) for place in places) else f"{figure} is not in {why}"


def evaluate(formula: str) -> tuple[float, list[str]]:
    """Return the value of a formula, and its numbers that are not small whole ones."""
    numbers: list[str] = []

    def of(node: ast.AST) -> float:
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return float(OPERATORS[type(node.op)](of(node.left), of(node.right)))
        if not (isinstance(node, ast.Constant) and isinstance(node.value, int | float)):
            raise ValueError(f"{formula}: numbers and + - * / only")
        if not (isinstance(node.value, int) and node.value <= 100):
            numbers.append(ast.get_source_segment(formula.strip(), node) or "")
        return float(node.value)

    return of(ast.parse(formula.strip(), mode="eval").body), numbers
