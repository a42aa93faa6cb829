"""Take one object out of the package, as the text of a notebook cell that runs alone.

An exercise is never written twice: its solution *is* the package's source, and its stub is that
same source with some bodies taken out. Nothing is imported here; the package's files are only read.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Read by nbgrader (as far as "BEGIN SOLUTION") and by otter, which puts the prompt in its place.
BEGIN, END = "# BEGIN SOLUTION NO PROMPT", "# END SOLUTION"

Function = ast.FunctionDef | ast.AsyncFunctionDef


class CutError(ValueError):
    """An exercise cell names something that cannot be cut out."""


@dataclass(frozen=True)
class Cut:
    """An object of the package, ready for a notebook cell.

    reference   where it came from, `package.module:Name`
    name        its name
    solution    imports and full source
    stub        imports and source with the chosen bodies blanked
    marked      imports and full source, what the stub blanks between the marks of graders
    uses        names it takes from `given`, that is from earlier exercises of the same lesson
    """

    reference: str
    name: str
    solution: str
    stub: str
    marked: str
    uses: tuple[str, ...]


def cut(
    reference: str,
    blank: Sequence[str] = (),
    hints: Mapping[str, Sequence[str]] | None = None,
    given: Sequence[str] = (),
    root: Path = ROOT,
    whole: bool = False,
) -> Cut:
    """Cut `reference` ("minipeft.methods.lora:LoRAPatch") out of the package under `root`.

    blank: the methods whose bodies the student writes; for a function leave it empty.
    hints: for each blanked function, comment lines to put where its body was.
    given: names that an earlier cell of the notebook defines, so that they are not imported here.
    whole: blank nothing.
    Raises CutError when the module, the object or a method in `blank` does not exist.
    """
    module, _, name = reference.partition(":")
    path = _file_of(module, root)
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    node = next((n for n in tree.body if getattr(n, "name", None) == name), None)
    if not isinstance(node, (ast.ClassDef, *Function.__args__)):
        defined = [n.name for n in tree.body if isinstance(n, (ast.ClassDef, *Function.__args__))]
        raise CutError(
            f"{module} defines no class or function {name!r}; it has {', '.join(defined)}"
        )

    functions = [] if whole else _functions_to_blank(node, blank, reference)
    unknown = sorted(set(hints or {}) - {f.name for f in functions})
    if unknown:
        raise CutError(f"{reference}: hints for {', '.join(unknown)}, which `blank` does not list")
    imports, uses = _imports(tree, node, module, given, is_package=path.name == "__init__.py")
    lines = text.splitlines()
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    last = node.end_lineno or node.lineno
    source = "\n".join(lines[first - 1 : last])

    # Blank from the bottom up, so that the line numbers above stay true.
    blanked, marked = list(lines), list(lines)
    for function in sorted(functions, key=lambda f: -f.lineno):
        label = function.name if function is node else f"{name}.{function.name}"
        _blank(blanked, function, label, (hints or {}).get(function.name, ()))
        _blank(marked, function, label, (hints or {}).get(function.name, ()), keep=True)
    stub = "\n".join(blanked[first - 1 : last + len(blanked) - len(lines)])
    between = "\n".join(marked[first - 1 : last + len(marked) - len(lines)])
    head = imports + "\n\n\n" if imports else ""
    return Cut(reference, name, head + source, head + stub, head + between, uses)


def _file_of(module: str, root: Path) -> Path:
    base = root.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    raise CutError(f"there is no module {module} under {root.name}/")


def _functions_to_blank(node: ast.AST, blank: Sequence[str], reference: str) -> list[Function]:
    if isinstance(node, Function):
        if list(blank) not in ([], [node.name]):
            raise CutError(
                f"{reference} is a function: leave `blank` out, its whole body is blanked"
            )
        return [node]
    methods = {n.name: n for n in node.body if isinstance(n, Function)}
    if not blank:
        raise CutError(f'{reference} is a class: say which methods to blank, blank="forward,merge"')
    missing = [name for name in blank if name not in methods]
    if missing:
        raise CutError(
            f"{reference} has no method {', '.join(missing)}; it has {', '.join(methods)}"
        )
    return [methods[name] for name in blank]


def _blank(
    lines: list[str], function: Function, label: str, hints: Sequence[str], keep: bool = False
) -> None:
    """Replace the body of `function` in `lines` by its hints and a NotImplementedError.

    keep: keep the body, between marks that tell a grader what to take out and what to put there.
    """
    body = function.body
    indent = " " * (function.col_offset + 4)
    documented = ast.get_docstring(function, clean=False) is not None
    if documented:
        start = body[0].end_lineno  # as an index, this is the line after the docstring
    else:
        start = body[0].lineno - 1
        if body[0].lineno == function.lineno:  # def f(x): return x
            lines[start] = lines[start][: body[0].col_offset].rstrip()
            start += 1
        else:
            while lines[start - 1].strip() == "" or lines[start - 1].lstrip().startswith("#"):
                start -= 1
    end = function.end_lineno
    # Comments after the last statement, still inside the body, are part of the answer too.
    while end < len(lines) and re.match(rf"{indent} *#", lines[end]):
        end += 1
    replacement = [f"{indent}# Hint: {hint}" for hint in hints]
    raised = f'{indent}raise NotImplementedError("{label} is yours to write")'
    if keep:
        replacement += [f"{indent}{BEGIN}", *lines[start:end], f"{indent}{END}"]
        replacement += [f'{indent}""" # BEGIN PROMPT', raised, f'{indent}""" # END PROMPT']
    else:
        replacement.append(raised)
    lines[start:end] = replacement


