"""Small changes to the text of a reference, each a wrong solution that somebody may write.

They serve twice. A check must reject every one that changes behaviour (`coverage`, the tests). And
a learner's answer that equals a mutant's is told which change makes the difference.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from minipeft.checks.framework.source import Source

OPERATORS = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
NAMES = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "minimum": "maximum",
    "cos": "sin",
    "zeros": "ones",
    "ones": "zeros",
    "new_zeros": "new_ones",
    "triu": "tril",
    "round": "int",
    "float": "int",
    "append": "insert",
    "softmax": "log_softmax",
    "masked_fill": "masked_fill_",
}


@dataclass(frozen=True)
class Mutant:
    """One change. `key` tells it from all others of the exercise; `words` say it to a learner."""

    key: str
    words: str
    tree: ast.Module


def mutants(source: Source, blank: Sequence[str] = ()) -> Iterator[Mutant]:
    """Every mutant of the bodies that a learner writes (all of a function, `blank` of a class)."""
    root = source.tree.body[0]
    bodies = (
        [root]
        if isinstance(root, ast.FunctionDef)
        else [n for n in root.body if isinstance(n, ast.FunctionDef) and n.name in blank]
    )
    counts: dict[str, int] = {}
    for function in bodies:
        returns = ast.unparse(function.returns) if function.returns else ""
        tensors = "Tensor" in returns and "dict" not in returns
        for spot, replacement, words, label in _changes(function):
            if not tensors and label.startswith(("_detached", "_as_float")):
                continue  # numbers have no history and no dtype
            key = f"{function.name}: {label}"
            counts[key] = counts.get(key, 0) + 1
            if counts[key] > 1:
                key += f" ({counts[key]})"
            yield Mutant(key, words, _replaced(source.tree, spot, replacement))


def _replaced(tree: ast.Module, spot: ast.AST, replacement) -> ast.Module:
    """A copy of the tree with one node replaced."""
    kept = {id(spot): replacement}
    changed = _swap(tree, kept)
    return ast.fix_missing_locations(changed)


def _swap(node, kept: dict[int, object]):
    if id(node) in kept:
        return copy.deepcopy(kept[id(node)])
    if isinstance(node, ast.AST):
        new = type(node)()
        for name, value in ast.iter_fields(node):
            setattr(new, name, _swap(value, kept))
        return ast.copy_location(new, node) if hasattr(node, "lineno") else new
    if isinstance(node, list):
        parts = []
        for entry in node:
            entry = _swap(entry, kept)
            parts += entry if isinstance(entry, list) else [entry]
        return parts
    return node


def _changes(function: ast.FunctionDef) -> Iterator[tuple]:
    """(node, what stands there instead, words, label)."""
    yield from _whole(function)
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    for default in [*function.args.defaults, *filter(None, function.args.kw_defaults)]:
        for new in _constants(default):
            yield _one(default, new, "a default value")
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.stmt):
                yield from _statements(node)
            if isinstance(node, ast.expr):
                for new in _expressions(node):
                    yield _one(node, new, around=_around(statement, node))


def _around(statement: ast.stmt, node: ast.expr) -> str:
    """What a bare number stands in, "labels[:, 1:]": alone it does not tell its place; or ""."""
    parts = [part for part in ast.walk(statement) if isinstance(part, ast.Subscript | ast.Call)]
    parts = [part for part in parts if any(inner is node for inner in ast.walk(part))]
    return _text(min(parts, key=lambda part: len(_text(part)))) if parts and _bare(node) else ""


def _bare(node: ast.expr) -> bool:
    return isinstance(getattr(node, "operand", node), ast.Constant)


def _one(node: ast.AST, new: ast.AST, where: str = "", around: str = "") -> tuple:
    old_text, new_text = _text(node), _text(new)
    words = f"the answer is what you get with `{new_text}` in place of `{old_text}`"
    words += f" in `{around}`" if around else ""
    return node, new, words + (f" ({where})" if where else ""), f"{old_text} -> {new_text}"


def _text(node: ast.AST) -> str:
    text = ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).replace("\n", " ")
    return text if len(text) < 90 else text[:87] + "..."


def _statements(node: ast.stmt) -> Iterator[tuple]:
    text = _text(node).partition(":")[0] if isinstance(node, ast.If | ast.For) else _text(node)
    if isinstance(node, ast.Assign | ast.AugAssign | ast.Expr | ast.If | ast.For | ast.Raise):
        yield node, ast.Pass(), f"the answer is what you get without `{text}`", f"without {text}"
    if isinstance(node, ast.If):
        turned = ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
        yield node, turned, f"`if {_text(node.test)}` is turned round", f"not ({text})"
        yield node, node.body, f"`{text}` makes no difference: always done", f"always {text}"
    if isinstance(node, ast.AugAssign):
        plain = ast.Assign([node.target], node.value, lineno=node.lineno)
        yield _one(node, plain)
    if isinstance(node, ast.Return) and node.value is not None:
        for name, words in (
            ("_detached", "the result is detached, so nothing below it would learn"),
            ("_as_float", "the result is float32 whatever came in: keep the dtype"),
        ):
            wrapped = ast.Return(ast.Call(ast.Name(name, ast.Load()), [node.value], []))
            yield node, wrapped, words, f"{name} {text}"
        yield node, ast.Return(None), "nothing is returned", f"no value: {text}"


def _whole(function: ast.FunctionDef) -> Iterator[tuple]:
    """Changes of the function as a whole: no gradient, a detached argument."""
    no_grad = copy.deepcopy(function)
    no_grad.decorator_list = [*no_grad.decorator_list, ast.parse("torch.no_grad()").body[0].value]
    said = "it runs under no_grad, so nothing learns"
    yield function, no_grad, said, "under no_grad"
    for argument in function.args.args:
        kind = ast.unparse(argument.annotation) if argument.annotation else ""
        if "Tensor" not in kind or "list" in kind or "dict" in kind:
            continue
        name = argument.arg
        other = copy.deepcopy(function)
        line = f"{name} = None if {name} is None else {name}.detach()"
        place = 1 if ast.get_docstring(function) else 0
        other.body.insert(place, ast.parse(line).body[0])
        yield (
            function,
            other,
            f"{name} is detached, so what made it would not learn",
            f"{name} detached",
        )


def _expressions(node: ast.expr) -> Iterator[ast.expr]:
    """What may stand in place of an expression."""
    if isinstance(node, ast.BinOp):
        for kind in OPERATORS.get(type(node.op), ()):
            yield ast.BinOp(node.left, kind(), node.right)
        yield node.left
        yield node.right
        if isinstance(node.op, ast.Sub | ast.Div | ast.MatMult):
            yield ast.BinOp(node.right, node.op, node.left)
        if isinstance(node.op, ast.MatMult):
            yield ast.BinOp(node.left, node.op, ast.Attribute(node.right, "mT", ast.Load()))
        names = {ast.Add: "add_", ast.Mult: "mul_", ast.Div: "div_"}
        if isinstance(node.left, ast.Name) and type(node.op) in names:
            method = ast.Attribute(node.left, names[type(node.op)], ast.Load())
            yield ast.Call(method, [node.right], [])
    elif isinstance(node, ast.Compare):
        for number, op in enumerate(node.ops):
            for kind in OPERATORS.get(type(op), ()):
                ops = [*node.ops[:number], kind(), *node.ops[number + 1 :]]
                yield ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(OPERATORS[type(node.op)][0](), node.values)
        for number in range(len(node.values)):
            rest = node.values[:number] + node.values[number + 1 :]
            yield rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield node.operand
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(node.test, node.orelse, node.body)
        yield node.body
        yield node.orelse
    elif isinstance(node, ast.Constant | ast.UnaryOp):
        yield from _constants(node)
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.Attribute) and node.attr in ("mT", "T"):
        yield node.value
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        if node.value.id == "self" and len(node.attr) == 1:  # a matrix
            yield ast.Call(ast.Attribute(node, "detach", ast.Load()), [], [])


def _constants(node: ast.expr) -> Iterator[ast.expr]:
    negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    inner = node.operand if negative else node
    if not isinstance(inner, ast.Constant) or (isinstance(node, ast.UnaryOp) and not negative):
        return
    value = -inner.value if negative and isinstance(inner.value, int | float) else inner.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int):
        yield ast.Constant(value + 1)
        yield ast.Constant(value - 1)
    elif isinstance(value, float):
        yield ast.Constant(value + 0.1)
        yield ast.Constant(value * 2 if value else 0.5)
    elif isinstance(value, str) and value.isidentifier():
        yield ast.Constant(value + "_")


def _calls(node: ast.Call) -> Iterator[ast.expr]:
    method = isinstance(node.func, ast.Attribute)
    library = (
        method
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in ("F", "torch", "math", "nn", "objectives", "self")
    )
    if method and not library:
        yield node.func.value
    elif node.args and not isinstance(node.args[0], ast.Starred | ast.GeneratorExp):
        yield node.args[0]
    if len(node.args) > 1:
        yield ast.Call(node.func, [node.args[1], node.args[0], *node.args[2:]], node.keywords)
        yield ast.Call(node.func, node.args[:-1], node.keywords)
    for number in range(len(node.keywords)):
        rest = node.keywords[:number] + node.keywords[number + 1 :]
        yield ast.Call(node.func, node.args, rest)
    name = node.func.attr if method else getattr(node.func, "id", "")
    if name in NAMES:
        other = (
            ast.Attribute(node.func.value, NAMES[name], ast.Load())
            if method
            else ast.Name(NAMES[name], ast.Load())
        )
        yield ast.Call(other, node.args, node.keywords)
