"""Which cell of a notebook counts, and what it runs with: judged without a process, quickly."""

import textwrap

import pytest
import torch
from submitted import HELPER, IMPORTS, REFERENCE, SOLUTION, STUB, WHOLE, WRONG

from minipeft.checks import sandbox, submission
from minipeft.checks.cells import Cell, candidates, python_of
from minipeft.methods.lora import LoRAPatch

PASSED = ("passed", "")


@pytest.fixture
def verdict(monkeypatch):
    """What the sandbox says of a notebook's cells, in this process and without its limits."""
    monkeypatch.setattr(sandbox, "limit", lambda order: None)

    def run(*cells, marked=None, blanked=("forward", "delta"), reference=REFERENCE, uses=None):
        cells = [textwrap.dedent(cell) for cell in cells]
        marks = [reference if i == marked else None for i in range(len(cells))]
        order = {"reference": reference, "source": cells[0], "uses": uses or {}, "cells": cells}
        return sandbox.verdict(order | {"marks": marks, "blanked": blanked}, "too much memory")

    return run


@pytest.mark.parametrize(
    "cells",
    [
        (WHOLE,),
        (IMPORTS, HELPER, SOLUTION),  # in cells of their own
        (HELPER, SOLUTION, IMPORTS),  # imported below
        (SOLUTION, IMPORTS + HELPER),  # the helper below
        (IMPORTS, "if True:\n    import math as m\n" + HELPER, SOLUTION),
        ("try:\n    import math\nexcept ImportError:\n    math = None", WHOLE),
        ("import a_package_that_is_not_here\n%matplotlib inline", WHOLE),
        ("from math import *", WHOLE.replace("math.sqrt", "sqrt").replace("import math\n", "")),
        (WHOLE, "import torch as F"),  # a later import hides no earlier name
        (STUB, WHOLE),  # the solution is written below
        (WHOLE, STUB),  # the stub was kept below
        (WRONG, WHOLE),  # the last one counts
        (WHOLE, "class Mine(LoRAPatch):\n    pass"),  # a later class only uses the name
        (WHOLE, "def test_it():\n    LoRAPatch = None"),
        (WHOLE, "def LoRAPatch(:"),  # the last one is not Python: the notebook kept the former
        (WHOLE, "# class LoRAPatch:\ntext = '''\nclass LoRAPatch: pass\n'''"),
        (WHOLE, "LoRAPatch = 3e-4"),  # a number of that name
        ("%%time\n" + WHOLE,),
        ("%%capture out\n" + WHOLE,),
        (IMPORTS + HELPER + "%time x = 1\n!pip list\n?torch\ntorch.nn?\nls = !ls\n" + SOLUTION,),
        (WHOLE + "\nif True:\n    %timeit 1 + 1\n    !ls\n",),
        ("%%bash\nclass LoRAPatch", WHOLE),
        (WHOLE + "\n1 / 0",),  # an experiment below it
        (WHOLE + "\nprint(train_for_an_hour())",),
        ("raise SystemExit\nwhile True: pass", WHOLE),  # nothing that it needs
        (WHOLE, "import sys\nsys.exit()"),
        (WHOLE + "\nif __name__ == '__main__':\n    print(LoRAPatch(3, 4, 2, 1.0))",),
        (IMPORTS + HELPER, "if __name__ == '__main__':" + textwrap.indent(SOLUTION, "    ")),
        (WHOLE, "LoRAPatch.forward = None\nLoRAPatch.forward = right",
         "def right(self, x, y):\n    x = self.dropout(x.to(self.A.dtype))\n"
         "    return (y + self.scale * x @ self.A.T @ self.B.T).to(y.dtype)"),
        (WRONG, "class LoRAPatch(LoRAPatch):\n"
         "    def delta(self):\n        return super().delta().T"),
        (WRONG, "def delta(self):\n    return self.scale * self.B @ self.A\n"
         "setattr(LoRAPatch, 'delta', delta)"),
        (WHOLE.replace("class LoRAPatch", "class Mine"), "LoRAPatch = Mine"),
        (WHOLE.replace("class LoRAPatch", "class Mine"), STUB, "LoRAPatch = Mine"),
        ("K = {}\nK['one'] = 1.0", WHOLE.replace("alpha /", "K['one'] * alpha /")),
        ("K = []\nfor i in range(2):\n    K.append(i)", WHOLE.replace("alpha /", "K[1] * alpha /")),
        (WHOLE + "\nSCALE = 2\nwith open('x') as file:\n    pass",),
        ("from __future__ import annotations", WHOLE.replace("x, y)", "x: Tensr, y: Tensr)")),
        (WHOLE.replace("super().__init__()", "super().__init__()\n        display(1)"),),
        (WHOLE, "await something()", "return 3"),
    ],
)  # fmt: skip
def test_what_its_author_saw_pass_passes(verdict, cells):
    assert verdict(*cells) == PASSED


