"""A batch where its model is."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def on_device_of(model: nn.Module, batch: Mapping) -> dict:
    """The batch with its tensors on the device of the model's first parameter.

    Batches are made on the processor; whatever takes a batch for a model moves it by this.
    """
    device = next(model.parameters()).device
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
