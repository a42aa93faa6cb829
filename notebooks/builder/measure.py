"""How long a lesson is, against what its format allows: one sitting of 60 to 90 minutes.

| what    | counted                                                                      | at most |
|---------|------------------------------------------------------------------------------|---------|
| words   | between spaces in all Markdown of the solution: equations, hints, header too | 1,800   |
| cells   | of the solution, the header too                                              | 45      |
| lines   | of code that a student sees: not empty, not folded, no bodies of exercises   | 350     |
| figures | pictures among the outputs of the run                                        | 7       |
"""

from __future__ import annotations

from nbformat import NotebookNode

from builder.lesson import HIDDEN, Lesson

LIMITS = {"words": 1800, "cells": 45, "lines": 350, "figures": 7}
NAMES = {
    "words": "words",
    "cells": "cells",
    "lines": "visible lines of code",
    "figures": "figures",
}
STILL_TOO_LONG: set[str] = set()  # to be shortened: none may be added


def measure(lesson: Lesson, executed: NotebookNode | None = None) -> dict[str, int]:
    """The counts of the table above; figures only of a notebook that was run."""
    solved = lesson.solution().cells
    read = [cell for cell in lesson.student().cells if "setup" not in cell["id"]]
    counts = {
        "words": sum(len(cell.source.split()) for cell in solved if cell.cell_type == "markdown"),
        "cells": len(solved),
        "lines": sum(_lines(cell) for cell in read if cell.cell_type == "code"),
    }
    if executed is not None:
        counts["figures"] = sum(
            any(kind.startswith("image/") for kind in output.get("data", {}))
            for cell in executed.cells
            for output in cell.get("outputs", [])
        )
    return counts


def too_long(lesson: Lesson, counts: dict[str, int]) -> list[str]:
    """A sentence for every limit that a lesson is past; none for those that are known to be."""
    if lesson.number in STILL_TOO_LONG:
        return []
    return [
        f"{counts[what]:,} {NAMES[what]}, and the format allows {limit:,}"
        for what, limit in LIMITS.items()
        if counts.get(what, 0) > limit
    ]


def _lines(cell: NotebookNode) -> int:
    if HIDDEN in cell.metadata.get("tags", []):
        return 0
    return sum(bool(line.strip()) for line in cell.source.splitlines())
