"""Small models with weights that leave nothing out, and batches for them."""

from __future__ import annotations

import torch
from torch import Tensor

import tiny_transformer as tt

MODELS = {"gpt2": tt.Decoder, "bert": tt.Encoder, "bart": tt.EncoderDecoder}
HEADS = {"classification": tt.ClassificationHead, "tagging": tt.TaggingHead}
SMALL = {"vocab_size": 50, "width": 16, "layers": 2, "heads": 2, "positions": 24}
FIRST = 14  # ids below are special tokens


def fresh(layout: str, head: str = "language", labels: int = 3, seed: int = 0, **numbers):
    """A model as it is before training, in float64: layout "gpt2", "bert" or "bart"."""
    config = getattr(tt.TransformerConfig, layout)(**SMALL | numbers)
    torch.manual_seed(seed)
    top = None if head == "language" else HEADS[head](config, labels)
    return MODELS[layout](config, top).double().eval()


def scramble(model, seed: int = 0, size: float = 0.15):
    """Add noise to every parameter: fresh biases are 0 and fresh norms 1, which hides mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator).to(parameter)
    return model


def scrambled(layout: str, head: str = "language", labels: int = 3, seed: int = 0, **numbers):
    """A model with noise on every parameter, in eval mode."""
    return scramble(fresh(layout, head, labels, seed, **numbers), seed + 1)


def words(rows: int, tokens: int, seed: int = 0, limit: int = SMALL["vocab_size"]) -> Tensor:
    """(B, T) ids of words, no special tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(FIRST, limit, (rows, tokens), generator=generator)


def padded(rows: list[Tensor], side: str, room: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of ids (T_b,) -> ids and mask (B, T), with `room` more columns of padding."""
    T = max(len(row) for row in rows) + room
    ids, mask = torch.zeros(len(rows), T, dtype=torch.long), torch.zeros(len(rows), T).long()
    for number, row in enumerate(rows):
        where = slice(T - len(row), T) if side == "left" else slice(0, len(row))
        ids[number, where], mask[number, where] = row, 1
    return ids, mask
