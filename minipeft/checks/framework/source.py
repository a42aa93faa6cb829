"""The reference of an exercise as text: rebuilt untouched, or with a mistake written into it."""

from __future__ import annotations
import __future__

import ast
import functools
import importlib
import inspect
import textwrap
from collections.abc import Sequence
from types import CodeType
from typing import Any

import torch


class Source:
    """The text of "package.module:Name".

    The object is compiled anew from its text, so a notebook that replaces methods of the package's
    class is not judged by its own replacement.
    """

    def __init__(self, reference: str) -> None:
        self.reference = reference
        self.name = reference.partition(":")[2]

    @functools.cached_property
    def module(self):
        return importlib.import_module(self.reference.partition(":")[0])

    @functools.cached_property
    def text(self) -> str:
        return textwrap.dedent(inspect.getsource(getattr(self.module, self.name)))

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @functools.cached_property
    def object(self) -> Any:
        """The reference itself."""
        return self.build(self.text)

    def build(self, text: str | ast.Module, **names: Any) -> Any:
        """The object that this text defines, among the names of the reference's module."""
        space = dict(vars(self.module)) | {"_detached": detached, "_as_float": as_float} | names
        flags = __future__.annotations.compiler_flag
        exec(compile(text, f"<{self.name}>", "exec", flags=flags, dont_inherit=True), space)
        return space[self.name]

    def edited(self, edits: Sequence[tuple[str, str]]) -> Any:
        """The reference with pieces of its text replaced.

        Raises:
            ValueError: a piece is not in the text.
        """
        text = self.text
        for old, new in edits:
            if old not in text:
                raise ValueError(f"{self.reference} holds no {old!r}: mend the mistake's edit.")
            text = text.replace(old, new)
        return self.build(text)


def is_made_of(text: str, name: str, made: Any) -> bool:
    """Do the functions of an object hold the same code as those of `name` in this text?"""
    tree = ast.parse(text)
    alone = [node for node in tree.body if getattr(node, "name", None) == name][-1:]
    parts = vars(made) if inspect.isclass(made) else {name: made}
    # Python calls the functions of a module in another way where it sees the module's import. A
    # notebook compiles every statement by itself, a file all of them together.
    for body in (tree.body, alone):
        module = compile(ast.Module(body, []), "<given>", "exec", dont_inherit=True)
        wanted = _functions(module, name)
        codes = {n: getattr(parts.get(n), "__code__", None) for n in wanted}
        if wanted and all(
            codes[n] is not None and _body(codes[n]) == _body(code) for n, code in wanted.items()
        ):
            return True
    return False


def _functions(module: CodeType, name: str) -> dict[str, CodeType]:
    parts = {c.co_name: c for c in module.co_consts if isinstance(c, CodeType)}
    if name not in parts or "__qualname__" not in parts[name].co_names:
        return {name: parts[name]} if name in parts else {}
    return {c.co_name: c for c in parts[name].co_consts if isinstance(c, CodeType)}


def _body(code: CodeType) -> tuple:
    """What a function does, wherever its lines stand."""
    constants = [_body(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return code.co_code, code.co_names, code.co_varnames, tuple(constants)


def detached(value: Any) -> Any:
    """Nested tensors without their history (what a wrong solution returns)."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: detached(entry) for key, entry in value.items()}
    return type(value)(map(detached, value)) if type(value) in (list, tuple) else value


def as_float(value: Any) -> Any:
    """Nested tensors in float32 (what a wrong solution returns)."""
    if isinstance(value, torch.Tensor):
        return value.float()
    if isinstance(value, dict):
        return {key: as_float(entry) for key, entry in value.items()}
    return type(value)(map(as_float, value)) if type(value) in (list, tuple) else value
