"""Read a lesson's source and make its two notebooks.

A source is a Python file in jupytext's percent format. Its header says what the lesson is about:

    # ---
    # jupyter:
    #   minipeft:
    #     title: LoRA
    #     question: Can a change of rank eight do what a full matrix does?
    #     minutes: 4
    # ---

Cells are plain, except for what their marker line says:

    # %% exercise="minipeft.methods.lora:LoRAPatch" blank="forward,merge" difficulty=2 minutes=10
        filled by the builder from the package. In the cell, `# forward: text` becomes a hint inside
        that body and any other comment stays on top. The next code cell must call
        `checks.NAME(LoRAPatch)`.
    # %% exercise="minipeft.checks:NAME" difficulty=1 minutes=5
        the answer is a number, a shape or a word; the cell holds its working, see worked.py.
    # %% exercise="tiny_transformer.layers:attend" broken="(-1) => (-2)" difficulty=2 minutes=8
        the learner mends the object, in which a piece of text is replaced, see broken.py.
    # %% fast="steps, seeds = 20, [0]"
        that line is added to the cell in a fast run, which tests the code and not the numbers.
    # %% tags=["raises-exception"]   fails on purpose
    # %% tags=["not-fast"]           left out of a fast run
    # %% tags=["solution-only"]      only in the solution notebook
    # %% tags=["student-only"]       only in the student notebook
    # %% tags=["hide-input"]         its code is folded: plots and sweeps, which stand in the way
    # %% tags=["slide"]              also a slide of the lesson's presentation, see slides.py
    # %% [markdown] tags=["slide"]   the same for text

A line `{equations lora 3}` in a Markdown cell becomes a table, see tables.py. The header may also
say what it took when the lesson was tried as a new student would: `sitting: 75` minutes,
`attempts: 9` checks until all exercises passed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from builder import setup_cell, tables
from builder.broken import broken
from builder.cut import ROOT, Cut, CutError, banner, cut
from builder.equations import EquationError
from builder.worked import is_worked, worked

FIELDS = {"title": str, "question": str, "minutes": (int, float)}
EXERCISE_FIELDS = {"exercise": str, "blank": str, "difficulty": int, "minutes": (int, float)}
EXERCISE_FIELDS |= {"broken": (str, list)}
TRIED = {"sitting": (int, float), "attempts": int}  # may stand in the header
HIDDEN, SLIDE = "hide-input", "slide"
KNOWN_TAGS = {"raises-exception", "not-fast", "solution-only", "student-only", HIDDEN, SLIDE}
KEPT_TAGS = {  # in the notebooks
    "student": ("raises-exception", HIDDEN),
    "solution": ("raises-exception", HIDDEN, SLIDE),
}
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


class LessonError(ValueError):
    """A source that does not say what the builder needs to know."""


@dataclass(frozen=True)
class Exercise:
    """One exercise of a lesson.

    number      "10.1", or "10b.1"
    check       the name of its check in minipeft.checks
    cut         the object, taken out of the package
    alone       the same with the names of earlier exercises imported: graded one by one
    difficulty  1 to 5
    minutes     what a learner should plan
    notes       comment lines for the top of its cell
    broken      the functions in which something is wrong, for an exercise to mend
    """

    number: str
    check: str
    cut: Cut
    alone: Cut
    difficulty: int
    minutes: float
    notes: str
    broken: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        stars = "●" * self.difficulty + "○" * (5 - self.difficulty)
        how = f"difficulty {stars} · about {self.minutes:g} minutes"
        return f"Exercise {self.number} · {self.cut.name} · {how}"


@dataclass(frozen=True)
class Lesson:
    """One source file: its header, its cells as jupytext read them, its exercises by cell index.

    number: "10"; "10b" is a second notebook to 10, outside the main path.
    """

    path: Path
    number: str
    title: str
    question: str
    minutes: float
    cells: tuple[NotebookNode, ...]
    exercises: dict[int, Exercise]
    tried: dict[str, float] = field(default_factory=dict)  # "sitting" and "attempts"

    @property
    def slug(self) -> str:
        return self.path.stem

    def solution(self, fast: bool = False) -> NotebookNode:
        """The notebook with every exercise solved, not executed yet."""
        return self._notebook("solution", fast)

    def student(self, fast: bool = False) -> NotebookNode:
        """The notebook with the chosen bodies blanked, no outputs."""
        notebook = self._notebook("student", fast)
        if self.exercises:
            cell = nbformat.v4.new_code_cell(setup_cell.SOURCE)
            cell["id"] = f"{self.number}-setup"
            notebook.cells.insert(1, cell)
        return notebook

    def _notebook(self, kind: str, fast: bool) -> NotebookNode:
        other = "student-only" if kind == "solution" else "solution-only"
        cells = [nbformat.v4.new_markdown_cell(self._header(kind))]
        for index, cell in enumerate(self.cells):
            tags = cell.metadata.get("tags", [])
            if other in tags or (fast and "not-fast" in tags):
                continue
            kept = [tag for tag in KEPT_TAGS[kind] if tag in tags]
            metadata: dict = {"tags": kept} if kept else {}
            if cell.cell_type == "markdown":
                text = tables.fill(cell.source, kind == "student", self.modules())
                cells.append(nbformat.v4.new_markdown_cell(text, metadata=metadata))
                continue
            source = cell.source
            if index in self.exercises:
                exercise = self.exercises[index]
                text = exercise.cut.solution if kind == "solution" else exercise.cut.stub
                source = (
                    "\n".join(filter(None, [banner(exercise.title), exercise.notes])) + "\n" + text
                )
                metadata["minipeft"] = self._describe(exercise)
            elif fast and "fast" in cell.metadata:
                source += "\n" + cell.metadata["fast"]
            if HIDDEN in tags:
                metadata["jupyter"] = {"source_hidden": True}
            cells.append(nbformat.v4.new_code_cell(source, metadata=metadata))
        for position, cell in enumerate(cells):
            cell["id"] = f"{self.number}-{position:03d}"  # fixed, so that diffs show what changed
        facts = {
            "lesson": self.slug,
            "kind": kind,
            "exercises": [self._describe(e) for e in self.exercises.values()],
        }
        return nbformat.v4.new_notebook(
            cells=cells,
            metadata={"kernelspec": KERNEL, "language_info": {"name": "python"}, "minipeft": facts},
        )

    def modules(self) -> tuple[str, ...]:
        """The modules that its exercises are cut from."""
        return tuple(e.cut.reference.partition(":")[0] for e in self.exercises.values())

    @staticmethod
    def _describe(exercise: Exercise) -> dict:
        facts = {
            "exercise": exercise.cut.reference,
            "number": exercise.number,
            "check": exercise.check,
            "uses": list(exercise.cut.uses),
            "points": exercise.difficulty,
        }
        return facts | ({"broken": list(exercise.broken)} if exercise.broken else {})

    def _header(self, kind: str) -> str:
        lines = [
            f"# {self.number} · {self.title}",
            f"**{self.question}**",
            f"*Runs in about {_minutes(self.minutes)} on two cores"
            + (f"; {_plural(len(self.exercises), 'exercise')}.*" if self.exercises else ".*"),
        ]
        if self.exercises:
            name = f"{self.slug}.ipynb"
            if kind == "solution":
                lines.append(f"*This is the solution; the exercises are in `exercises/{name}`.*")
            else:
                lines.insert(1, setup_cell.badge(name))
                lines.append(
                    f"*To check it: `python start.py check work/{name}` in the repository, "
                    f"`minipeft check {name}` where the package is installed. "
                    f"Solution: `notebooks/{name}` in the repository.*"
                )
        return "\n\n".join(filter(None, lines))


def _minutes(minutes: float) -> str:
    return _plural(round(minutes * 60), "second") if minutes < 1 else _plural(minutes, "minute")


def _plural(count: float, noun: str) -> str:
    return f"{count:g} {noun}" + "s" * (count != 1)


def read(path: Path, root: Path = ROOT) -> Lesson:
    """Read one source; raises LessonError with a sentence when a field is missing or unknown."""
    where = path.name
    match = re.fullmatch(r"(\d\d[a-z]?)_[a-z0-9_]+", path.stem)
    if not match:
        raise LessonError(f"{where}: a source is named NN_name.py or NNb_name.py, in lower case")
    number = match[1]
    notebook = jupytext.read(path, fmt="py:percent")
    header = notebook.metadata.get("minipeft", {})
    _fields(where, "the header", header, FIELDS | TRIED, required=FIELDS)
    cells = tuple(
        cell for cell in notebook.cells if cell.source.strip() or "exercise" in cell.metadata
    )
    exercises: dict[int, Exercise] = {}
    for index, cell in enumerate(cells):
        tags = set(cell.metadata.get("tags", []))
        if tags - KNOWN_TAGS:
            raise LessonError(f"{where}: unknown cell tag {', '.join(sorted(tags - KNOWN_TAGS))}")
        if "exercise" not in cell.metadata:
            _fields(where, "a cell", cell.metadata, {"fast": str, "tags": list}, required=())
            continue
        given = [e.cut.name for e in exercises.values() if not is_worked(e.cut.reference)]
        label = f"{int(number[:2])}{number[2:]}.{len(exercises) + 1}"
        try:
            exercises[index] = _exercise(label, cell, cells[index + 1 :], given, root)
        except (CutError, LessonError) as error:
            raise LessonError(f"{where}: exercise {label}: {error}") from error
    tried = {name: header[name] for name in TRIED if name in header}
    described = (header["title"], header["question"], header["minutes"])
    lesson = Lesson(path, number, *described, cells, exercises, tried)
    try:
        lesson.student()
    except EquationError as error:
        raise LessonError(f"{where}: {error}") from error
    return lesson


def _exercise(
    label: str, cell: NotebookNode, after: tuple[NotebookNode, ...], given: list[str], root: Path
) -> Exercise:
    meta = cell.metadata
    _fields(
        "its cell",
        "the marker",
        meta,
        EXERCISE_FIELDS,
        required=("exercise", "difficulty", "minutes"),
    )
    reference = meta["exercise"]
    blank = [name.strip() for name in meta.get("blank", "").split(",") if name.strip()]
    edits, differ = meta.get("broken", []), ()
    edits = [edits] if isinstance(edits, str) else edits
    names = [] if edits else blank or [reference.partition(":")[2]]
    hints: dict[str, list[str]] = {}
    notes = []
    lines = cell.source.splitlines()
    while lines and (lines[0].startswith("#") or not lines[0].strip()):
        line = lines.pop(0)
        hint = re.match(r"#\s*(\w+):\s*(.+)", line)
        if hint and hint[1] in names:
            hints.setdefault(hint[1], []).append(hint[2])
        elif line.strip():
            notes.append(line)
    if blank and (edits or is_worked(reference)):
        what = "what is to be mended is shown whole" if edits else "a number has no methods"
        raise LessonError(f"{what}: leave `blank` out")
    if is_worked(reference):
        piece = worked(reference, "\n".join(lines), hints.get(names[0], ()))
    elif lines:
        raise LessonError("its cell may hold comments only; the code comes from the package")
    elif edits:
        piece, differ = broken(reference, edits, given, root)
    else:
        piece = cut(reference, blank, hints, given, root)
    code = next((c.source for c in after if c.cell_type == "code"), "")
    check = re.search(rf"\bchecks\.(\w+)\({re.escape(piece.name)}\b", code)
    if not check:
        raise LessonError(f"the code cell after it must call checks.NAME({piece.name})")
    if not 1 <= meta["difficulty"] <= 5:
        raise LessonError("difficulty is 1 to 5")
    if is_worked(reference) and check[1] != piece.name:
        raise LessonError(f"its check is checks.{piece.name}, not checks.{check[1]}")
    alone = piece
    if piece.uses:
        alone = (
            broken(reference, edits, root=root)[0]
            if edits
            else cut(reference, blank, hints, root=root)
        )
    notes = "\n".join(notes)
    facts = meta["difficulty"], meta["minutes"], notes, differ
    return Exercise(label, check[1], piece, alone, *facts)


def _fields(where: str, what: str, fields: dict, known: dict, required) -> None:
    missing = [name for name in required if name not in fields]
    unknown = [name for name in fields if name not in known and name != "lines_to_next_cell"]
    wrong = [n for n, kind in known.items() if n in fields and not isinstance(fields[n], kind)]
    for names, verb in (
        (missing, "misses"),
        (unknown, "has the unknown field"),
        (wrong, "has a bad value for"),
    ):
        if names:
            raise LessonError(f"{where}: {what} {verb} {', '.join(names)}")