def _imports(
    tree: ast.Module, node: ast.AST, module: str, given: Sequence[str], is_package: bool
) -> tuple[str, tuple[str, ...]]:
    """The import lines that `node` needs to stand alone, and the names it takes from `given`."""
    wanted = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - {node.name}
    package = module if is_package else module.rpartition(".")[0]
    plain: set[str] = set()
    from_: dict[str, set[str]] = {}
    bound: set[str] = set()
    future = False
    for statement in tree.body:
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                if (alias.asname or alias.name.partition(".")[0]) in wanted:
                    plain.add(
                        f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
                    )
        elif isinstance(statement, ast.ImportFrom):
            if statement.module == "__future__":
                future = True
                continue
            source = _absolute(statement, package)
            for alias in statement.names:
                local = alias.asname or alias.name
                if local in wanted and local not in given:
                    entry = alias.name + (f" as {alias.asname}" if alias.asname else "")
                    from_.setdefault(source, set()).add(entry)
                bound.add(local)
        else:
            bound |= (names := _names_bound_by(statement))
            needed = (names & wanted) - set(given)
            if needed:
                from_.setdefault(module, set()).update(needed)
    uses = tuple(name for name in given if name in wanted and name in bound)

    def line(source: str, names: set[str]) -> str:
        text = f"from {source} import {', '.join(sorted(names))}"
        if len(text) <= 100:
            return text
        return f"from {source} import (\n" + "".join(f"    {n},\n" for n in sorted(names)) + ")"

    groups: dict[int, list[str]] = {0: [], 1: [], 2: [], 3: []}
    if future:
        groups[0].append("from __future__ import annotations")
    for text in sorted(plain):
        groups[_rank(text.split()[1], module)].append(text)
    for source in sorted(from_):
        groups[_rank(source, module)].append(line(source, from_[source]))
    return "\n\n".join("\n".join(group) for group in groups.values() if group), uses


def _rank(name: str, module: str) -> int:
    """Standard library first, then other people's packages, then ours."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return 1
    return 3 if top in {module.partition(".")[0], "minipeft", "tiny_transformer"} else 2


def _absolute(statement: ast.ImportFrom, package: str) -> str:
    if statement.level == 0:
        return statement.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - (statement.level - 1)]
    return ".".join([*base, *([statement.module] if statement.module else [])])


def _names_bound_by(statement: ast.stmt) -> set[str]:
    """Names that a module-level statement defines (not imports under `if TYPE_CHECKING`)."""
    if isinstance(statement, (ast.ClassDef, *Function.__args__)):
        return {statement.name}
    if isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return set()


def banner(text: str) -> str:
    """`text` as comment lines of at most 100 characters."""
    return "\n".join(f"# {line}" for line in textwrap.wrap(text, 96))