DATACLASS = """
from __future__ import annotations
from dataclasses import dataclass, field
from typing import ClassVar
@dataclass
class Sizes:
    kind: ClassVar[str] = "sizes"
    rank: int = 1
    more: list = field(default_factory=list)
"""
SCRIPTED = """
@torch.jit.script
def detour(x: torch.Tensor, A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(torch.nn.functional.linear(x, A), B)
"""


def test_dataclasses_scripting_pickles_and_sources_work(verdict):
    use = "self.sizes = pickle.loads(pickle.dumps(Sizes(rank)))\n        self.scale ="
    whole = WHOLE.replace("self.scale =", use, 1).replace(
        "self.scale = alpha",
        "self.source = inspect.getsource(Sizes.__init__ and detour)\n        self.scale = alpha",
    )
    assert verdict(DATACLASS, "import inspect, pickle", whole) == PASSED
    scripted = SOLUTION.replace(
        "detour(self.dropout(x.to(self.A.dtype)), self)",
        "self.scale * detour(self.dropout(x.to(self.A.dtype)), self.A, self.B)",
    )
    assert verdict(IMPORTS, SCRIPTED, scripted) == PASSED


@pytest.mark.parametrize(
    ("cells", "result", "words"),
    [
        ((STUB,), "unfinished", "is yours to write"),
        ((WHOLE, WRONG), "failed", "delta is transposed"),
        ((WRONG, STUB), "failed", "delta is transposed"),
        ((STUB, "class Mine(LoRAPatch):\n    pass"), "unfinished", "is yours to write"),
        ((SOLUTION, "import math, torch\nfrom torch import nn"), "failed",
         "name 'detour' is not defined (no cell of the notebook defines or imports it)"),
        (("SCALE = 1 / 0", WHOLE.replace("alpha /", "SCALE * alpha /")), "failed",
         "(the line that sets SCALE stopped with ZeroDivisionError: division by zero)"),
        (("from minipeft.methods.lora import LoRAPatch",), "failed", "LoRAPatch itself is the"),
        (("import minipeft.methods.lora as l\nLoRAPatch = l.LoRAPatch",), "failed", "itself is"),
        (("import minipeft.methods.lora as l\nclass LoRAPatch(l.LoRAPatch):\n    pass",), "failed",
         "LoRAPatch.delta is the package's: write it in the notebook"),
        (("import minipeft.methods.lora as l", WHOLE, "LoRAPatch.forward = l.LoRAPatch.forward"),
         "failed", "LoRAPatch.forward is the package's"),
        ((STUB, "from minipeft.methods.lora import LoRAPatch"), "unfinished", "yours to write"),
        (("def LoRAPatch(:",), "failed", "the cell stopped with SyntaxError"),
        ((STUB, "class LoRAPatch:\n  def f(self:"), "failed", "the cell stopped with SyntaxError"),
        (("class LoRAPatch(Base):\n    pass",), "failed", "name 'Base' is not defined (no cell"),
        (("LoRAPatch = 3",), "failed", "LoRAPatch is of the type int"),
        ((WHOLE.replace("self.B =", "raise SystemExit('ü\\x00\\x1b[31m\\ud800\\u202e')\n#"),),
         "failed", "LoRAPatch stopped with SystemExit: ü[31m"),
        (("class Odd(Exception):\n    def __str__(self):\n        1 / 0",
          WHOLE.replace("self.B =", "raise Odd\n#")), "failed", "LoRAPatch stopped with"),
    ],
)  # fmt: skip
def test_what_is_not_a_solution_is_told_so(verdict, cells, result, words):
    assert verdict(*cells)[0] == result
    assert words in verdict(*cells)[1]


BACK = {  # what a trick replaces, to be put back
    "torch.allclose": (torch, "allclose"),
    "torch.Tensor.double": (torch.Tensor, "double"),
    "torch.Tensor.allclose": (torch.Tensor, "allclose"),
    "lora.LoRAPatch.delta": (LoRAPatch, "delta"),
}


