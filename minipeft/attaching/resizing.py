"""transformers' `resize_token_embeddings` while tuners are attached.

It exchanges the matrices of the vocabulary. A tuner that stands at one of them (new words begin
where the vocabulary ends), or that trains it, knows the old one: the call is refused. With any
other tuner it does what it always does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from torch import nn

from minipeft.doors.door import bottom


class ResizeGuard:
    """Stands in for the method of one transformers model; `root` is the model with tuners."""

    def __init__(self, model: nn.Module, root: nn.Module) -> None:
        self.model, self.root = model, root
        model.resize_token_embeddings = self

    def remove(self) -> None:
        vars(self.model).pop("resize_token_embeddings", None)

    def __call__(self, new_num_tokens: int | None = None, *args, **kwargs):
        tables = [self.model.get_input_embeddings(), self.model.get_output_embeddings()]
        matrices = {bottom(table).weight for table in tables if table is not None}
        sizes = {len(matrix) for matrix in matrices}
        name = self.at(matrices)
        if name and sizes == {new_num_tokens} and not (args or kwargs):  # nothing would change
            return tables[0]
        if name:
            raise ValueError(
                f"resize_token_embeddings() would exchange a matrix at which {name!r} stands: "
                "detach it, resize, and attach it again."
            )
        resize = type(self.model).resize_token_embeddings
        table = resize(self.model, new_num_tokens, *args, **kwargs)
        vars(self.root)["minipeft"].keep_resized_buffers()
        return table

    def at(self, matrices: set[nn.Parameter]) -> str | None:
        """The name of a tuner that stands at one of these matrices, or trains it in place."""
        record = vars(self.root)["minipeft"]
        for door in record.doors:
            if matrices.intersection(bottom(door).parameters(recurse=False)):
                return next(iter(door.patches))
        in_place = (t.name for t in record.tuners.values() if matrices.intersection(t.base_values))
        return next(in_place, None)


def register(model: nn.Module) -> Iterator[ResizeGuard]:
    """Guards of the transformers models in it that read an input, to be removed with the last
    tuner."""
    hub = sys.modules.get("transformers.modeling_utils")
    for body in model.minipeft.reach.bodies.values() if hub else ():
        if isinstance(body, hub.PreTrainedModel):
            yield ResizeGuard(body, model)
