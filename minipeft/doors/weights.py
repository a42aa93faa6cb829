"""The weights door: a frozen linear map with patches around it.

    y = base(x), then every active patch in its turn:  y = patch(x, y)

Shapes: B batch, T tokens, in / out the features of the linear map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from minipeft.doors.copies import CopyDoor
from minipeft.doors.door import Door, bottom
from minipeft.doors.grouping import grouped
from minipeft.doors.layers import check_plain, is_transposed
from minipeft.doors.patch import Patch, as_patch
from minipeft.doors.rows import on


class WeightDoor(Door):
    """A linear map x -> y with patches around it.

    y = base(x); then for each active patch, in the order of attachment, y = patch(x, y).
    A patch sees the input and the output, so one door is enough for LoRA (adds B A x), for an
    adapter behind an output projection (reads y only) and for a rescaling (multiplies y). What else
    a patch may do, change x on its way in or answer in place of the base, stands in patch.py.

    A base that is a layer norm is welcome too, if its patches only read y.

    x (B, T, in) -> y (B, T, out); any number of dimensions between the first and the last.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.routing is not None and not self.routing.uniform:
            return self.forward_routed(x)
        patches = [as_patch(patch) for patch, _ in self.active(x.shape[0])]
        x, *inputs = inputs_of(patches, x)  # of the base, then of each patch
        y = base_of(self.base, patches)(x)
        for patch, x in zip(patches, inputs, strict=True):
            y = patch(x, y)
        return y

    def forward_routed(self, x: Tensor) -> Tensor:
        """The same, each patch on the rows that `route` has given it."""
        acting = [(as_patch(patch), rows) for patch, rows in self.active(x.shape[0])]
        if self.routing.disjoint and len(acting) > 1 and all(map(is_plain, acting)):
            return self.forward_disjoint(x, acting)
        inputs = []  # what each patch reads; the last one stands outermost and reads x itself
        for patch, rows in reversed(acting):
            inputs.append(x)
            if patch.changes_input():
                x = on(rows, x, patch.before, x)
        y = self.base(x)
        for patch, rows in acting:
            replacement = patch.base_replacement()
            if replacement is not None:
                y = on(rows, y, lambda x, call=replacement: call(x, self.base.bias), x)
        for patch, rows in acting:
            y = on(rows, y, patch, inputs.pop(), y)
        return y

    def forward_disjoint(self, x: Tensor, acting: Sequence[tuple[Patch, Tensor]]) -> Tensor:
        """The same where no row has two patches: y is copied once, equal patches are grouped."""
        y = self.base(x)
        patches = [patch for patch, _ in acting]
        order = torch.cat([rows for _, rows in acting]).to(x.device)
        together = grouped(patches) if len({len(rows) for _, rows in acting}) == 1 else None
        if together is None:
            rows = [rows.to(x.device) for _, rows in acting]
            changed = torch.cat([p(x[i], y[i]) for p, i in zip(patches, rows, strict=True)])
            return y.index_copy(0, order, changed)
        sorted_already = torch.equal(order, torch.arange(len(x), device=x.device))
        x, of_rows = (x, y) if sorted_already else (x[order], y[order])
        shape = (len(patches), -1)  # x (S n, T, in) -> (S, n, T, in), y likewise
        changed = together(x.unflatten(0, shape), of_rows.unflatten(0, shape)).flatten(0, 1)
        return changed if sorted_already else y.index_copy(0, order, changed)

    def is_replaced(self) -> bool:
        """Does a patch answer in place of the base?"""
        return any(as_patch(p).base_replacement() is not None for p in self.patches.values())

    def check_merge(self, name: str) -> None:
        check_plain(self.path, bottom(self))
        patches = {other: as_patch(patch) for other, patch in self.patches.items()}
        patch = patches[name]
        kind = patch.unmergeable()
        if kind is not None:
            raise ValueError(
                f"{name!r} cannot be merged: {kind} is no change of a weight matrix (it is not "
                "linear, or has nowhere to go), so leave it attached."
            )
        if patch.needs_bias and self.base.bias is None:
            raise ValueError(
                f"{name!r} cannot be merged: it adds a bias, and the base's map has none that it "
                "could be added to, so leave it attached."
            )
        for other, ahead in patches.items():
            if other == name:
                break
            if other in self.off or other in self.merged:
                continue
            if not (ahead.is_additive() and patch.is_additive()):  # differences commute
                raise ValueError(
                    f"{name!r} cannot be merged: {other!r} acts before it; merge or disable that "
                    "one first."
                )
        for other, patch in patches.items():
            alone = other == name or other in self.merged
            if not alone and patch.base_replacement() is not None:
                raise ValueError(
                    f"{name!r} cannot be merged into a base that {other!r} replaces: detach "
                    f"{other!r} first."
                )

    def blocked(self, name: str) -> str | None:
        """The merged patch that this one would have to act before, and cannot any more."""
        names, patch = list(self.patches), as_patch(self.patches[name])
        for later in names[names.index(name) + 1 :]:
            both = patch.is_additive() and as_patch(self.patches[later]).is_additive()
            if later in self.merged and not both:
                return later
        return None

    @torch.no_grad()
    def write(self) -> None:
        """Build the base's weight and bias: the originals, and the patches that are merged.

        Subtracting B A would leave rounding errors, (W + D) - D is not W in floating point.
        """
        base, values = bottom(self), self.originals.values
        parameters = {key: p for key, p in base._parameters.items() if p is not None}
        if not self.merged:
            for parameter in parameters.values():
                if parameter in values:
                    parameter.copy_(values[parameter])
                    del values[parameter]
            return
        for parameter in parameters.values():
            if parameter not in values:
                values[parameter] = parameter.detach().clone()
        # everything is done in fp32 (fp64 for an fp64 base) and rounded once
        # the model may have moved; what stands aside has not
        device = parameters["weight"].device
        wide = torch.promote_types(parameters["weight"].dtype, torch.float32)
        weight, bias = (
            values[parameters[k]].to(device, wide) if k in parameters else None
            for k in ("weight", "bias")
        )
        weight = weight.T if is_transposed(base) else weight  # (out, in)
        for name, patch in self.patches.items():  # in the order of attachment
            if name in self.merged:
                weight, bias = as_patch(patch.to(device)).fold(weight, bias)
        parameters["weight"].copy_(weight.T if is_transposed(base) else weight)
        if bias is not None:
            parameters["bias"].copy_(bias)


