"""An exercise to mend: the learner gets an object of the package with something wrong in it.

    # %% exercise="tiny_transformer.layers:attend" difficulty=2 minutes=8 broken="(-1) => (-2)"

`broken` is a piece of the object's text and what stands there instead, or a list of such. The check
is the object's ordinary one; as long as the object is as it was given, the exercise is unfinished.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from builder.cut import BEGIN, END, ROOT, Cut, CutError, Function, cut

ARROW = " => "
RAISES = "# Take the next line out: what stands below it is yours to mend."


def broken(reference: str, edits: Sequence[str], given: Sequence[str] = (), root: Path = ROOT):
    """Cut an object out of the package and break it: (Cut, the names of the functions that differ).

    Raises CutError when a piece does not stand in the object's text exactly once, or when the
    result is not Python.
    """
    whole = cut(reference, given=given, root=root, whole=True)
    text = whole.solution
    for edit in edits:
        old, arrow, new = edit.partition(ARROW)
        if not arrow or not old:
            raise CutError(f"broken is a piece of the text, `{ARROW}` and what replaces it")
        if text.count(old) != 1:
            raise CutError(
                f"`{old}` stands {text.count(old)} times in {reference}: it must be once"
            )
        text = text.replace(old, new)
    try:
        wrong = ast.parse(text)
    except SyntaxError as error:
        raise CutError(f"what `broken` makes of {reference} is not Python: {error.msg}") from None
    right, differ = _functions(ast.parse(whole.solution), whole.name), []
    for name, function in _functions(wrong, whole.name).items():
        if ast.dump(function) != ast.dump(right[name]):
            differ.append(name)
    if not differ:
        raise CutError(f"`broken` changes no function of {reference}")
    return replace(whole, stub=text, marked=_marked(whole, text, differ)), tuple(differ)


def _functions(tree: ast.Module, name: str) -> dict[str, ast.FunctionDef]:
    """The function itself, or the methods of the class."""
    node = next(n for n in tree.body if getattr(n, "name", None) == name)
    nodes = [node] if isinstance(node, Function) else node.body
    return {n.name: n for n in nodes if isinstance(n, Function)}


def _marked(whole: Cut, text: str, differ: Sequence[str]) -> str:
    """For graders: the right body between marks, a line that raises in its place, the wrong body.

    A right body ends in a return or a raise, so that the wrong one behind it is not reached.
    """
    lines = text.splitlines()
    right = _functions(ast.parse(whole.solution), whole.name)
    wrong = _functions(ast.parse(text), whole.name)
    source = whole.solution.splitlines()
    for name in sorted(differ, key=lambda n: -wrong[n].lineno):
        documented = ast.get_docstring(wrong[name]) is not None
        start = _start(wrong[name], documented)
        body = source[_start(right[name], documented) : right[name].end_lineno]
        indent = " " * (wrong[name].col_offset + 4)
        if not isinstance(right[name].body[-1], ast.Return | ast.Raise):
            body.append(f"{indent}return")
        raised = f'raise NotImplementedError("{name} is yours to write")'
        prompt = ['""" # BEGIN PROMPT', raised, '""" # END PROMPT']
        head = textwrap.indent("\n".join([RAISES, BEGIN]), indent)
        tail = textwrap.indent("\n".join([END, *prompt]), indent)
        lines[start:start] = [head, *body, tail]
    return "\n".join(lines)


def _start(function: Function, documented: bool) -> int:
    """The index of the first line of the body, behind the docstring."""
    return function.body[0].end_lineno if documented else function.body[0].lineno - 1
