"""A notebook's cell says the same of a solution as the command line does: all that we have.

Every test module here that tries solutions on a check becomes a notebook: its source is one cell,
and a last cell gives one of its solutions the exercise's name. What the sandbox says of it must be
what the check says of the solution itself: accepted or not for every solution (in the case where
the solution itself failed, or in a third of all; six solutions of each exercise, all of them
with WHOLE=1), and word for word for the first right one and two wrong ones of each exercise. Of
all rejections of an exercise at most one in ten may end in "none of the usual mistakes".
"""

import ast
import functools
from collections import Counter

import pytest
from submitted import MODULES, error_of, solutions, space_of, verdict_of
from whole import WHOLE, part_of

from minipeft import checks
from minipeft.checks import guard, sandbox
from minipeft.checks.framework import Check
from minipeft.checks.framework.surroundings import careful_kernels, surroundings

WORD_FOR_WORD = {"passed": 1, "failed": 2}


def verdict_only(check, error):
    """The check where the solution itself failed, or in every third case if it did not fail."""

    def judge(candidate):
        with surroundings(), careful_kernels():
            if error is not None:
                alone = error.failed and check.failure(error.failed[0], candidate, error.failed[1])
                bad = alone or not check.accepts(candidate)  # some fail after other cases only
            else:
                cases = [(trial, case) for trial in check.trials for case in trial.cases]
                bad = any(check.failure(trial, candidate, case) for trial, case in cases[::3])
        if bad:
            raise checks.CheckFailed("")

    return judge


def tries(check, reference):
    """(source, what it defines, expression) of every solution; of a number, every answer too."""
    if not isinstance(check, Check):
        for answer in (check.right, *(value for value, _ in check.wrong)):
            yield "", {}, repr(answer)
    for path in MODULES:
        source = path.read_text(encoding="utf-8")
        if check.__name__ in source:
            space = space_of(path)
            for exercise, expression in solutions_of(path):
                if exercise == reference:
                    yield source, space, expression


@functools.cache
def solutions_of(path):
    return list(solutions(path, space_of(path)))


class Packaged(ast.NodeTransformer):
    """The package's object gets another name: in the notebook the solution takes its name.

    A solution that calls the package's object, and changes what it gives, would call itself.
    """

    def __init__(self, name, source):
        tree = ast.parse(source)
        imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        imported = name in {alias.name for node in imports for alias in node.names}
        self.name, self.other = (name, f"packaged_{name}") if imported else (None, None)
        self.source = self.said(tree) if imported else source

    def said(self, tree):
        return ast.unparse(ast.fix_missing_locations(self.visit(tree)))

    def visit_Name(self, node):
        return ast.Name(self.other, node.ctx) if node.id == self.name else node

    def visit_FunctionDef(self, node):
        inside = {getattr(part, "name", None) for part in node.body}
        return node if self.name in inside else self.generic_visit(node)

    def visit_ImportFrom(self, node):
        for imported in node.names:
            if imported.name == self.name:
                imported.asname = imported.asname or self.other
        return node


@pytest.mark.parametrize("reference", part_of(list(checks.EXERCISES), 12))
def test_notebook_and_command_line_say_the_same(reference, monkeypatch):
    monkeypatch.setattr(sandbox, "limit", lambda order: None)
    monkeypatch.setattr(guard, "picture", dict)  # what is replaced is test_cells' question
    check, name = checks.EXERCISES[reference], reference.partition(":")[2]
    tried, unnamed = Counter(), []
    packaged = functools.cache(lambda source: Packaged(name, source))
    for source, space, expression in part_of(list(tries(check, reference)), 6):
        error = error_of(check, eval(expression, space))
        seen = verdict_of(error)
        if "none of the usual mistakes" in seen[1]:
            unnamed.append(expression)
        whole = tried[seen[0]] < WORD_FOR_WORD.get(seen[0], 9) + tried["the package's"]
        whole = whole or not isinstance(check, Check)
        expression = packaged(source).said(ast.parse(expression))
        cells = [packaged(source).source, f"{name} = {expression}"]
        order = {"reference": reference, "source": cells[1], "cells": cells, "uses": {}}
        with monkeypatch.context() as patch:
            if not whole:
                patch.setitem(checks.EXERCISES, reference, verdict_only(check, error))
            judged = sandbox.verdict(order | {"marks": [None, reference]}, "too much memory")
        tried[seen[0]] += 1
        if "is the package's: write it in the notebook instead" in judged[1]:
            assert seen[0] == "passed"  # the package's own, which a notebook must not import
            tried["the package's"] += 1
        else:
            assert judged[: 2 if whole else 1] == seen[: 2 if whole else 1], expression
    assert {"passed", "failed"} <= set(tried)
    few = 0 if WHOLE else 1  # of a part of them one may be such
    assert len(unnamed) <= max(few, tried["failed"] / 10), unnamed
