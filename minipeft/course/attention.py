"""What lesson 01 measures: leaks, heads taken out, who sees whom, what writing costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

import tiny_transformer as tt
from tiny_transformer.attention import MultiHeadAttention, put_in_front

# -- section 2: the scale --------------------------------------------------------------------------


def largest_weights(
    widths: Sequence[int] = (1, 4, 16, 64, 256, 1024), keys: int = 16
) -> dict[str, list[float]]:
    """Largest of 16 attention weights for every width of a head, without and with the scale.

    Queries and keys are random with variance 1; means over 1000 queries. "D" holds the widths.
    """
    generator = torch.Generator().manual_seed(0)
    table = {"D": list(widths), "undivided": [], "divided by √D": []}
    for D in widths:
        query = torch.randn(1000, 1, D, generator=generator)  # (B, 1, D)
        key = torch.randn(1000, keys, D, generator=generator)  # (B, S, D)
        raw = (query @ key.mT)[:, 0]  # (B, S)
        for name, scores in (("undivided", raw), ("divided by √D", raw / math.sqrt(D))):
            table[name].append(scores.softmax(-1).amax(-1).mean().item())
    return table


# -- section 3: a mask that leaks ------------------------------------------------------------------


class Leaking(tt.Decoder):
    """A decoder without a causal mask: its tokens see the future."""

    causal = False


NOISE = tt.TransformerConfig(vocab_size=16, width=32, layers=2, heads=2, positions=16)


def noise(step: int, seed: int) -> dict[str, Tensor]:
    """A batch of 32 random texts of 16 words, new at every step: (32, 16)."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + step)
    ids = torch.randint(16, (32, 16), generator=generator)  # (B, T)
    return {"input_ids": ids, "labels": ids}


def train_on_noise(kind: type, steps: int, seed: int) -> tuple[list[float], float]:
    """Train on random words: the losses, and the loss on a ninth word from the eight before it."""
    torch.manual_seed(seed)
    model = kind(NOISE)
    losses = tt.pretrain(
        model,
        lambda step: noise(step, seed),
        steps,
        peak=3e-3,
        warmup=20,
        seed=seed,
        progress=False,
    )
    ids = noise(0, seed + 99)["input_ids"]  # (B, T)
    with torch.no_grad():
        ninth = model(ids[:, :8]).logits[:, -1]  # (B, V)
    return losses, nn.functional.cross_entropy(ninth, ids[:, 8]).item()


# -- section 4: heads ------------------------------------------------------------------------------


def wearing(model: nn.Module, kind: type, ids: Tensor) -> float:
    """The largest difference of the logits when every layer computes with this class's attention.

    Weights are those of the model, which stays as it is.
    """
    right = model(ids).logits  # (B, T, V)
    with _attention_replaced(model, kind):
        return (model(ids).logits - right).abs().max().item()


@contextmanager
def _attention_replaced(model, kind):
    before = [block.attention for block in model.blocks]
    C, H = model.config.width, model.config.heads
    try:
        for block in model.blocks:
            layer = kind(C, H).to(block.attention.query.weight.dtype)
            layer.load_state_dict(block.attention.state_dict())
            block.attention = _WithoutCache(layer)
        yield
    finally:
        for block, attention in zip(model.blocks, before, strict=True):
            block.attention = attention


class _WithoutCache(nn.Module):
    """Hands a block's call on to a layer that knows no cache."""

    def __init__(self, layer: MultiHeadAttention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x, context=None, mask=None, causal=False, cache=None) -> Tensor:
        return self.layer(x, context, mask, causal)


