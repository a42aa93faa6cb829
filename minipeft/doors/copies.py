"""The door of small modules that are trained as a copy: heads, layer norms."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from torch import Tensor, nn

from minipeft.doors.door import Door, bottom, walk
from minipeft.doors.layers import dtype_of


class CopyDoor(Door):
    """A small module that every name may replace by its own trained copy: a head, a layer norm.

    The last active copy answers for the rows it acts on; rows without one get the base's answer.
    Copies of a half-precision module are float32; the answer is rounded to what the base gives.
    A merged copy lends its tensors to the base, and those attached before it are silent. What else
    is asked of the layer, a weight or another method, is the copy's as well.
    """

    def __getattr__(self, key: str):
        value = super().__getattr__(key)
        if isinstance(value, Tensor) or inspect.ismethod(value):
            for mark in self.marks.values():
                mark.weight_read = True  # for all rows alike: see Reach.check_copies
        return value

    def behind(self) -> nn.Module:
        """The copy that answers, where it has the dtype that the model looks for; else the base."""
        last = self.answering()
        return last if dtype_of(last) == dtype_of(self.base) else self.base

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        active = list(self.active(x.shape[0]))
        if active and active[-1][1] is None:
            return self.copy_output(active[-1][0], x, *args, **kwargs)
        y = self.base(x, *args, **kwargs)
        if active and not (isinstance(y, Tensor) and len(y) == len(x)):
            raise ValueError(
                f"route() cannot tell the rows apart in what {self.path}, a "
                f"{type(bottom(self)).__name__}, answers: give the rows of each tuner in a batch "
                "of their own."
            )
        for copy, rows in active:
            rows = rows.to(x.device)
            y = y.index_copy(0, rows, self.copy_output(copy, x, *args, **kwargs)[rows])
        return y

    def copy_output(self, copy: nn.Module, x: Tensor, *args, **kwargs) -> Tensor:
        """copy(x), computed in the dtype of the copy and given in that of the base."""
        wide, narrow = dtype_of(copy), dtype_of(self.base)
        if wide == narrow:
            return copy(x, *args, **kwargs)
        x = x.to(wide) if x.is_floating_point() else x
        return copy(x, *args, **kwargs).to(narrow)

    def active(self, size: int) -> Iterator[tuple[nn.Module, Tensor | None]]:
        """As in `Door`; a merged copy silences those that were attached before it."""
        later = [self.patches[name] for name in self.after_merged()]
        return ((patch, rows) for patch, rows in super().active(size) if patch in later)

    def last_merged(self) -> str | None:
        """Of the merged copies the one that was attached last: the others are beneath it."""
        return next((name for name in reversed(list(self.patches)) if name in self.merged), None)

    def after_merged(self) -> list[str]:
        """The names of the copies that were attached after the last merged one."""
        names, merged = list(self.patches), self.last_merged()
        return names[names.index(merged) + 1 :] if merged else names

    def answering(self) -> nn.Module:
        """The copy that answers for every row, or the base."""
        acting = [name for name in self.after_merged() if name not in self.off]
        if self.routing is not None:
            names = self.routing[0] if self.routing.uniform else ()
            acting = [name for name in acting if name in names]
        return self.patches[acting[-1]] if acting else self.base

    def write(self) -> None:
        """Put the tensors of the last merged copy into the base's places, or the old ones back."""
        merged, kept = self.last_merged(), self.originals.tensors
        modules = [module for _, module in walk(bottom(self))]
        if merged:
            for module, copy in zip(modules, self.patches[merged].modules(), strict=True):
                kept.setdefault(module, (dict(module._parameters), dict(module._buffers)))
                for key, tensor in copy._parameters.items():
                    if tensor is not None:  # frozen, so that training another tuner leaves it alone
                        like = kept[module][0][key]
                        now = tensor.detach().to(like.device, like.dtype)
                        module._parameters[key] = nn.Parameter(now, requires_grad=False)
                for key, tensor in copy._buffers.items():
                    if tensor is not None:
                        module._buffers[key] = tensor.to(kept[module][1][key])
            return
        for module in modules:
            parameters, buffers = kept.get(module, ({}, {}))
            for now, old in ((module._parameters, parameters), (module._buffers, buffers)):
                for key, tensor in old.items():
                    if tensor is not None and now[key] is not None:  # the model may have moved
                        tensor.data = tensor.data.to(now[key].device, now[key].dtype)
                    now[key] = tensor
            kept.pop(module, None)
