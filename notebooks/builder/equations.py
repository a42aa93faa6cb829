"""Two pages made from the method files: docs/equations.md and docs/departures.md.

    python notebooks/builder/equations.py          writes them anew

A method file says its equations in its docstring and marks the lines that are these equations:

    h = W0 x + (alpha / r) B A x                                      (eq. 3)      docstring
    detour = F.linear(low, self.B)  # eq. 3: B A x, (B, T, out)                    code

and lists its departures, each with a topic, what the paper, 🤗 PEFT and this file do, and the test
that shows it:

    Departures.
    (1) Start of A. Paper: a Gaussian. PEFT: uniform on +-1/sqrt(in). Here: as PEFT, since the
        authors' code does so. Shown by test_lora.py::test_a_starts_uniform.

Lessons take their tables from the same markers, so that no quoted line can go stale. A missing
marker, an equation without a line, or a test that does not exist stops the build in one sentence.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
METHODS = ROOT / "minipeft" / "methods"
NO_EQUATION = {"__init__", "method", "finetuning"}  # files of the folder that are no method
LABEL = re.compile(r"\(eq\. ([\w.-]+)\)")
MARKER = re.compile(r"#\s*eq\. ([\w.-]+?)(?::\s*(.*))?$")
ITEM = re.compile(r"^\((\d+)\)\s+(.*)$", re.S)
FIELDS = ("Paper:", "PEFT:", "Here:", "Shown by")
REPOSITORY = "../"  # from docs/ to the files


class EquationError(ValueError):
    """A method file that does not say what the pages need to know."""


@dataclass(frozen=True)
class Line:
    """One marked line of code.

    number: of its equation, as the docstring labels it.  note: what stands behind the marker.
    """

    number: str
    code: str
    note: str
    file: Path
    row: int


@dataclass(frozen=True)
class Departure:
    """One way in which a method here differs from its paper or from 🤗 PEFT."""

    topic: str
    paper: str
    peft: str
    ours: str
    test: str


def method_files(folder: Path = METHODS) -> list[Path]:
    """Every file of a method, in alphabetical order."""
    return sorted(path for path in folder.glob("*.py") if path.stem not in NO_EQUATION)


def docstring(path: Path) -> str:
    """The docstring that opens a file."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=True)
    if not text:
        raise EquationError(f"{path.name} has no docstring to take its equation from.")
    return text


def equations(path: Path) -> dict[str, str]:
    """Number -> equation, as the docstring labels them."""
    labelled = {}
    for row in docstring(path).splitlines():
        label = LABEL.search(row)
        if label and row.startswith(" "):  # an indented line is an equation, others speak of one
            parts = re.split(r",?\s{2,}", row.replace(label[0], "").strip())
            labelled[label[1]] = ", ".join(parts)  # a page shows many spaces as one
    if not labelled:
        raise EquationError(f"{path.name} labels no equation: end its line with (eq. N).")
    return labelled


def lines(path: Path) -> list[Line]:
    """The marked lines of a file, in their order."""
    marked = []
    for row, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        marker = MARKER.search(text)
        if marker and text[: marker.start()].strip():
            code = text[: marker.start()].strip()
            marked.append(Line(marker[1], code, (marker[2] or "").strip(), path, row))
    return marked


def check(path: Path) -> None:
    """Every labelled equation has a line and every marked line an equation.

    Raises:
        EquationError: otherwise, naming both the file and the number.
    """
    labelled, marked = set(equations(path)), {line.number for line in lines(path)}
    for number in sorted(labelled - marked):
        raise EquationError(f"{path.name}: no line of code is marked `# eq. {number}`.")
    for number in sorted(marked - labelled):
        raise EquationError(f"{path.name}: its docstring labels no equation (eq. {number}).")


def departures(path: Path, tests: Path = ROOT / "tests") -> list[Departure]:
    """The departures that a method file lists.

    Raises:
        EquationError: an item lacks a part, or names a test that does not exist.
    """
    _, mark, rest = docstring(path).partition("\nDepartures.")
    if not mark:
        raise EquationError(f"{path.name} does not say how it departs from its paper.")
    listed = []
    for block in re.split(r"\n(?=\(\d+\) )", rest.strip("\n")):
        item = ITEM.match(re.sub(r"\s+", " ", block).strip())
        if not item:
            raise EquationError(f"{path.name}: a departure does not begin with its number.")
        parts, text = [], item[2]
        for field in FIELDS:
            before, present, text = text.partition(field)
            if not present:
                raise EquationError(f'{path.name}: departure ({item[1]}) has no "{field}".')
            parts.append(before.strip().rstrip("."))
        test = text.strip().rstrip(".").strip("`")
        check_test(path, test, tests)
        listed.append(Departure(*parts, test))
    return listed


def check_test(path: Path, name: str, tests: Path) -> None:
    """The test `test_lora.py::test_start`, or the lesson's file `10_lora.py`, must exist."""
    file, _, function = name.partition("::")
    candidates = [*tests.rglob(file), *(ROOT / "notebooks" / "src").glob(file)]
    text = "".join(candidate.read_text(encoding="utf-8") for candidate in candidates)
    if not candidates or (function and f"def {function}(" not in text):
        raise EquationError(f"{path.name} names {name}, and there is no such test.")


def cell(text: str) -> str:
    """Text for one cell of a Markdown table."""
    return text.replace("|", "\\|")


def equations_page(folder: Path = METHODS) -> str:
    """docs/equations.md."""
    rows = [
        "# Equations and their lines",
        "",
        "Made by `python notebooks/builder/equations.py` from markers `# eq. N` of the methods.",
        "",
        "| method | equation | line of code | what it gives | where |",
        "|---|---|---|---|---|",
    ]
    for path in method_files(folder):
        check(path)
        labelled = equations(path)
        for line in sorted(lines(path), key=lambda line: list(labelled).index(line.number)):
            where = f"{path.relative_to(ROOT).as_posix()}"
            equation = f"({line.number}) `{labelled[line.number]}`"
            cells = (path.stem, cell(equation), f"`{cell(line.code)}`", cell(line.note))
            link = f"[{path.name}:{line.row}]({REPOSITORY}{where}#L{line.row})"
            rows.append(f"| {' | '.join(cells)} | {link} |")
    return "\n".join(rows) + "\n"


def departures_page(folder: Path = METHODS) -> str:
    """docs/departures.md."""
    rows = [
        "# Departures",
        "",
        "Where a method here is not the letter of its paper, or does other than 🤗 PEFT, and why. "
        "Made by `python notebooks/builder/equations.py` from the docstrings of the method files.",
    ]
    for path in method_files(folder):
        rows += ["", f"## {docstring(path).splitlines()[0].rstrip('.')}", ""]
        rows += ["| | paper | 🤗 PEFT | here, and why | shown by |", "|---|---|---|---|---|"]
        for item in departures(path):
            cells = (item.topic, item.paper, item.peft, item.ours, f"`{item.test}`")
            rows.append(f"| {' | '.join(map(cell, cells))} |")
    return "\n".join(rows) + "\n"


PAGES = {"equations.md": equations_page, "departures.md": departures_page}


def write_pages(folder: Path = ROOT / "docs") -> list[Path]:
    """Write both pages, where they differ from what is there; returns those that did."""
    changed = []
    for name, page in PAGES.items():
        path, text = folder / name, page()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


if __name__ == "__main__":
    for path in write_pages():
        print(f"wrote {path.relative_to(ROOT)}")