@pytest.mark.parametrize(
    ("trick", "name"),
    [
        ("import torch\ntorch.allclose = lambda *_, **__: True", "torch.allclose"),
        ("import torch\ntorch.Tensor.double = lambda self: self", "torch.Tensor.double"),
        ("import torch\ntorch.Tensor.allclose = max", "torch.Tensor.allclose"),
        ("from minipeft.checks.framework import comparing as c\nc.compare = print",
         "comparing.compare"),
        ("from minipeft.checks.framework import comparing as c\nc.compare.__code__ = "
         "(lambda *a, **b: None).__code__", "comparing.compare"),
        ("import minipeft.methods.lora as l\nl.LoRAPatch.delta = max", "lora.LoRAPatch.delta"),
        ("import builtins\nbuiltins.isinstance = lambda *_: True", "builtins.isinstance"),
        ("import sys\nsys.modules['minipeft.checks.framework'] = sys", "minipeft.checks.framework"),
    ],
)  # fmt: skip
def test_replaced_functions_are_noticed(trick, name, verdict, monkeypatch):
    """Most in this process, where it is put back: another process takes seconds to start."""
    cells = (f"def trick():\n{textwrap.indent(trick, '    ')}", WRONG + "\nLoRAPatch.x = trick()")
    if name in BACK:
        owner, key = BACK[name]
        monkeypatch.setattr(owner, key, getattr(owner, key))
        result, sentence = verdict(*cells)
    else:
        exercise = submission.Submitted("10.1", REFERENCE, cells[1], {}, cells, (None, None))
        judged = submission.judge(exercise)
        result, sentence = judged.result, judged.sentence
    assert result == "failed"
    assert sentence.startswith("the notebook replaces") and name in sentence


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("x = (a\n     % b)", "x = (a\n     % b)"),  # no magic
        ("text = '''\n!ls\n%time\n'''", "text = '''\n!ls\n%time\n'''"),
        ("!ls (\nx = 1", "pass\nx = 1"),
        ("!echo it's\nx = 1", "pass\nx = 1"),
        ("%time y = f(2)", "y = f(2)"),
        ("a, b = %run x", "a, b = None"),
        ("%%html\n<b>", ""),
        ("\n%%time\nx = 1", "\n\nx = 1"),
        ("class A:\n    !ls\n    x = 1", "class A:\n    pass\n    x = 1"),
        ("x = (1", None),
        ("x = 1\0", None),
        ("(" * 1000, None),
    ],
)
def test_magics_go_and_lines_stay(source, text):
    assert python_of(source) == text


def test_the_marked_cell_is_taken_when_nothing_defines_the_name():
    cells = tuple(Cell(s, s, m) for s, m in (("x = 1", None), ("class Other: pass", REFERENCE)))
    assert candidates(cells, "LoRAPatch", set(), REFERENCE) == [(1, None)]
    assert candidates(cells[:1], "LoRAPatch", set(), REFERENCE) == []
    moved = (Cell("y = 1", "y = 1", "minipeft.elsewhere:LoRAPatch"),)
    assert candidates(moved, "LoRAPatch", set(), REFERENCE) == [(0, None)]


DOTS = "lora_parameters = ...  # your answer in place of the dots"


@pytest.mark.parametrize(
    ("cells", "result"),
    [
        ((DOTS,), "unfinished"),
        (("lora_parameters = 10240",), "passed"),
        (("lora_parameters: int = 10_240.0",), "passed"),
        ((DOTS, "lora_parameters = 10240"), "passed"),  # written in a cell below
        (("lora_parameters = 10240", DOTS), "passed"),  # the stub was kept below
        (("lora_parameters = 1", "lora_parameters = 10240"), "passed"),  # the last one counts
        (("lora_parameters = 10240", "lora_parameters = 1"), "failed"),
        (("lora_parameters = 1280", "lora_parameters *= 8"), "passed"),
        (("lora_parameters = 2 * width", "width = 5120"), "passed"),  # the width below
        (("import torch", "A, B = torch.ones(8, 80), torch.ones(80, 8)",
          "lora_parameters = 8 * sum(W.numel() for W in (A, B))"), "passed"),
        (("r = 8", "def lora_parameters():\n    return 8 * r * 160"), "passed"),
        (("def count(r):\n    return 8 * r * 160", "lora_parameters = count(8)"), "passed"),
        (("rank = 8", "lora_parameters = rnak * 1280"), "failed"),
        (("from minipeft.checks import lora_parameters", DOTS), "unfinished"),
        (("from minipeft.checks import lora_parameters",), "failed"),
    ],
)  # fmt: skip
def test_a_number_is_judged_as_its_author_saw_it(monkeypatch, cells, result):
    monkeypatch.setattr(sandbox, "limit", lambda order: None)
    order = {"reference": "minipeft.checks:lora_parameters", "source": cells[0], "uses": {}}
    order |= {"cells": cells, "marks": [None] * len(cells)}
    assert sandbox.verdict(order, "too much memory")[0] == result
