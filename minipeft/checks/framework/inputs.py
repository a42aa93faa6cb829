"""What goes into a case: tensors of any dtype and layout, drawn with equal numbers each time."""

from __future__ import annotations

import functools
import math
import random
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

LAYOUTS = ("plain", "strided", "expanded")
DTYPES = ("float32", "float64", "bfloat16")


class Draw:
    """Draws the inputs of one case. The same seed gives the same inputs.

    Args:
        seed: of everything that is drawn.
        dtype: of floating-point tensors.
        layout: "plain"; "strided", not contiguous in memory; "expanded", one row shown B times.
        gradients: do floating-point tensors want a gradient?
        scale: of normal numbers.
        copies: when above 0, a tensor whose first size is 1 is repeated so often along it.
    """

    def __init__(
        self,
        seed: int,
        dtype: torch.dtype = torch.float32,
        layout: str = "plain",
        gradients: bool = True,
        scale: float = 1.0,
        copies: int = 0,
    ) -> None:
        self.seed, self.dtype, self.layout, self.scale = seed, dtype, layout, scale
        self.wants_gradients, self.copies = gradients, copies
        self.generator = torch.Generator().manual_seed(seed)
        self.random = random.Random(seed)
        self.leaves: list[
            tuple[Tensor, Tensor]
        ] = []  # (what autograd asks for, what is handed out)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Normal numbers, (shape)."""
        numbers = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        return self.tensor(self.scale * scale * numbers)

    def uniform(self, *shape: int) -> Tensor:
        """Numbers from 0 to 1, (shape)."""
        return self.tensor(torch.rand(*shape, generator=self.generator, dtype=torch.float64))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Whole numbers, low <= n < high, (shape)."""
        return self.whole(torch.randint(low, high, shape, generator=self.generator))

    def tensor(self, values: Tensor) -> Tensor:
        """These numbers in the case's dtype and layout, with a gradient if the case wants one."""
        values = self._repeated(values)
        expanded = self.layout == "expanded" and values.dim() > 1 and len(values) > 1
        leaf = (values[:1] if expanded else values).to(self.dtype).detach().clone()
        leaf.requires_grad_(self.wants_gradients)
        handed = self._laid_out(leaf, len(values) if expanded else 0)
        self.leaves.append((leaf, handed))
        return handed

    def constant(self, values: Tensor) -> Tensor:
        """These numbers in the case's dtype and layout; nobody asks for their gradient."""
        return self.whole(values.to(self.dtype))

    def whole(self, values: Tensor) -> Tensor:
        """Integers or booleans in the case's layout."""
        values = self._repeated(values)
        expanded = self.layout == "expanded" and values.dim() > 1 and len(values) > 1
        return self._laid_out((values[:1] if expanded else values).clone(), len(values) * expanded)

    def _repeated(self, values: Tensor) -> Tensor:
        if self.copies and values.dim() and len(values) == 1:
            return values.repeat(self.copies, *[1] * (values.dim() - 1))
        return values

    def _laid_out(self, leaf: Tensor, rows: int) -> Tensor:
        if rows:
            return leaf.expand(rows, *leaf.shape[1:])
        if self.layout == "strided" and leaf.dim():
            return leaf.repeat_interleave(2, dim=-1)[..., ::2]
        return leaf.clone()


def fill(name: str, seed: int, shape: torch.Size | tuple) -> Tensor:
    """The numbers that a parameter called `name` gets in a case; not to be changed in place."""
    few = math.prod(shape) <= 10_000  # the large ones are not kept
    return (_kept_fill if few else _fill)(name, seed, shape)


def _fill(name: str, seed: int, shape: torch.Size | tuple) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    numbers = torch.randn(shape, generator=generator, dtype=torch.float64)
    return numbers / max(1, shape[-1] if shape else 1) ** 0.5 * 1.5


_kept_fill = functools.lru_cache(maxsize=4_000)(_fill)


def leaves_of(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, leaf) of nested dicts, lists and tuples: ("labels", tensor), ("[1]", tensor)."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from leaves_of(entry, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        for number, entry in enumerate(value):
            yield from leaves_of(entry, f"{path}[{number}]")
    else:
        yield path, value


def snapshot(value: Any) -> Any:
    """A deep copy, of what an argument holds now, that later changes do not reach."""
    if isinstance(value, Tensor):
        return value.detach().clone(), value.dtype, value.requires_grad, _copy(value)
    if isinstance(value, nn.Module):
        held: dict[str, Any] = {"mode": tuple(module.training for module in value.modules())}
        for path, module in value.named_modules():
            for kind in (module._parameters, module._buffers):
                held |= {(path, name): snapshot(t) for name, t in kind.items() if t is not None}
        return held
    if isinstance(value, Mapping):
        return {key: snapshot(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [snapshot(entry) for entry in value]
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    return value


def _copy(value: Tensor) -> Tensor | None:
    if not value.is_leaf or value.grad is None:
        return None
    return value.grad.clone()


def unchanged(before: Any, after: Any) -> bool:
    """Are two snapshots equal?"""
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        if before.dtype != after.dtype:
            return False
        return torch.equal(before, after) or torch.equal(before.nan_to_num(), after.nan_to_num())
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return before.keys() == after.keys() and all(
            unchanged(before[key], after[key]) for key in before
        )
    if isinstance(before, list | tuple) and isinstance(after, list | tuple):
        return len(before) == len(after) and all(map(unchanged, before, after))
    return type(before) is type(after) and before == after
