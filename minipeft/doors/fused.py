"""Slices of fused maps: patches on the query and value of GPT-2's c_attn, say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from minipeft.doors.grouping import GROUPED, grouped, joined
from minipeft.doors.patch import Patch, as_patch


class Parts(Patch):
    """Patches of one name on parts of a fused projection: query and value of GPT-2's c_attn, say.

    Every part is a patch of its own and sees the columns of y that belong to it, nothing else.
    x (B, T, in), y (B, T, out) -> (B, T, out).
    """

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features
        self.parts = nn.ModuleDict()  # "query" -> patch
        self.spans: dict[str, tuple | None] = {}  # "query" -> (first, last + 1) of its columns

    def add(self, part: str, patch: nn.Module, columns: Tensor, device=None) -> None:
        """Let a patch in for a part; columns: which of the output features are the part's, (n,).

        Raises:
            ValueError: the part has one already, or the patch changes the input.
        """
        if part in self.parts:
            raise ValueError(f"The target {part!r} is named twice: name it once.")
        if as_patch(patch).changes_input():
            raise ValueError(
                f"{part!r} is a part of a fused map here, so it has no input of its own to change: "
                "target the whole map by the name of its module."
            )
        self.parts[part] = patch
        first, last = int(columns[0]), int(columns[0]) + len(columns)
        straight = columns.tolist() == list(range(first, last))
        self.spans[part] = (first, last) if straight else None  # None: here and there (GPT-NeoX)
        columns = columns.clone().to(device)  # which of the out features
        self.register_buffer(f"{part}_columns", columns, persistent=False)

    def columns(self, part: str) -> Tensor:
        """Which of the output features are this part's: (n,)."""
        return getattr(self, f"{part}_columns")

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        together = joined(self)
        if together is not None:
            return together(x, y)
        return self.each(y, lambda part, y_part: self.parts[part](x, y_part))

    def is_scattered(self) -> bool:
        """Do the columns of a part lie here and there, as in GPT-NeoX?"""
        return None in self.spans.values()

    def order(self) -> list[str]:
        """The parts in the order of their columns; scattered ones as they came."""
        return [*self.parts] if self.is_scattered() else sorted(self.parts, key=self.spans.get)

    def each(self, y: Tensor, change: Callable[[str, Tensor], Tensor]) -> Tensor:
        """y with the columns of every part changed: by `change(part, y's columns)`."""
        if self.is_scattered():
            for part in self.order():
                columns = self.columns(part)  # (out of this part,)
                y = y.index_copy(-1, columns, change(part, y.index_select(-1, columns)))
            return y
        sizes, end = [], 0  # columns side by side, as in GPT-2: y is cut up and put together once
        for part in self.order():
            first, last = self.spans[part]
            sizes += [first - end, last - first]
            end = last
        # cut, not sliced: the gradient of every slice would be as large as y
        pieces = [*y.split([*sizes, y.shape[-1] - end], dim=-1)]
        for i, part in enumerate(self.order()):
            piece = pieces[2 * i + 1]
            ours = isinstance(self.parts[part], Patch)
            pieces[2 * i + 1] = change(part, piece if ours else piece.clone())  # may be written to
        return torch.cat(pieces, dim=-1)

    def patches(self) -> list[Patch]:
        """The patches of all parts, in the order in which they came."""
        return [as_patch(patch) for patch in self.parts.values()]

    @property
    def needs_bias(self) -> bool:
        return any(patch.needs_bias for patch in self.patches())

    def is_additive(self) -> bool:
        return all(patch.is_additive() for patch in self.patches())

    def unmergeable(self) -> str | None:
        return next(filter(None, (patch.unmergeable() for patch in self.patches())), None)

    def delta(self) -> Tensor:
        """Weight difference of the whole projection (out, in): the rows of other parts are zero."""
        whole = None
        for part, patch in self.parts.items():
            delta = patch.delta()  # (out of this part, in)
            if whole is None:
                whole = delta.new_zeros(self.out_features, delta.shape[1])
            whole = whole.index_add(0, self.columns(part), delta)
        return whole

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Each part folds into its own rows of the weight (out, in) and of the bias (out,)."""
        for part, patch in self.parts.items():
            columns = self.columns(part)
            bias_part = None if bias is None else bias[columns]
            rows, bias_part = as_patch(patch).fold(weight[columns], bias_part)
            weight = weight.index_copy(0, columns, rows)
            bias = None if bias is None else bias.index_copy(0, columns, bias_part)
        return weight, bias


class GroupedParts:
    """See grouping.py: the Parts of several names that have the same parts, each alike in turn."""

    @staticmethod
    def can_group(patches: Sequence[Parts]) -> bool:
        first = patches[0]
        if first.is_scattered() or any(other.spans != first.spans for other in patches):
            return False
        return all(grouped([other.parts[part] for other in patches]) for part in first.parts)

    @staticmethod
    def forward_grouped(patches: Sequence[Parts], x: Tensor, y: Tensor) -> Tensor:
        """x (S, n, T, in), y (S, n, T, out), the s-th of `patches` on the s-th of them."""

        def change(part: str, y_part: Tensor) -> Tensor:
            return grouped([other.parts[part] for other in patches])(x, y_part)

        return patches[0].each(y, change)


GROUPED[Parts] = GroupedParts
