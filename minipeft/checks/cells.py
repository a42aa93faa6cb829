"""A notebook's cells as Python: which cell defines a name, and what that definition needs.

A submitted exercise is not judged by running the whole notebook, which may train for minutes, and
not by running its cell alone, which would miss the `import torch` of the first cell. `program`
picks the statements that it needs, in an order that gives what its author saw: every import of the
notebook, the helpers and constants that the definition uses (and what these use), the definition.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import dis
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (ast.ClassDef, *FUNCTIONS)
IMPORTS = (ast.Import, ast.ImportFrom)
UNFINISHED = "is yours to write"  # how the message of a stub's NotImplementedError ends
# Cell magics whose body is Python; that of any other (%%bash, %%html, ..) is not.
PYTHON_MAGICS = {"time", "timeit", "capture", "prun", "python", "python3", "debug"}


@dataclass(frozen=True)
class Statement:
    """One statement at the top level of a cell.

    cell: index of its cell. binds: the global names it sets. needs: those it or a function in it
    reads. changes: those whose attributes or items it sets.
    """

    cell: int
    node: ast.stmt
    binds: frozenset[str]
    needs: frozenset[str]
    changes: frozenset[str]

    @functools.cached_property
    def patches(self) -> frozenset[str]:
        """The classes and functions that it may patch."""
        return _patches(self.node)

    @functools.cached_property
    def text(self) -> str:
        return ast.unparse(self.node)

    @functools.cached_property
    def imports(self) -> bool:
        """Is it an import, also one that is guarded by try or if?"""
        if not isinstance(self.node, (ast.If, ast.Try)):
            return isinstance(self.node, IMPORTS)
        parts = list(_outside_functions(self.node))
        loops = (*DEFINITIONS, ast.For, ast.While, ast.AsyncFor)
        return any(isinstance(p, IMPORTS) for p in parts) and not any(
            isinstance(p, loops) for p in parts
        )


@dataclass(frozen=True)
class Cell:
    """One code cell: as submitted, as Python (None if it is none), and the exercise it claims."""

    source: str
    text: str | None
    exercise: str | None = None

    @property
    def nodes(self) -> list[ast.stmt]:
        return [] if self.text is None else _parsed(self.text)


@functools.lru_cache(maxsize=128)
def _parsed(text: str) -> list[ast.stmt]:
    """The statements of a text that is Python; nobody changes them."""
    return ast.parse(text).body


def read_cells(notebook: dict) -> tuple[Cell, ...]:
    """The code cells of a notebook as Jupyter stores it."""
    cells = []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        source = cell["source"]
        source = source if isinstance(source, str) else "".join(source)
        mark = cell.get("metadata", {}).get("minipeft", {}).get("exercise")
        cells.append(Cell(source, python_of(source), mark))
    return tuple(cells)


@functools.lru_cache(maxsize=128)
def python_of(source: str) -> str | None:
    """A cell's text as Python of as many lines, without what only IPython understands.

    `%%time` and `%time` go and leave what they time; lines with `!`, `?` or another magic become
    `pass`. None when what is left is not Python.
    """
    lines = source.replace("\r\n", "\n").split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip()), 0)
    magic = re.match(r"%%(\w+)", lines[first])
    if magic:
        if magic[1] not in PYTHON_MAGICS:
            return ""
        lines[first] = ""
    for _ in range(len(lines) + 1):
        text = "\n".join(lines)
        try:
            ast.parse(text)
            return text
        except SyntaxError as error:
            place = (error.lineno or 0) - 1
            if not 0 <= place < len(lines) or not (plain := _without_magic(lines[place])):
                return None
            lines[place] = plain
        except (ValueError, RecursionError, MemoryError):  # a null byte; nested too deeply
            return None
    return None


def _without_magic(line: str) -> str | None:
    """The line as Python; None when it holds nothing that IPython alone understands."""
    indent = line[: len(line) - len(line.lstrip())]
    text = line.strip()
    if timed := re.match(r"%time\s+(?!-)(.+)", text):
        return indent + timed[1]
    if assigned := re.match(r"([\w, ]+?)\s*=\s*[!%]", text):
        return f"{indent}{assigned[1]} = None"
    if text.startswith(("!", "%", "?")) or re.fullmatch(r"[\w.*]+\?\??", text):
        return f"{indent}pass"
    return None


def features(cells: tuple[Cell, ...]) -> int:
    """The compiler's flags for the `from __future__` imports of a notebook: they stay in force."""
    flags = 0
    for cell in cells:
        for node in cell.nodes:
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                for alias in node.names:
                    feature = getattr(__future__, alias.name, None)
                    flags |= feature.compiler_flag if feature else 0
    return flags


