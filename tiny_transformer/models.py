"""Three transformers from the same blocks: Decoder (GPT-2), Encoder (BERT), EncoderDecoder (BART).

| class          | paper                                 | reads               | typical head     |
|----------------|---------------------------------------|---------------------|------------------|
| Decoder        | Radford et al. 2019 (GPT-2)           | the past only       | next word        |
| Encoder        | Devlin et al. 2019 (arXiv 1810.04805) | both sides          | masked word,     |
|                |                                       |                     | class, tag       |
| EncoderDecoder | Lewis et al. 2020 (arXiv 1910.13461)  | source, then its    | next word of the |
|                |                                       | own past            | target           |

Every model is called the same way: `model(input_ids, attention_mask=None, labels=None)` gives an
`Output`. Positions are counted over real tokens only, so padding on either side changes nothing.

Parameters of a Decoder: V C + positions C + L (12 C^2 + 13 C) + 2 C, with tied words and I = 4 C.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .config import TransformerConfig
from .heads import LanguageHead
from .layers import Block


@dataclass
class Output:
    """What a model returns.

    Attributes:
        logits: (B, T, V) words, (B, labels) classes or (B, T, labels) tags; None without a head.
        loss: mean cross-entropy in nats over the labels that are not -100; None without labels.
        states: (B, T, C), the last hidden states.
        cache: keys and values of every layer, when asked for.
        encoder_states: (B, S, C), what the encoder wrote (encoder-decoder only).
    """

    logits: Tensor | None
    loss: Tensor | None
    states: Tensor
    cache: list | None = None
    encoder_states: Tensor | None = None


def padding_mask(attention_mask: Tensor | None, like: torch.dtype) -> Tensor | None:
    """(B, S) of ones and zeros -> (B, 1, 1, S) to add to the scores; None when all are ones."""
    if attention_mask is None or bool(attention_mask.all()):
        return None
    mask = torch.zeros(attention_mask.shape, dtype=like, device=attention_mask.device)
    mask = mask.masked_fill(attention_mask == 0, torch.finfo(like).min)
    return mask[:, None, None, :]  # (B, 1, 1, S)


class Embeddings(nn.Module):
    """Word + position (+ segment) vectors: the words door is `embeddings.words`."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        C = config.width
        self.config = config
        self.words = nn.Embedding(config.vocab_size, C)
        self.positions = nn.Embedding(config.positions + config.position_offset, C)
        self.types = nn.Embedding(config.token_types, C) if config.token_types else None
        self.norm = nn.LayerNorm(C, eps=config.norm_epsilon) if config.embedding_norm else None
        self.dropout = nn.Dropout(config.dropout)
        self.scale = C**0.5 if config.scale_embedding else 1.0

    def forward(self, ids: Tensor, positions: Tensor, types: Tensor | None = None) -> Tensor:
        """Ids and positions (B, T) -> vectors (B, T, C)."""
        x = self.words(ids) * self.scale  # (B, T, C)
        x = x + self.positions(positions + self.config.position_offset)
        if self.types is not None:
            x = x + self.types(torch.zeros_like(ids) if types is None else types)
        if self.norm is not None:
            x = self.norm(x)
        return self.dropout(x)


def count_positions(ids: Tensor, attention_mask: Tensor | None, limit: int) -> Tensor:
    """(B, T) positions 0, 1, 2, ... over the real tokens; the mask may reach into the cached past.

    Raises:
        ValueError: when the sequence is longer than the model's table of positions.
    """
    B, T = ids.shape
    S = T if attention_mask is None else attention_mask.shape[1]
    if S > limit:
        raise ValueError(
            f"The input has {S} tokens but the model knows {limit} positions; shorten the input."
        )
    if attention_mask is None:
        return torch.arange(T, device=ids.device).expand(B, T)
    return (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, -T:]


class Stack(nn.Module):
    """Embeddings, L blocks and, for pre-norm, a last LayerNorm; what all three models share."""

    causal = False

    def __init__(self, config: TransformerConfig, layers: int | None = None, cross: bool = False):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.blocks = nn.ModuleList(Block(config, cross) for _ in range(layers or config.layers))
        final = config.norm == "pre"
        self.norm = nn.LayerNorm(config.width, eps=config.norm_epsilon) if final else None
        self.gradient_checkpointing = False

    def run(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        types: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        cache: list | None = None,
    ) -> Tensor:
        """Ids (B, T) -> states (B, T, C). With a cache the mask covers past + T tokens."""
        positions = count_positions(input_ids, attention_mask, self.config.positions)
        x = self.embeddings(input_ids, positions, types)  # (B, T, C)
        mask = padding_mask(attention_mask, x.dtype)
        context_mask = padding_mask(context_mask, x.dtype)
        if cache is not None and not cache:
            cache.extend({} for _ in self.blocks)
        for number, block in enumerate(self.blocks):
            past = None if cache is None else cache[number]
            if self.gradient_checkpointing and self.training:
                x = checkpoint(
                    block, x, mask, self.causal, context, context_mask, use_reentrant=False
                )
            else:
                x = block(x, mask, self.causal, context, context_mask, past)
        return x if self.norm is None else self.norm(x)

    def initialize(self) -> None:
        """GPT-2's fresh weights: N(0, 0.02), residual projections divided by sqrt(2 L)."""
        std = self.config.initializer_range
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                residual = name.endswith(("attention.output", "feed_forward.down"))
                scale = (2 * len(self.blocks)) ** -0.5 if residual else 1.0
                nn.init.normal_(module.weight, std=std * scale)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)


