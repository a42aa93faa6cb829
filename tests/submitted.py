"""What tests of the checker submit: a solution of one exercise, and those of tests/exercises."""

import ast
import builtins
import contextlib
import importlib.util
import io
import json
import re
import sys
from pathlib import Path

from minipeft import checks
from minipeft.checks import sandbox

REFERENCE = "minipeft.methods.lora:LoRAPatch"
SOLUTION = """
class LoRAPatch(nn.Module):
    def __init__(self, in_features, out_features, rank, alpha, dropout=0.0, rank_stabilized=False):
        super().__init__()
        self.A = nn.Parameter(torch.randn(rank, in_features) / math.sqrt(in_features))
        self.B = nn.Parameter(torch.zeros(out_features, rank))
        self.dropout = nn.Dropout(dropout)
        self.scale = alpha / (math.sqrt(rank) if rank_stabilized else rank)

    def forward(self, x, y):
        return (y + detour(self.dropout(x.to(self.A.dtype)), self)).to(y.dtype)

    def delta(self):
        return self.scale * self.B @ self.A
"""
HELPER = "def detour(x, patch):\n    return patch.scale * F.linear(F.linear(x, patch.A), patch.B)\n"
IMPORTS = "import math\nimport torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"
WHOLE = IMPORTS + HELPER + SOLUTION
NOT_YET = 'raise NotImplementedError("LoRAPatch.{} is yours to write")'
STUB = re.sub(
    r"(def (forward|delta)\(.*\):\n +)return .*", lambda m: m[1] + NOT_YET.format(m[2]), WHOLE
)
WRONG = WHOLE.replace("self.B @ self.A", "(self.B @ self.A).T")

NUMBER = "minipeft.checks:lora_parameters"
THREE = ["forgotten", "train_top", "training_bytes"]
COURSE = {  # a small one, so that tests do not depend on what the real lessons hold
    "03_transfer": {f"minipeft.course.transfer:{n}": f"def {n}(*given): pass" for n in THREE},
    "10_lora": {REFERENCE: STUB},
    "20_numbers": {NUMBER: "lora_parameters = ...  # your answer in place of the dots"},
}


def small_course(folder):
    """Write COURSE into a folder as exercise notebooks; each exercise is worth two points."""
    folder.mkdir(exist_ok=True)
    for slug, exercises in COURSE.items():
        facts, cells = [], []
        for index, (reference, stub) in enumerate(exercises.items(), start=1):
            facts.append({"exercise": reference, "number": f"{int(slug[:2])}.{index}", "points": 2})
            metadata = {"minipeft": facts[-1]}
            cells.append({"cell_type": "code", "source": stub, "metadata": metadata})
        metadata = {"minipeft": {"lesson": slug, "exercises": facts}}
        notebook = {"cells": cells, "metadata": metadata}
        (folder / f"{slug}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    return folder


BY_CHECK = {check.__name__: reference for reference, check in checks.EXERCISES.items()}
FOLDER = Path(__file__).parent / "exercises"


VERDICTS = {}  # (check, id of a solution) -> the solution, what it was rejected with; see conftest


def space_of(path):
    """What a test module defines: the one that pytest has imported, if it has."""
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == str(path):
            return vars(module)
    spec = importlib.util.spec_from_file_location(f"solutions_of_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return vars(module)


def solutions(path, space):
    """(reference, expression) of every solution that a module's tests are parametrized with.

    A test that calls one check, `checks.NAME(..)` or `refused(checks.NAME, ..)`, with what is made
    of its parameters and of names of its module.
    """
    for test in ast.parse(path.read_text(encoding="utf-8")).body:
        called = list(_judged(test)) if isinstance(test, ast.FunctionDef) else []
        if len({ast.unparse(pair[1]) for pair in called}) != 1:
            continue
        check, made = called[0]
        for mark in test.decorator_list:
            if "parametrize" not in ast.unparse(mark):
                continue
            names = re.findall(r"\w+", ast.unparse(mark.args[0]).strip("'\""))
            used = {n.id for n in ast.walk(made) if isinstance(n, ast.Name)}
            if not used & set(names) or used - set(names) - set(space) - set(dir(builtins)):
                continue
            values, star = ast.unparse(mark.args[1]), "*" if len(names) > 1 else ""
            for index in range(len(eval(values, space))):
                given = f"(lambda {', '.join(names)}: {ast.unparse(made)})"
                yield BY_CHECK[check], f"{given}({star}list({values})[{index}])"


def _judged(test):
    """(name of a check, what it is given) in a test."""
    for call in (part for statement in test.body for part in ast.walk(statement)):
        if not isinstance(call, ast.Call) or not call.args:
            continue
        first = call.args[0]
        if ast.unparse(call.func).removeprefix("checks.") in BY_CHECK and len(call.args) == 1:
            yield ast.unparse(call.func).removeprefix("checks."), first
        elif ast.unparse(first).removeprefix("checks.") in BY_CHECK and len(call.args) > 1:
            yield ast.unparse(first).removeprefix("checks."), call.args[1]


MODULES = [p for p in sorted(FOLDER.glob("test_*.py")) if "EXERCISES" not in p.read_text("utf-8")]
MODULES = [p for p in MODULES if re.search(r"\bchecks\.\w+\(", p.read_text("utf-8"))]


def error_of(check, candidate):
    """What a check raises, None where it accepts."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            check(candidate)
    except checks.CheckFailed as error:
        return error
    return None


def verdict_of(error):
    """What a learner sees under the cell."""
    if error is None:
        return "passed", ""
    unfinished = isinstance(error, checks.NotFinished)
    return "unfinished" if unfinished else "failed", sandbox.clean(error)


def said_by(check, candidate):
    """What a learner sees under the cell, of a solution."""
    return verdict_of(error_of(check, candidate))
