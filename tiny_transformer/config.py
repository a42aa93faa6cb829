"""What a transformer is made of, in numbers.

One frozen dataclass describes all three families of this package:

| layout | kind            | norm | activation  | positions         | norm on embeddings | head  |
|--------|-----------------|------|-------------|-------------------|--------------------|-------|
| GPT-2  | decoder         | pre  | gelu (tanh) | learned           | no                 | W     |
| BERT   | encoder         | post | gelu (erf)  | learned + types   | yes                | T W b |
| BART   | encoder-decoder | post | gelu (erf)  | learned, offset 2 | yes                | W b   |

Heads: W the word vectors again, b a bias per word, T a transform before them.

Shape letters, here and everywhere: B batch, T tokens, C width, H heads, D head width, L layers,
V words.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

KINDS = ("decoder", "encoder", "encoder-decoder")
ACTIVATIONS = ("gelu", "gelu_tanh", "relu")


@dataclass(frozen=True)
class TransformerConfig:
    """The numbers of one transformer.

    Args:
        vocab_size: V, words in the vocabulary (special tokens included).
        width: C, numbers per token.
        layers: L, blocks in each stack.
        heads: H, attention heads; `width` must be divisible by it.
        kind: "decoder", "encoder" or "encoder-decoder".
        inner: width of the feed-forward layer; 4 C when None.
        decoder_layers: blocks of the decoder of an encoder-decoder; L when None.
        positions: the longest sequence, in tokens.
        dropout: share of activations set to zero in training (embeddings, attention, sublayers).
        norm: "pre" normalises the input of a sublayer (GPT-2), "post" its sum with the residual.
        norm_epsilon: added to the variance inside every LayerNorm.
        activation: "gelu" (exact), "gelu_tanh" (GPT-2's approximation) or "relu".
        token_types: number of segment embeddings (BERT: 2), 0 for none.
        embedding_norm: LayerNorm on the embeddings (BERT, BART).
        position_offset: rows of the position table that are skipped (BART: 2).
        scale_embedding: multiply word vectors by sqrt(C) (some BARTs).
        head_transform: Linear + activation + LayerNorm before the word logits (BERT).
        head_bias: a bias per word logit (BERT, BART).
        initializer_range: standard deviation of fresh weights.

    Raises:
        ValueError: when a value is impossible; the sentence says which one and what is allowed.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    kind: str = "decoder"
    inner: int | None = None
    decoder_layers: int | None = None
    positions: int = 128
    dropout: float = 0.0
    norm: str = "pre"
    norm_epsilon: float = 1e-5
    activation: str = "gelu_tanh"
    token_types: int = 0
    embedding_norm: bool = False
    position_offset: int = 0
    scale_embedding: bool = False
    head_transform: bool = False
    head_bias: bool = False
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2
    decoder_start_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "layers", "heads", "positions"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}.")
        for name in ("inner", "decoder_layers"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be None or a whole number of at least 1.")
        for name in ("token_types", "position_offset"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"{name} must be a whole number of at least 0, not {value!r}.")
        for name in ("norm_epsilon", "initializer_range"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)!r}.")
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}.")
        if self.width % self.heads:
            raise ValueError(
                f"width {self.width} cannot be split into {self.heads} heads of equal width; "
                "choose heads that divide the width."
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout!r}.")
        if self.norm not in ("pre", "post"):
            raise ValueError(f'norm must be "pre" or "post", not {self.norm!r}.')
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, not {self.activation!r}."
            )

    @property
    def head_width(self) -> int:
        """D = C / H."""
        return self.width // self.heads

    @property
    def inner_width(self) -> int:
        """Width of the feed-forward layer."""
        return 4 * self.width if self.inner is None else self.inner

    @classmethod
    def gpt2(cls, **numbers) -> TransformerConfig:
        """GPT-2's layout: a pre-norm causal decoder."""
        return cls.from_dict({"kind": "decoder"} | numbers)

    @classmethod
    def bert(cls, **numbers) -> TransformerConfig:
        """BERT's layout: a post-norm encoder with segment embeddings."""
        layout = {
            "kind": "encoder",
            "norm": "post",
            "norm_epsilon": 1e-12,
            "activation": "gelu",
            "token_types": 2,
            "embedding_norm": True,
            "head_transform": True,
            "head_bias": True,
        }
        return cls.from_dict(layout | numbers)

    @classmethod
    def bart(cls, **numbers) -> TransformerConfig:
        """BART's layout: a post-norm encoder-decoder with shared word vectors."""
        layout = {
            "kind": "encoder-decoder",
            "norm": "post",
            "activation": "gelu",
            "embedding_norm": True,
            "position_offset": 2,
            "head_bias": True,
            "decoder_start_token_id": 1,
        }
        return cls.from_dict(layout | numbers)

    @classmethod
    def from_dict(cls, values: dict) -> TransformerConfig:
        """A config from plain values; a field that does not exist is refused, not ignored."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(
                f"TransformerConfig has no field {', '.join(unknown)}; it has {', '.join(known)}."
            )
        return cls(**values)

    def to_dict(self) -> dict:
        """The fields as plain values."""
        return asdict(self)