class Decoder(Stack):
    """GPT-2: every token sees itself and its past. `head` turns states into logits.

    Args:
        config: its `kind` is "decoder".
        head: a LanguageHead on the tied words when None; or a ClassificationHead, a TaggingHead.
    """

    causal = True

    def __init__(self, config: TransformerConfig, head: nn.Module | None = None, cross=False):
        super().__init__(config, config.decoder_layers, cross)
        self.initialize()
        self.head = None if cross else head or LanguageHead(config, self.embeddings.words)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        cache: list | None = None,
    ) -> Output:
        """Ids (B, T) -> Output. Word labels are shifted here: position t answers label t + 1."""
        states = self.run(input_ids, attention_mask, cache=cache)  # (B, T, C)
        logits = self.head(states, attention_mask)
        if labels is not None and isinstance(self.head, LanguageHead):
            labels = F.pad(labels[:, 1:], (0, 1), value=-100)  # (B, T)
        return Output(logits, cross_entropy(logits, labels), states, cache)


class Encoder(Stack):
    """BERT: every token sees every token.

    Args:
        config: its `kind` is "encoder".
        head: a LanguageHead (masked words) when None; or a ClassificationHead, a TaggingHead.
    """

    def __init__(self, config: TransformerConfig, head: nn.Module | None = None, bare=False):
        super().__init__(config)
        self.initialize()
        self.head = None if bare else head or LanguageHead(config, self.embeddings.words)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Output:
        """Ids (B, T) -> Output; labels stand at the positions they belong to."""
        states = self.run(input_ids, attention_mask, token_type_ids)  # (B, T, C)
        logits = None if self.head is None else self.head(states, attention_mask)
        return Output(logits, cross_entropy(logits, labels), states)


class EncoderDecoder(nn.Module):
    """BART: an encoder reads the source, a decoder writes the target while reading both.

    Args:
        config: its `kind` is "encoder-decoder"; both stacks share the word vectors.
        head: a LanguageHead on the shared words when None; or a ClassificationHead.
    """

    def __init__(self, config: TransformerConfig, head: nn.Module | None = None):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, bare=True)
        self.decoder = Decoder(config, cross=True)
        self.decoder.embeddings.words = self.encoder.embeddings.words
        self.head = head or LanguageHead(config, self.encoder.embeddings.words)

    def shift_right(self, labels: Tensor) -> Tensor:
        """(B, T) targets -> (B, T) decoder inputs: start token first, last target dropped."""
        start = self.config.decoder_start_token_id
        inputs = F.pad(
            labels[:, :-1], (1, 0), value=self.config.bos_token_id if start is None else start
        )
        return inputs.masked_fill(inputs == -100, self.config.pad_token_id or 0)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_states: Tensor | None = None,
        cache: list | None = None,
    ) -> Output:
        """Source ids (B, S), target labels (B, T) -> Output with logits (B, T, V).

        Without `decoder_input_ids` they are made from the labels (`shift_right`); a classification
        head, which has class labels, reads a decoder that is fed the source again, as BART does.
        """
        if encoder_states is None:
            encoder_states = self.encoder.run(input_ids, attention_mask)  # (B, S, C)
        if decoder_input_ids is None:
            if not isinstance(self.head, LanguageHead):
                decoder_input_ids = self.shift_right(input_ids)
                decoder_attention_mask = attention_mask
            elif labels is None:
                raise ValueError("Give the EncoderDecoder labels or decoder_input_ids.")
            else:
                decoder_input_ids = self.shift_right(labels)
        states = self.decoder.run(
            decoder_input_ids,
            decoder_attention_mask,
            context=encoder_states,
            context_mask=attention_mask,
            cache=cache,
        )  # (B, T, C)
        logits = self.head(states, decoder_attention_mask)
        return Output(logits, cross_entropy(logits, labels), states, cache, encoder_states)


def cross_entropy(logits: Tensor | None, labels: Tensor | None) -> Tensor | None:
    """Mean of -log p(label) in nats; labels of -100 do not count. Any leading shape."""
    if labels is None:
        return None
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=-100)
