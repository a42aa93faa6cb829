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

Parameters of the layouts GPT-2, BERT and BART, with tied words, a language head and I = 4 C:

    Decoder          (V + positions) C + L (12 C^2 + 13 C) + 2 C
    Encoder          (V + positions + 2) C + 2 C + L (12 C^2 + 13 C) + C^2 + 3 C + V
    EncoderDecoder   (V + 2 (positions + 2)) C + 4 C + L (28 C^2 + 32 C) + V
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, minimum, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .attention import causal_mask, padding_mask
from .config import TransformerConfig
from .heads import LanguageHead, TaggingHead
from .labelled_loss import labelled_cross_entropy
from .layers import Block, Embeddings, count_positions


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


class Stack(nn.Module):
    """Embeddings, L blocks and, for pre-norm, a last LayerNorm; what all three models share.

    With `gradient_checkpointing = True` a training step keeps only what enters each block and
    computes the inside again in the backward pass: less memory, more time, the same gradients.
    """

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
        """Ids (B, T) -> states (B, T, C).

        Args:
            input_ids: (B, T).
            attention_mask: (B, T), 0 at padding; with a cache (B, past + T).
            types: (B, T) segments.
            context: (B, S, C), what cross-attention reads.
            context_mask: (B, S).
            cache: a list, empty at first, that the blocks fill and read; T tokens follow its past.
        """
        past = cache[0]["self"]["key"].shape[2] if cache else 0
        positions = count_positions(input_ids, attention_mask, self.config.positions, past)
        x = self.embeddings(input_ids, positions, types)  # (B, T, C)
        mask, causal = padding_mask(attention_mask, x), self.causal  # (B, 1, 1, past + T)
        if causal and mask is not None:  # the same for all blocks, so it is made once
            T = input_ids.shape[1]
            mask, causal = minimum(mask, causal_mask(T, past + T, x)), False  # (B, 1, T, past + T)
        context_mask = padding_mask(context_mask, x)  # (B, 1, 1, S)
        if cache is not None and not cache:
            cache.extend({} for _ in self.blocks)
        for number, block in enumerate(self.blocks):
            if self.gradient_checkpointing and self.training and cache is None:
                x = checkpoint(block, x, mask, causal, context, context_mask, use_reentrant=False)
            else:
                block_cache = None if cache is None else cache[number]
                x = block(x, mask, causal, context, context_mask, block_cache)
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
        expect(config, "encoder-decoder" if cross else "decoder")
        super().__init__(config, config.decoder_layers if cross else config.layers, cross)
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
            if attention_mask is not None:  # padding is asked nothing, nor for the first word
                labels = labels.masked_fill(attention_mask[:, -labels.shape[1] :] == 0, -100)
        return Output(logits, labelled_cross_entropy(logits, labels), states, cache)


class Encoder(Stack):
    """BERT: every token sees every token.

    Args:
        config: its `kind` is "encoder".
        head: a LanguageHead (masked words) when None; or a ClassificationHead, a TaggingHead.
    """

    def __init__(self, config: TransformerConfig, head: nn.Module | None = None, bare=False):
        expect(config, "encoder-decoder" if bare else "encoder")
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
        return Output(logits, labelled_cross_entropy(logits, labels), states)


class EncoderDecoder(nn.Module):
    """BART: an encoder reads the source, a decoder writes the target while reading both.

    Args:
        config: its `kind` is "encoder-decoder"; both stacks share the word vectors.
        head: a LanguageHead on the shared words when None; or a ClassificationHead.
    """

    def __init__(self, config: TransformerConfig, head: nn.Module | None = None):
        super().__init__()
        expect(config, "encoder-decoder")
        if isinstance(head, TaggingHead):
            raise ValueError("BART has no tagging head; tag with an Encoder or a Decoder.")
        self.config = config
        self.encoder = Encoder(config, bare=True)
        self.decoder = Decoder(config, cross=True)
        self.decoder.embeddings.words = self.encoder.embeddings.words
        self.head = head or LanguageHead(config, self.encoder.embeddings.words)

    def shift_right(self, targets: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T) targets -> (B, T) decoder inputs: start token first, last target dropped.

        With a mask the start token stands at the first real place, also after padding on the left.
        """
        start = self.start_token_id
        inputs = F.pad(targets[:, :-1], (1, 0), value=start)  # (B, T)
        if attention_mask is not None:
            inputs = inputs.scatter(1, attention_mask.int().argmax(dim=1, keepdim=True), start)
        return inputs.masked_fill(inputs == -100, self.config.pad_token_id or 0)

    @property
    def start_token_id(self) -> int:
        """What the decoder reads first: its own start token, <bos> when the config names none."""
        start = self.config.decoder_start_token_id
        return self.config.bos_token_id if start is None else start

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
        if input_ids is None and encoder_states is None:
            raise ValueError(
                "Give the EncoderDecoder input_ids, or the encoder_states of a source."
            )
        if encoder_states is None:
            encoder_states = self.encoder.run(input_ids, attention_mask)  # (B, S, C)
        if decoder_input_ids is None:
            if not isinstance(self.head, LanguageHead):
                decoder_input_ids = self.shift_right(input_ids, attention_mask)
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
        return Output(logits, labelled_cross_entropy(logits, labels), states, cache, encoder_states)


def expect(config: TransformerConfig, kind: str) -> None:
    """Refuse a config that was written for another model."""
    if config.kind != kind:
        raise ValueError(f'The config says kind="{config.kind}"; this model needs kind="{kind}".')
