"""Tables that a terminal and a notebook both render."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torch import Tensor

from minipeft.model.libraries import unknown_head


@dataclass
class Table:
    """A small table: print it in a terminal, or leave it as the last line of a notebook cell."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple]
    notes: list[str] = field(default_factory=list)  # sentences under the table

    def _cells(self) -> list[list[str]]:
        return [[_text(cell) for cell in row] for row in self.rows]

    def _numeric(self) -> list[bool]:
        """Columns of numbers stand to the right."""
        columns = list(zip(*self.rows, strict=True)) or [() for _ in self.header]
        return [bool(c) and all(isinstance(x, int | float) for x in c) for c in columns]

    def __str__(self) -> str:
        lines = [list(self.header), *self._cells()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        right = self._numeric()
        drawn = []
        for line in lines:
            cells = [
                cell.rjust(width) if to_right else cell.ljust(width)
                for cell, width, to_right in zip(line, widths, right, strict=True)
            ]
            drawn.append("  ".join(cells).rstrip())
        rule = "-" * max(map(len, drawn))
        return "\n".join([self.title, rule, drawn[0], rule, *drawn[1:], rule, *self.notes])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        right = self._numeric()

        def row(cells, tag):
            sides = ("right" if r else "left" for r in right)
            return "".join(
                f'<{tag} style="text-align:{side}">{html.escape(cell)}</{tag}>'
                for cell, side in zip(cells, sides, strict=True)
            )

        body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in self._cells())
        notes = "<br>".join(map(html.escape, self.notes))
        notes = re.sub(r"`([^`]+)`", r"<code>\1</code>", notes)
        return (
            f"<b>{html.escape(self.title)}</b><table><thead><tr>{row(self.header, 'th')}</tr>"
            f"</thead><tbody>{body}</tbody></table><p style='white-space:pre-wrap'>{notes}</p>"
        )


@dataclass(repr=False)
class Report(Table):
    """What a tuner added, where, and how much of it.

    trainable: how many parameters are trained, the task head not counted.  head: how many are
    trained in the task head.  stored: how many numbers `save` writes, head included.  base:
    parameters of the model before anything was attached.  total: base plus what was added.
    """

    trainable: int = 0
    head: int = 0
    stored: int = 0
    base: int = 0
    total: int = 0


def _text(cell) -> str:
    if isinstance(cell, bool) or cell is None:
        return str(cell)
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def report_of(tuner) -> Report:
    """Count what a tuner holds; repeated layers share a line."""
    parts = list(parts_of(tuner))
    sizes = [(kind, size_of(tensors)) for kind, _, _, tensors in parts]
    head = sum(size for kind, size in sizes if kind == "head")
    trainable = sum(size for kind, size in sizes if kind != "head")
    base = sum(parameter.numel() for parameter in tuner.anatomy.parameter_names())
    added = trainable + head - sum(parameter.numel() for parameter in tuner.base_values)
    stored = size_of(tuner.method.export_state(tuner))
    share = 100 * trainable / (base + added)
    notes = [
        f"trainable {trainable:,} ({share:.3g} % of {base + added:,})"
        + (f"  +  head {head:,}" if head else "")
        + f"   stored {stored:,}   base {base:,}",
        *tuner.method.notes(tuner),
    ]
    if tuner.merged and tuner.rounding is not None:
        notes.append(
            f"merged in half precision: {tuner.rounding:.2g} of the change lost to rounding"
        )
    last = unknown_head(tuner.anatomy.modules)
    if last and not tuner.copies and not tuner.base_values and last not in tuner.marks:
        notes.append(f'{last} is frozen: attach(..., head=("{last}",)) trains a copy of it.')
    state = "merged" if tuner.merged else "enabled" if tuner.enabled else "disabled"
    return Report(
        title=f"{tuner.name}: {tuner.method.describe()} on {type(tuner.model).__name__}, {state}",
        header=("kind", "target", "module", "tensors", "places", "parameters"),
        rows=rows_of(parts),
        notes=notes,
        trainable=trainable,
        head=head,
        stored=stored,
        base=base,
        total=base + added,
    )


def parts_of(tuner) -> Iterator[tuple[str, str, str, dict[str, Tensor]]]:
    """(kind, target, path of the module, tensors by name) of all that a tuner trains.

    kind: "patch", "head", "copy" of another layer, or "base" for what is trained in place.
    """
    known = set()  # parameters that several patches share count once
    for place, patch in tuner.patches:
        named = {key: p for key, p in patch.named_parameters() if p not in known}
        known.update(named.values())
        yield "patch", place.target, place.path, named
    whole: dict[str, dict] = {}  # modules of the base, or copies of them, that are trained
    for parameter in tuner.base_values:
        module, _, key = tuner.base_value_names[parameter].rpartition(".")
        whole.setdefault(module, {})[key] = parameter
    for path, twin in tuner.copies.items():
        whole[path] = dict(twin.named_parameters())
    heads = tuple(f"{head}." for head in tuner.anatomy.heads())
    for path, tensors in whole.items():
        is_head = f"{path}.".startswith(heads) or type(tuner.method).__name__ == "HeadOnly"
        yield "head" if is_head else "copy" if path in tuner.copies else "base", "", path, tensors


def rows_of(parts: Iterable[tuple[str, str, str, dict[str, Tensor]]]) -> list[tuple]:
    """The rows of a report for what `parts_of` names: those of repeated layers in one."""
    lines: dict[tuple, tuple[int, int]] = {}  # (kind, target, module, tensors) -> (places, numbers)
    for kind, target, path, tensors in parts:
        shapes = "  ".join(f"{key} {tuple(tensor.shape)}" for key, tensor in tensors.items())
        shapes = shapes or "shared"  # with a patch that stands before
        line = (kind, target, re.sub(r"\b\d+\b", "*", path), shapes)
        places, numbers = lines.get(line, (0, 0))
        lines[line] = (places + 1, numbers + size_of(tensors))
    return [(*line, *counts) for line, counts in lines.items()]


def size_of(tensors: dict[str, Tensor]) -> int:
    """How many numbers are in them."""
    return sum(tensor.numel() for tensor in tensors.values())
