"""A notebook's cell says the same of a solution as the command line does: all that we have.

Every test module here that tries solutions on a check becomes a notebook: its source is one cell,
and a last cell gives one of its solutions the exercise's name. What the sandbox says of it must be
what the check says of the solution itself.
"""

import pytest
from submitted import MODULES, said_by, solutions, space_of

from minipeft import checks
from minipeft.checks import sandbox


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_notebook_and_command_line_say_the_same(path, monkeypatch):
    monkeypatch.setattr(sandbox, "limit", lambda order: None)
    space = space_of(path)
    source = path.read_text(encoding="utf-8")
    tried = set()
    for reference, expression in solutions(path):
        name = reference.partition(":")[2]
        candidate = eval(expression, space)
        seen = said_by(checks.EXERCISES[reference], candidate)
        cells = [source, f"{name} = {expression}"]
        order = {"reference": reference, "source": cells[1], "cells": cells, "uses": {}}
        judged = sandbox.verdict(order | {"marks": [None, reference]}, "too much memory")
        package = "is the package's: write it in the notebook instead"
        if package in judged[1]:  # the package's own solution, which the notebook must not import
            assert seen[0] == "passed"
        else:
            assert judged == seen, expression
        tried.add(seen[0])
    assert {"passed", "failed"} <= tried
