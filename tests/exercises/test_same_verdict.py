"""A notebook's cell says the same of a solution as the command line does: all that we have.

Every test module here that tries solutions on a check becomes a notebook: its source is one cell,
and a last cell gives one of its solutions the exercise's name. What the sandbox says of it must be
what the check says of the solution itself.
"""

import pytest
from submitted import MODULES, said_by, solutions, space_of

from minipeft import checks
from minipeft.checks import sandbox


@pytest.mark.parametrize("reference", checks.EXERCISES)
def test_notebook_and_command_line_say_the_same(reference, monkeypatch):
    monkeypatch.setattr(sandbox, "limit", lambda order: None)
    check, name = checks.EXERCISES[reference], reference.partition(":")[2]
    tried = set()
    for path in MODULES:
        source = path.read_text(encoding="utf-8")
        if f"checks.{check.__name__}" not in source:
            continue
        space = space_of(path)
        for exercise, expression in solutions(path, space):
            if exercise != reference:
                continue
            seen = said_by(check, eval(expression, space))
            cells = [source, f"{name} = {expression}"]
            order = {"reference": reference, "source": cells[1], "cells": cells, "uses": {}}
            judged = sandbox.verdict(order | {"marks": [None, reference]}, "too much memory")
            if "is the package's: write it in the notebook instead" in judged[1]:
                assert seen[0] == "passed"  # the package's own, which a notebook must not import
            else:
                assert judged == seen, expression
            tried.add(seen[0])
    assert {"passed", "failed"} <= tried