def compiled(node: ast.stmt, label: str, flags: int) -> CodeType:
    """One statement as code; it raises what Python raises for what cannot stand alone."""
    module = ast.Module(body=[node], type_ignores=[])
    return compile(module, label, "exec", flags=flags, dont_inherit=True)


@functools.lru_cache(maxsize=4)
def statements(cells: tuple[Cell, ...]) -> tuple[Statement, ...]:
    """Every statement at the top level of the cells, in order, that can run by itself."""
    flags = features(cells)
    return tuple(s for index, cell in enumerate(cells) for s in _statements_of(cell, index, flags))


@functools.lru_cache(maxsize=128)
def _statements_of(cell: Cell, index: int, flags: int) -> tuple[Statement, ...]:
    result = []
    for node in cell.nodes:
        try:
            code = compiled(node, "<cell>", flags)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue  # `return` or `await` outside of a function
        binds, needs = _global_names(code)
        needs |= _annotated(node)
        result.append(Statement(index, node, binds, needs, _changes(node)))
    return tuple(result)


def _global_names(code: CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """(names that module code sets, names that it and the functions in it read)."""
    binds, needs = set(), set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("STORE_NAME", "STORE_GLOBAL"):
            binds.add(instruction.argval)
        elif instruction.opname in ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"):
            needs.add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            needs |= _global_names(constant)[1]
    return frozenset(binds), frozenset(needs)


def _annotated(node: ast.stmt) -> frozenset[str]:
    """Names in annotations, which a `from __future__` import leaves as text."""
    names = set()
    for part in ast.walk(node):
        for field in ("annotation", "returns"):
            annotation = getattr(part, field, None)
            if isinstance(annotation, ast.AST):
                names |= {n.id for n in ast.walk(annotation) if isinstance(n, ast.Name)}
    return frozenset(names)


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """The node and what stands in it, but not the bodies of its functions and classes."""
    yield node
    if not isinstance(node, (*DEFINITIONS, ast.Lambda)):
        for child in ast.iter_child_nodes(node):
            yield from _outside_functions(child)


def _changes(node: ast.stmt) -> frozenset[str]:
    """`NAME.x = 1`, `NAME[0] = 1`, `NAME.append(1)` and `setattr(NAME, ..)` change NAME."""
    return _patches(node) | {
        _root(part.value.func)
        for part in _outside_functions(node)
        if isinstance(part, ast.Expr) and isinstance(part.value, ast.Call)
        and isinstance(part.value.func, ast.Attribute)
    } - {None}  # fmt: skip


def _patches(node: ast.stmt) -> frozenset[str]:
    """`NAME.x = 1`, `NAME[0] = 1` and `setattr(NAME, ..)`: what may patch a class or a function."""
    names = set()
    for part in _outside_functions(node):
        if isinstance(part, (ast.Attribute, ast.Subscript)) and not isinstance(part.ctx, ast.Load):
            names.add(_root(part))
        elif isinstance(part, ast.Call) and isinstance(part.func, ast.Name):
            if part.func.id == "setattr" and part.args:
                names.add(_root(part.args[0]))
    return frozenset(names - {None})


def _root(node: ast.AST) -> str | None:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


# -- which cell -----------------------------------------------------------------------------------


def blanked(cell: Cell, name: str) -> set[str]:
    """The functions in the definition of `name` in this cell that only say they are not written."""
    unwritten = set()
    for node in cell.nodes:
        if getattr(node, "name", None) == name:
            unwritten |= _unwritten(node)
    return unwritten


def _unwritten(node: ast.AST) -> set[str]:
    names = set()
    for part in ast.walk(node):
        if isinstance(part, FUNCTIONS):
            last = part.body[-1]
            texts = [n.value for n in ast.walk(last) if isinstance(n, ast.Constant)]
            if isinstance(last, ast.Raise) and any(str(t).endswith(UNFINISHED) for t in texts):
                names.add(part.name)
    return names


def as_given(node: ast.AST, name: str, given: str | None) -> bool:
    """Is what this statement defines still what the exercise gave to be mended?"""
    if given is None:
        return False
    first = [n for n in ast.parse(given).body if getattr(n, "name", None) == name]
    now = [n for n in _outside_functions(node) if getattr(n, "name", None) == name]
    return bool(first and now) and ast.dump(first[-1]) == ast.dump(now[-1])


def candidates(
    cells: tuple[Cell, ...],
    name: str,
    stub: set[str] = frozenset(),
    reference: str | None = None,
    given: str | None = None,
) -> list[tuple[int, Statement | None]]:
    """The cells that may count for `name`, best first, each with the statement that defines it.

    The last class, function or lambda of that name counts, wherever it stands; then a cell that
    would define it and is not Python; then `NAME = value`, which a lesson may use for a number; a
    stub, `NAME = ...` or one in which nothing of `stub`, the functions to write, is written, or
    what was `given` to be mended; an import; at last a cell that bears the exercise's mark and
    defines something else.
    """
    written, untouched, assigned, imported = [], [], [], []
    makers = set()  # names of the notebook's own functions and classes
    for statement in statements(cells):
        kinds = [n for n in _outside_functions(statement.node) if isinstance(n, DEFINITIONS)]
        if name in statement.binds:
            definitions = [n for n in kinds if n.name == name]
            if definitions:
                blank = stub and any(_unwritten(n) >= set(stub) for n in definitions)
                blank = blank or as_given(statement.node, name, given)
                (untouched if blank else written).append(statement)
            elif statement.imports:
                imported.append(statement)
            elif _renames(statement.node, name, makers):
                written.append(statement)
            elif _is_dots(statement.node):
                untouched.append(statement)
            else:
                assigned.append(statement)
        makers |= {n.name for n in kinds}
    broken = [
        (index, None)
        for index, cell in enumerate(cells)
        if cell.text is None and re.search(rf"^\s*(class|def)\s+{name}\b", cell.source, re.M)
    ]
    marked = [i for i, cell in enumerate(cells) if reference and _same(cell.exercise, reference)]
    taken = [s for s in imported if s.cell in marked]
    best = []
    for group in (written, broken, assigned, taken, untouched, imported):
        if group:
            last = group[-1]
            best.append((last.cell, last) if isinstance(last, Statement) else last)
    return best or [(index, None) for index in marked[-1:]]


def _same(mark: str | None, reference: str) -> bool:
    """Do both name the same object? Its module may have moved since the notebook was made."""
    return isinstance(mark, str) and mark.partition(":")[2] == reference.partition(":")[2]


def _is_dots(node: ast.stmt) -> bool:
    """`NAME = ...`, the stub of an exercise whose answer is a number."""
    value = getattr(node, "value", None)
    return isinstance(value, ast.Constant) and value.value is Ellipsis


def _renames(node: ast.stmt, name: str, makers: set[str]) -> bool:
    """`NAME = lambda ..`, `NAME = Mine`, `NAME = decorate(NAME)`: a definition, not a number."""
    if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
        return False
    value = node.value
    if isinstance(value, ast.Call):
        arguments = [*value.args, *(k.value for k in value.keywords)]
        return any(isinstance(a, ast.Name) and a.id in makers | {name} for a in arguments)
    return isinstance(value, ast.Lambda) or _root(value) in makers


# -- what it needs --------------------------------------------------------------------------------


def program(
    cells: tuple[Cell, ...], chosen: Statement, name: str, given: set[str]
) -> list[Statement]:
    """The statements to run so that `name` is what its author saw, in order.

    A statement may stand twice in it: one from below the definition is tried before it and, if
    that fails, after it.
    given: names that are there already (other exercises of the lesson, from the package).
    """
    every = statements(cells)
    position = every.index(chosen)
    above, below = every[:position], every[position + 1 :]
    patches = [s for s in below if name in s.patches]
    data = {n for s in every if not (s.imports or isinstance(s.node, DEFINITIONS)) for n in s.binds}
    picked = {chosen, *patches}
    waiting = [chosen, *patches]
    seen = given | set(dir(builtins))
    while waiting:
        for need in waiting.pop().needs - seen:
            seen = seen | {need}
            for side in (above, below):
                makers = [
                    s
                    for s in side
                    if need in s.binds or need in (s.changes if need in data else s.patches)
                ]
                fresh = [s for s in makers if s not in picked and not s.imports]
                picked |= set(fresh)
                waiting += fresh
                if any(need in s.binds for s in makers):
                    break
    # Every import is in force; one that binds no word of what is picked could change nothing.
    words = set(re.findall(r"\w+", " ".join(s.text for s in picked)))
    imports = {s for s in every if s.imports and (s.binds & words or "*" in s.text)}
    first = [s for s in below if s in imports]  # before all others, so that they hide nothing
    early = [s for s in above if s in imports or s in picked]
    later = [s for s in below if s in picked and s not in patches and s not in imports]
    return [*first, *later, *early, chosen, *later, *patches]