class Frozen:
    """Reads the weight of a map, or of a part of it, as it is without what is merged into it.

    name: whose patch is asking.
    """

    def __init__(self, door: WeightDoor, columns: Tensor | None = None, name: str = "") -> None:
        self.door = door
        self.columns = columns
        self.name = name

    def __call__(self) -> Tensor:
        """(out, in), or (out of the part, in)."""
        base = self.door.base
        base = base.answering() if isinstance(base, CopyDoor) else base
        if not isinstance(base.weight, Tensor):  # quantized since
            check_plain(self.door.path, base)
        weight = self.door.originals.value(base.weight)
        weight = weight.T if is_transposed(base) else weight
        return weight if self.columns is None else weight[self.columns]

    def base_output(self, y: Tensor) -> Tensor | None:
        """The frozen map's output W0 x, if it follows from the y that the patch was given.

        It can where nobody stands before the patch: then y is W0 x + bias. None otherwise.
        """
        door = self.door
        first = next((name for name in door.patches if name not in door.off), "")
        if first != self.name or door.merged or door.is_replaced() or isinstance(door.base, Door):
            return None
        bias = door.base.bias
        if bias is None:
            return y
        return y - (bias if self.columns is None else bias[self.columns])


def inputs_of(patches: Sequence[Patch], x: Tensor) -> list[Tensor]:
    """What the base reads, then what each patch reads: the patch attached last stands outermost
    and reads x itself, those before it, and the base, what it lets in.
    """
    inputs = [x]
    for patch in reversed(patches):
        inputs.append(patch.before(inputs[-1]))
    return inputs[::-1]


def base_of(base: nn.Module, patches: Sequence[Patch]) -> Callable[[Tensor], Tensor]:
    """The base, or what the last of these patches has called in its place."""
    for patch in reversed(patches):
        replacement = patch.base_replacement()
        if replacement is not None:
            return lambda x: replacement(x, base.bias)
    return base


def is_plain(acting: tuple[Patch, Tensor]) -> bool:
    """Does this patch need nothing but x and y?"""
    return not acting[0].changes_input() and acting[0].base_replacement() is None