def attention_weights(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean over the batch of every head's weights: (L, H, T, T)."""
    layers = [block.attention for block in model.blocks]
    for layer in layers:
        layer.keep_weights = True
    with torch.no_grad():
        model(**batch)
    weights = torch.stack([layer.weights.mean(0) for layer in layers])  # (L, H, T, T)
    for layer in layers:
        layer.keep_weights, layer.weights = False, None
    return weights


@torch.no_grad()
def without_each_head(model: nn.Module, score: Callable[[], float]) -> Tensor:
    """The score when one head is silent, for every head: (L, H).

    A head is silent when the D columns of W_O that read it are 0. The model stays as it is.
    """
    L, H, D = model.config.layers, model.config.heads, model.config.head_width
    scores = torch.zeros(L, H)
    for layer, block in enumerate(model.blocks):
        matrix = block.attention.output.weight  # (C, C)
        kept = matrix.clone()
        for head in range(H):
            matrix[:, head * D : (head + 1) * D] = 0
            scores[layer, head] = score()
            matrix.copy_(kept)
    return scores


# -- section 5: the cache --------------------------------------------------------------------------


def writing(
    model: nn.Module, prompt: Tensor, new: int, use_cache: bool, repeats: int = 3
) -> tuple[Tensor, int, float]:
    """The text written, how many tokens went through the blocks, and the least time in seconds."""
    tokens = 0

    def count(module, given, result):
        nonlocal tokens
        tokens += given[0].numel()

    options = {"max_new_tokens": new, "use_cache": use_cache, "eos_token_id": -1}
    hook = model.embeddings.words.register_forward_hook(count)
    text = tt.generate(model, prompt, **options)
    hook.remove()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        tt.generate(model, prompt, **options)
        seconds.append(time.perf_counter() - began)
    return text, tokens, min(seconds)


# -- section 6: another library --------------------------------------------------------------------


def against_transformers(ids: Tensor) -> dict[str, float] | None:
    """The largest difference of the logits of tiny-decoder from those that transformers computes.

    In float32 and in float64; None where transformers is not installed.
    """
    try:
        from transformers import AutoModelForCausalLM
    except ImportError:
        return None
    folder = tt.data_folder() / "checkpoints" / "tiny-decoder"
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    ours, _ = tt.load("tiny-decoder")
    differences = {}
    with torch.no_grad():
        for name in ("float32", "float64"):
            theirs, ours = (some.to(getattr(torch, name)) for some in (theirs, ours))
            differences[name] = (theirs(ids).logits - ours(ids).logits).abs().max().item()
    return differences


# -- section 7: who sees whom ----------------------------------------------------------------------


@torch.no_grad()
def influence(states: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """Does state i move when token j is changed? (T, S), True and False.

    states: ids (1, S) -> (1, T, C). tokens: (1, S).
    """
    before, moved = states(tokens), []
    for j in range(tokens.shape[1]):
        other = tokens.clone()
        other[0, j] = 49 if tokens[0, j] != 49 else 48
        moved.append((states(other) - before).abs().amax(-1)[0] > 1e-7)  # (T,)
    return torch.stack(moved, dim=1)  # (T, S)


SMALL = {"vocab_size": 50, "width": 32, "heads": 4}


def families() -> dict[str, Tensor]:
    """Who influences whom in an untrained encoder, decoder and encoder-decoder of two blocks."""
    torch.manual_seed(0)
    size = {**SMALL, "layers": 2}
    a, b = torch.randint(14, 48, (1, 6)), torch.randint(14, 48, (1, 5))
    encoder = tt.Encoder(tt.TransformerConfig.bert(**size)).eval()
    decoder = tt.Decoder(tt.TransformerConfig.gpt2(**size)).eval()
    both = tt.EncoderDecoder(tt.TransformerConfig.bart(**size)).eval()
    of_source = influence(lambda ids: both(ids, decoder_input_ids=b).states, a)  # (5, 6)
    of_target = influence(lambda ids: both(a, decoder_input_ids=ids).states, b)  # (5, 5)
    return {
        "encoder": influence(lambda ids: encoder(ids).states, a),
        "decoder": influence(lambda ids: decoder(ids).states, a),
        "encoder-decoder": torch.cat([of_source, of_target], dim=1),  # (5, 11)
    }


PATIENTS = {"A": "off by one", "B": "heads", "C": "healthy", "D": "turned", "E": "no mask"}


def patients() -> dict[str, Tensor]:
    """Who influences whom in five untrained decoders of one block, of which four are ill."""
    return {name: _patient(kind) for name, kind in PATIENTS.items()}


def _patient(kind: str) -> Tensor:
    torch.manual_seed(1)
    model = tt.Decoder(tt.TransformerConfig.gpt2(**SMALL, layers=1)).eval()
    layer = model.blocks[0].attention

    def masked(closed: Callable[[Tensor], Tensor]):
        def mix(query, key, value, mask, causal):
            T = query.shape[2]
            forbidden = closed(torch.ones(T, T)) * torch.finfo(query.dtype).min  # (T, T)
            return tt.attend(query, key, value, forbidden)[0]

        return mix

    if kind == "off by one":
        layer.mix = masked(lambda ones: ones.triu(2))
    elif kind == "turned":
        layer.mix = masked(lambda ones: ones.tril(-1))
    elif kind == "no mask":
        model.causal = False
    elif kind == "heads":  # parts of other tokens
        layer.split = lambda x: x.reshape(x.shape[0], layer.heads, x.shape[1], -1)
    return influence(lambda ids: model(ids).states, torch.randint(14, 48, (1, 6)))


# -- section 8: the doors --------------------------------------------------------------------------


@torch.no_grad()
def recorded(model: nn.Module, tokenizer, text: str) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of every layer for a text, each (1, H, P, D)."""
    cache: list = []
    model(tokenizer(text)["input_ids"], cache=cache)
    return [(layer["self"]["key"], layer["self"]["value"]) for layer in cache]


@contextmanager
def remembering(model: nn.Module, pairs: Sequence[tuple[Tensor, Tensor]], put=put_in_front):
    """Inside, every layer has its pair of keys and values in `attention.memory`.

    put: what puts them before those of the tokens; one that is not written yet is not used.
    """

    def add_memory(memory: tuple[Tensor, Tensor], *given):
        try:
            return put(memory, *given)
        except NotImplementedError:
            return put_in_front(memory, *given)

    try:
        for block, pair in zip(model.blocks, pairs, strict=True):
            block.attention.memory = pair
            block.attention.add_memory = partial(add_memory, pair)
        yield
    finally:
        for block in model.blocks:
            block.attention.memory = None
            del block.attention.add_memory


class Scaled(nn.Module):
    """base(x) times a factor."""

    def __init__(self, base: nn.Module, factor: float) -> None:
        super().__init__()
        self.base, self.factor = base, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.base(x)


def silent_sublayers(model: nn.Module, score: Callable[[], float]) -> Tensor:
    """The score when one sublayer says 0: (2, L), attention and feed-forward of every block."""
    scores = torch.zeros(2, model.config.layers)
    for layer, block in enumerate(model.blocks):
        places = (block.attention, "output"), (block.feed_forward, "down")
        for kind, (owner, name) in enumerate(places):
            base = getattr(owner, name)
            setattr(owner, name, Scaled(base, 0.0))
            scores[kind, layer] = score()
            setattr(owner, name, base)
    return scores
