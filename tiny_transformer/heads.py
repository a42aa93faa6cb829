"""Heads: what turns the last states (B, T, C) into an answer.

| head               | logits         | parameters of its own                              |
|--------------------|----------------|----------------------------------------------------|
| LanguageHead       | (B, T, V)      | GPT-2 none, BART V, BERT C^2 + 3 C + V             |
| ClassificationHead | (B, labels)    | GPT-2 labels C, else C^2 + C + labels C + labels   |
| TaggingHead        | (B, T, labels) | labels C + labels                                  |
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import TransformerConfig
from .layers import ACTIVATION


def fresh(layer: nn.Linear, std: float) -> nn.Linear:
    """A linear layer with N(0, std) weights and a zero bias."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class LanguageHead(nn.Module):
    """Scores every word by its dot product with the state; the word vectors are the embeddings'."""

    def __init__(self, config: TransformerConfig, words: nn.Embedding):
        super().__init__()
        C, V = config.width, config.vocab_size
        self.transform = None
        if config.head_transform:  # BERT looks at a transformed state
            self.transform = fresh(nn.Linear(C, C), config.initializer_range)
            self.activation = ACTIVATION[config.activation]
            self.norm = nn.LayerNorm(C, eps=config.norm_epsilon)
        self.words = nn.Linear(C, V, bias=config.head_bias)
        self.words.weight = words.weight  # tied: one matrix, read at both ends
        if config.head_bias:
            nn.init.zeros_(self.words.bias)

    def forward(self, states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T, C) -> (B, T, V)."""
        if self.transform is not None:
            states = self.norm(self.activation(self.transform(states)))
        return self.words(states)


class ClassificationHead(nn.Module):
    """One label per sequence, read from one state: the first token's or the last real one's.

    Args:
        config: the numbers.
        labels: how many classes.

    BERT and BART look through a pooler (Linear + tanh); BERT reads the first token, BART and GPT-2
    the last real one, which is the only one of a causal model that has seen everything.
    """

    def __init__(self, config: TransformerConfig, labels: int):
        super().__init__()
        if not isinstance(labels, int) or labels < 1:
            raise ValueError("labels must be the number of classes, at least 1.")
        C, std = config.width, config.initializer_range
        self.first = config.kind == "encoder"
        pooled = config.kind != "decoder"
        self.pooler = fresh(nn.Linear(C, C), std) if pooled else None
        self.dropout = nn.Dropout(config.dropout)
        self.classes = fresh(nn.Linear(C, labels, bias=pooled), std)

    def forward(self, states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T, C) -> (B, labels)."""
        B, T, _ = states.shape
        if attention_mask is None:
            where = torch.full((B,), 0 if self.first else T - 1, device=states.device)
        elif self.first:
            where = attention_mask.int().argmax(dim=1)  # (B,) the first real token
        else:
            where = T - 1 - attention_mask.int().flip(1).argmax(dim=1)  # (B,) the last real token
        state = states[torch.arange(B, device=states.device), where]  # (B, C)
        if self.pooler is not None:
            state = self.pooler(state).tanh()
        return self.classes(self.dropout(state))


class TaggingHead(nn.Module):
    """One label per token.

    Args:
        config: the numbers.
        labels: how many tags.
    """

    def __init__(self, config: TransformerConfig, labels: int):
        super().__init__()
        if not isinstance(labels, int) or labels < 1:
            raise ValueError("labels must be the number of tags, at least 1.")
        self.dropout = nn.Dropout(config.dropout)
        self.tags = fresh(nn.Linear(config.width, labels), config.initializer_range)

    def forward(self, states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T, C) -> (B, T, labels)."""
        return self.tags(self.dropout(states))


def cross_entropy(logits: Tensor | None, labels: Tensor | None) -> Tensor | None:
    """Mean of -log p(label) in nats, in float32; labels of -100 do not count.

    Args:
        logits: (..., V).
        labels: (...), None for no loss. When all are -100 the mean of nothing is NaN.
    """
    if labels is None:
        return None
    logits, labels = logits.flatten(0, -2), labels.flatten()  # (N, V), (N)
    return F.cross_entropy(logits.float(), labels, ignore_index=-100)
