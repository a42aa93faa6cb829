"""Cutting an object out of the package: the solution behaves like it, the stub hides the bodies."""

import ast
import inspect
import textwrap

import pytest
import torch

from builder.cut import CutError, cut


@pytest.fixture
def package(tmp_path):
    """A package `toy` with one module, and a way to cut from it."""
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "tools.py").write_text("def helper(x):\n    return x + 1\n")

    def write(text):
        (folder / "parts.py").write_text(textwrap.dedent(text))
        return lambda name, *args, **options: cut(
            f"toy.parts:{name}", *args, root=tmp_path, **options
        )

    return write


SOURCE = '''
    from __future__ import annotations

    import json
    import math as m
    import os.path
    from dataclasses import dataclass, field
    from typing import TYPE_CHECKING

    from . import tools
    from .tools import helper as help_me

    if TYPE_CHECKING:
        from fractions import Fraction

    LIMIT = 3
    unused = 4

    def near(x):
        return x

    class Base:
        pass

    @dataclass
    class Thing(Base):
        """What a thing is."""

        size: int = 1

        def area(self, scale: float = 1.0) -> float:
            """Its area.

            Equation 7.
            """
            # a secret remark
            secret = m.pi * self.size**2
            return secret * scale  # a secret at the end
            # a secret after the end

        def near(self, x: Fraction):
            # another secret
            if x:
                return near(help_me(x)) + LIMIT
            return tools.helper(x)

        def one_line(self): return "secret"

        def shown(self):
            return "this stays"
'''


def test_imports_are_those_it_needs_and_no_others(package):
    text = package(SOURCE)("Thing", ["area"]).solution
    head = text[: text.index("@dataclass")]
    assert head.split("\n") == [
        "from __future__ import annotations",
        "",
        "import math as m",
        "from dataclasses import dataclass",
        "",
        "from toy import tools",
        "from toy.parts import Base, LIMIT, near",
        "from toy.tools import helper as help_me",
        "",
        "",
        "",
    ]


def test_the_stub_hides_the_bodies_and_keeps_everything_else(package):
    hints = {"area": ["pi r squared", "mind the scale"]}
    piece = package(SOURCE)("Thing", ["area", "near", "one_line"], hints=hints)
    assert "secret" not in piece.stub and "secret" in piece.solution
    assert '"this stays"' in piece.stub and '"""What a thing is."""' in piece.stub
    tree = ast.parse(piece.stub)
    thing = next(n for n in tree.body if isinstance(n, ast.ClassDef))
    methods = {n.name: n for n in thing.body if isinstance(n, ast.FunctionDef)}
    whole = next(n for n in ast.parse(piece.solution).body if isinstance(n, ast.ClassDef))
    for original in (n for n in whole.body if isinstance(n, ast.FunctionDef)):
        kept = methods[original.name]
        assert ast.dump(kept.args) == ast.dump(original.args)
        assert ast.get_docstring(kept) == ast.get_docstring(original)
        if original.name != "shown":
            assert isinstance(kept.body[-1], ast.Raise)
            assert len(kept.body) == 1 + (ast.get_docstring(original) is not None)
    lines = [line.strip() for line in piece.stub.splitlines()]
    place = lines.index("# Hint: pi r squared")
    assert lines[place + 1] == "# Hint: mind the scale"
    assert lines[place + 2].startswith("raise NotImplementedError")


def test_a_function_is_blanked_whole(package):
    piece = package('def f(x):\n    """Doc."""\n    y = x\n    return y\n\n\nz = 1\n')("f")
    assert piece.stub == (
        'def f(x):\n    """Doc."""\n    raise NotImplementedError("f is yours to write")'
    )


def test_names_of_earlier_exercises_are_not_imported(package):
    piece = package(SOURCE)("Thing", ["area"], given=["near", "Base", "Other"])
    assert piece.uses == ("near", "Base")
    assert "from toy.parts import LIMIT\n" in piece.solution


@pytest.mark.parametrize(
    ("name", "blank", "words"),
    [
        ("Nothing", [], "defines no class or function 'Nothing'; it has near, Base, Thing"),
        ("LIMIT", [], "defines no class or function"),
        ("Thing", ["volume"], "has no method volume; it has area, near"),
        ("Thing", [], "say which methods to blank"),
        ("near", ["x"], "is a function"),
    ],
)
def test_what_cannot_be_cut_is_said(package, name, blank, words):
    with pytest.raises(CutError) as caught:
        package(SOURCE)(name, blank)
    assert words in str(caught.value)


def test_a_missing_module_is_said(tmp_path):
    with pytest.raises(CutError, match="there is no module nowhere.at_all"):
        cut("nowhere.at_all:x", root=tmp_path)


def test_cut_lora_behaves_like_the_package():
    """The cell, run alone, gives an object that computes what the package's does."""
    from minipeft.methods.lora import LoRAPatch

    piece = cut("minipeft.methods.lora:LoRAPatch", ["forward", "delta"])
    space = {"__name__": "cell"}
    exec(compile(piece.solution, "cell", "exec"), space)
    ours = space["LoRAPatch"]
    assert ours is not LoRAPatch
    assert inspect.getdoc(ours) == inspect.getdoc(LoRAPatch)
    outputs = []
    for kind in (ours, LoRAPatch):
        torch.manual_seed(0)
        patch = kind(6, 4, 2, 8.0).eval()
        torch.nn.init.normal_(patch.B)
        outputs.append((patch(torch.ones(1, 6), torch.ones(1, 4)), patch.delta()))
    assert torch.equal(outputs[0][0], outputs[1][0])
    assert torch.equal(outputs[0][1], outputs[1][1])

    stub = {"__name__": "cell"}
    exec(compile(piece.stub, "cell", "exec"), stub)
    patch = stub["LoRAPatch"](6, 4, 2, 8.0)
    with pytest.raises(NotImplementedError, match="LoRAPatch.forward is yours to write"):
        patch(torch.ones(1, 6), torch.ones(1, 4))
    assert inspect.signature(stub["LoRAPatch"].delta) == inspect.signature(LoRAPatch.delta)
