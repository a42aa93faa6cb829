"""Modules that stand at several paths of a model are named once: a prefix's encoder, VeRA's A and
B, a door around words that encoder and decoder share.

`torch.func.functional_call` asks a model for every path of every tensor, puts a value in at each,
and takes it out again at each. At the second path of one module it finds, and would give back, what
it has put in at the first.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


class NamedOnce(nn.Module):
    """A module that leaves out, where torch asks for all paths of a model, what stands before it.

    shared: names of children that stand before it, too.
    first_path: its first one, where it stands at several paths itself; else None.
    """

    shared: frozenset[str] = frozenset()
    first_path: str | None = None

    def named_modules(
        self, memo: set | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        if remove_duplicate:
            yield from super().named_modules(memo, prefix, remove_duplicate)
            return
        path, first = f".{prefix}", f".{self.first_path}"
        if prefix and self.first_path and not (path.endswith(first) or first.endswith(path)):
            return
        yield prefix, self
        for key, child in self._modules.items():
            if child is not None and key not in self.shared:
                path = f"{prefix}.{key}" if prefix else key
                yield from child.named_modules(memo, path, remove_duplicate)


class Patches(NamedOnce, nn.ModuleDict):
    """The patches of a door, by the names of their tuners."""


def name_once(model: nn.Module) -> None:
    """Tell every `NamedOnce` of the model, which are doors and patches, what stands before it."""
    paths: dict[nn.Module, str] = {}  # the first ones

    def visit(module: nn.Module, path: str) -> None:
        paths[module], shared = path, set()
        for key, child in module._modules.items():
            if child not in paths and child is not None:
                visit(child, f"{path}.{key}" if path else key)
            elif child is not None and isinstance(module, NamedOnce):
                shared.add(key)
            elif isinstance(child, NamedOnce):  # a door, of which the module around knows nothing
                child.first_path = paths[child]
        if isinstance(module, NamedOnce):
            module.shared, module.first_path = frozenset(shared), None

    visit(model, "")
