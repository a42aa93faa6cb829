"""Tables of equations in lessons, made from the markers `# eq. N` of the method files.

A line of its own in a Markdown cell of a source,

    {equations lora 3}      equation and shapes; the lines of code in the solution notebook only
    {lines adapter 1 2}     equation, shapes and lines of code, also for students

becomes a table of the equations with these numbers, of all of them when none is named. So no quoted
line can go stale. `lines` is refused where an exercise of the lesson is cut from that very file.
"""

from __future__ import annotations

import re

from builder.cut import ROOT
from builder.equations import METHODS, EquationError, cell, check, equations, lines, method_files

PLACE = re.compile(r"^\{(equations|lines) (\w+)((?: [\w.-]+)*)\}$", re.MULTILINE)
ALMOST = re.compile(r"^\{(?:equations|lines)\b.*\}$", re.MULTILINE)


def fill(text: str, student: bool, exercises: tuple[str, ...] = ()) -> str:
    """The text with its tables.

    student: for the student notebook.  exercises: modules that the lesson's exercises are cut from.

    Raises:
        EquationError: no such method, no such equation, an equation without a marked line, or
            lines that would give an exercise away.
    """

    def table(match: re.Match) -> str:
        kind, name, numbers = match[1], match[2], match[3].split()
        if kind == "lines" and f"minipeft.methods.{name}" in exercises:
            raise EquationError(
                f"{{lines {name}}} shows what an exercise of this lesson asks for: write "
                f"{{equations {name}}}."
            )
        return _table(name, numbers, code=kind == "lines" or not student)

    for line in ALMOST.findall(text):
        if not PLACE.match(line):
            raise EquationError(f"{line} is no table of equations: write {{equations lora 3}}.")
    return PLACE.sub(table, text)


def _table(name: str, numbers: list[str], code: bool) -> str:
    path = METHODS / f"{name}.py"
    if path not in method_files():
        raise EquationError(f"there is no method file minipeft/methods/{name}.py.")
    check(path)  # every labelled equation has a marked line
    labelled, marked = equations(path), lines(path)
    missing = [number for number in numbers if number not in labelled]
    if missing:
        raise EquationError(f"{path.name} has no equation {missing[0]}, but {', '.join(labelled)}.")
    head = ["equation", "what, and its shape", *(["line of code"] if code else [])]
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for number in numbers or labelled:
        equation = f"({number}) `{labelled[number]}`"
        for line in (line for line in marked if line.number == number):
            cells = [cell(equation), cell(line.note), *([f"`{cell(line.code)}`"] if code else [])]
            rows.append(f"| {' | '.join(cells)} |")
            equation = ""
    where = path.relative_to(ROOT).as_posix()
    return "\n".join([*rows, "", f"(from `{where}`)"])
