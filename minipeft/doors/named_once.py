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
    """A module that leaves out what was named already, also where torch asks for all paths."""

    def named_modules(
        self, memo: set | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """memo: what was named already, one set for the whole model."""
        return super().named_modules(memo, prefix, remove_duplicate=True)
