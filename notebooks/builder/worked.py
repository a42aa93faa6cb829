"""An exercise whose answer is a number, a shape or a word: its working stands in the lesson.

    # %% exercise="minipeft.checks:lora_parameters" difficulty=1 minutes=5
    # Comments above the working stay on top, `# lora_parameters: text` is a hint.
    layers, maps, rank, width = 4, 2, 8, 64
    lora_parameters = layers * maps * rank * (width + width)

The solution notebook holds the cell as it stands. The learner sees `lora_parameters = ...`.
"""

from __future__ import annotations

import ast
import builtins
import textwrap
from collections.abc import Sequence

from builder.cut import BEGIN, END, Cut, CutError

MODULE = "minipeft.checks"  # where the checks of such exercises are found


def is_worked(reference: str) -> bool:
    """Does this name the check of a number, and not an object to be cut out?"""
    return reference.partition(":")[0] == MODULE


def worked(reference: str, working: str, hints: Sequence[str] = ()) -> Cut:
    """The texts of an exercise from its working, which must run alone.

    Raises CutError when the working does not set the answer or needs names of other cells.
    """
    name = reference.partition(":")[2]
    try:
        tree = ast.parse(working)
    except SyntaxError as error:
        raise CutError(f"the working of {name} is not Python: {error.msg}") from None
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    if not any(n.id == name and isinstance(n.ctx, ast.Store) for n in names):
        raise CutError(f"its cell must hold the working, which ends in `{name} = ..`")
    bound = {n.id for n in names if isinstance(n.ctx, ast.Store)} | set(dir(builtins))
    bound |= {a.arg for a in ast.walk(tree) if isinstance(a, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {a.asname or a.name.partition(".")[0] for a in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
    missing = sorted({n.id for n in names} - bound)
    if missing:
        raise CutError(
            f"the working of {name} must run alone: set or import {', '.join(missing)} in its cell"
        )
    stub = "\n".join([*(f"# Hint: {hint}" for hint in hints), f"{name} = ..."])
    raised = f'raise NotImplementedError("{name} is yours to write")'
    marked = [BEGIN, working, END, '""" # BEGIN PROMPT', raised, '""" # END PROMPT']
    marked = textwrap.indent("\n".join(marked), "    ")
    between = f"{stub}  # your answer in place of the dots\nif {name} is ...:\n{marked}"
    return Cut(reference, name, working, f"{stub}  # your answer in place of the dots", between, ())
