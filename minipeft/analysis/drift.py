"""What merging costs: how far the logits move.

A merge adds in fp32 and rounds once to the base's dtype. On an fp32 base that is a rounding error;
on a bf16 base, which keeps 8 bits of each weight, small differences may be lost. A QLoRA has one
question more: its A and B were trained on the quantized base, and other programs will put them on
the original one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from minipeft.contexts import evaluating
from minipeft.methods.qlora import quantized_patches
from minipeft.model.devices import on_device_of
from minipeft.report import Table
from minipeft.tuner import Tuner


@torch.no_grad()
def merge_drift(tuner: Tuner, batch: dict) -> Table:
    """How far the logits move when a tuner is merged, in eval mode.

    Args:
        tuner: enabled and not merged; it is the same afterwards.
        batch: what the model is called with.

    Returns:
        A table with the largest and the mean absolute difference to the logits of the tuner as it
        is: once merged, and, for a QLoRA, with A and B on the base in full precision.

    Raises:
        ValueError: the tuner is disabled or merged, or its method cannot be merged.
    """
    if tuner.merged or not tuner.enabled:
        raise ValueError("merge_drift() needs a tuner that is enabled and not merged.")
    model, batch = tuner.model, on_device_of(tuner.model, batch)
    variants: dict[str, Tensor] = {}
    with evaluating(model):
        unmerged = model(**tuner.wrap(batch)).logits
        if quantized_patches(tuner):
            with full_precision(tuner):
                variants["on the base in full precision"] = model(**batch).logits
        with warnings.catch_warnings():  # of rounding: the table says it
            warnings.simplefilter("ignore", UserWarning)
            tuner.merge()
        try:
            variants["merged"] = model(**batch).logits
        finally:
            tuner.unmerge()
    rows, wide = [], torch.promote_types(unmerged.dtype, torch.float32)
    for what, logits in variants.items():
        difference = (logits.to(wide) - unmerged.to(wide)).abs()
        rows.append((what, difference.max().item(), difference.mean().item()))
    size = unmerged.to(wide).abs().mean()
    title = f"{tuner.name}: drift of logits, whose mean size is {size:.3g}"
    return Table(title, ("", "max", "mean"), rows)


@contextmanager
def full_precision(tuner: Tuner) -> Iterator[None]:
    """Inside, the A and B of a QLoRA sit on the base in full precision, as in another program."""
    patches = quantized_patches(tuner)
    kept = [patch.replacement for patch in patches]
    try:
        for patch in patches:
            patch.replacement = None
        yield
    finally:
        for patch, replacement in zip(patches, kept, strict=True):
            patch.replacement = replacement
