"""A notebook's cell says the same of a solution as the command line does: all that we have.

Every test module here that tries solutions on a check becomes a notebook: its source is one cell,
and a last cell gives one of its solutions the exercise's name. What the sandbox says of it must be
what the check says of the solution itself.
"""

import ast
import contextlib
import importlib
import io
import re
from pathlib import Path

import pytest

from minipeft import checks
from minipeft.checks import sandbox

HERE = Path(__file__).parent
BY_CHECK = {check.__name__: reference for reference, check in checks.EXERCISES.items()}


def solutions(path):
    """(reference, expression) of every solution that a module's tests are parametrized with."""
    module = importlib.import_module(path.stem)
    for test in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(test, ast.FunctionDef):
            continue
        called = re.findall(r"\bchecks\.(\w+)(?:\(|, )(\w+)", ast.unparse(test))
        for mark in test.decorator_list:
            if "parametrize" not in ast.unparse(mark) or len(called) != 1:
                continue
            names = re.findall(r"\w+", ast.unparse(mark.args[0]).strip("'\""))
            check, argument = called[0]
            if argument not in names or check not in BY_CHECK:
                continue
            values = ast.unparse(mark.args[1])
            for index in range(len(eval(values, vars(module)))):
                place = f"[{index}]" + (f"[{names.index(argument)}]" if len(names) > 1 else "")
                yield BY_CHECK[check], f"({values}){place}"


MODULES = [p for p in sorted(HERE.glob("test_*.py")) if "EXERCISES" not in p.read_text("utf-8")]
MODULES = [p for p in MODULES if re.search(r"\bchecks\.\w+\(", p.read_text("utf-8"))]


def said_by(check, candidate):
    """What a learner sees under the cell."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            check(candidate)
    except checks.NotFinished as error:
        return "unfinished", sandbox.clean(error)
    except checks.CheckFailed as error:
        return "failed", sandbox.clean(error)
    return "passed", ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_notebook_and_command_line_say_the_same(path, monkeypatch):
    monkeypatch.setattr(sandbox, "limit", lambda order: None)
    monkeypatch.syspath_prepend(HERE)
    space = vars(importlib.import_module(path.stem))
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
