"""Checks for the parts of a transformer: attention, masks, the feed-forward layer, the block."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.checks.framework import check, compare, expect, same

LOWEST = torch.finfo(torch.float32).min  # added to a score: "may not look here"


# -- equation 1 ------------------------------------------------------------------------------------


@check("softmax(Q K^T / sqrt(D) + mask) V, rows of weights that sum to 1, dropout on the weights")
def attend(attend) -> None:
    """Vaswani et al. 2017, eq. 1. attend(query, key, value, mask, dropout) -> heads, weights."""
    for S in (4, 5):  # T = S first: there a wrong order gives a wrong answer, not an error
        query, key, value = (
            torch.randn(2, 3, 4, 6),
            torch.randn(2, 3, S, 6),
            torch.randn(2, 3, S, 6),
        )
        _attend_plain(attend, query, key, value)
    bias = torch.where(torch.rand(4, 5) < 0.3, LOWEST, 0.0)
    bias[:, 0] = -1.0  # a score may also be lowered a little, as relative positions do
    _attend_mask(attend, query, key, value, bias)
    _attend_nowhere(attend, query, key, value)
    _attend_dropout(attend)
    query.requires_grad_()
    attend(query, key, value)[0].sum().backward()
    expect(query.grad is not None, "query gets no gradient: do not detach and do not use no_grad")


def _both(answer) -> tuple[Tensor, Tensor]:
    expect(
        isinstance(answer, tuple) and len(answer) == 2,
        "attend should return two tensors, the heads and the weights",
    )
    return answer


def _attend_plain(attend, query: Tensor, key: Tensor, value: Tensor) -> None:
    T, S, D = query.shape[2], key.shape[2], query.shape[3]
    raw = query @ key.transpose(-2, -1)  # (B, H, T, S)
    weights = (raw / math.sqrt(D)).softmax(dim=-1)
    heads, given = _both(attend(query, key, value))
    mistakes = [
        ("the scores are not scaled: divide them by sqrt(D)", raw.softmax(dim=-1)),
        ("the scores are divided by D, it should be sqrt(D)", (raw / D).softmax(dim=-1)),
        ("the scores are multiplied by sqrt(D): divide them", (raw * math.sqrt(D)).softmax(dim=-1)),
        (
            "softmax runs over the queries (dim -2): each query shares out one unit of weight over "
            "the keys, dim -1",
            (raw / math.sqrt(D)).softmax(dim=-2),
        ),
        (
            "softmax runs over the heads (dim 1): it should run over the keys, dim -1",
            (raw / math.sqrt(D)).softmax(dim=1),
        ),
        ("these are the scores: the softmax is missing", raw / math.sqrt(D)),
        (
            "the heads and the weights have changed places: return heads, weights",
            weights @ value,
        ),
    ]
    turned = []
    if T == S:
        turned = [("the weights are transposed: weights @ value", weights.mT @ value)]
        swapped = (raw.transpose(-2, -1) / math.sqrt(D)).softmax(dim=-1)
        wrong = "query and key have changed places: row i of the weights belongs to query i"
        mistakes.append((wrong, swapped))
    compare(given, weights, "the attention weights", mistakes)
    compare(
        heads,
        weights @ value,
        "the heads",
        [
            ("the weights mix the keys: they should mix the values", weights @ key),
            ("the heads are the values as they came: mix them, weights @ value", value),
            ("the heads are the plain mean of the values", value.mean(2, True).expand_as(query)),
        ]
        + turned,
    )


def _attend_mask(attend, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> None:
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    plain = scores.softmax(dim=-1)
    closed = mask < -1e9
    yes_or_no = "the mask is read as yes or no: add its values, a small one lowers a score a bit"
    heads, given = _both(attend(query, key, value, mask))
    compare(
        given,
        (scores + mask).softmax(dim=-1),
        "the weights under a mask",
        [
            ("the mask is ignored: add it to the scores", plain),
            (
                "the mask is added after the softmax, too late to share the weight out anew: add "
                "it to the scores",
                plain + mask,
            ),
            (
                "what is masked is cut out after the softmax, so rows do not sum to 1: add the "
                "mask to the scores",
                plain.masked_fill(closed, 0.0),
            ),
            ("the mask is multiplied with the scores: add it", (scores * mask).softmax(dim=-1)),
            ("the mask is subtracted from the scores: add it", (scores - mask).softmax(dim=-1)),
            (
                "the mask is added before the division by sqrt(D): divide first",
                (scores + mask / math.sqrt(query.shape[-1])).softmax(dim=-1),
            ),
            (yes_or_no, scores.masked_fill(closed, LOWEST).softmax(dim=-1)),
            (yes_or_no, scores.masked_fill(mask < 0, LOWEST).softmax(dim=-1)),
        ],
    )
    compare(heads, given @ value, "the heads under a mask")


def _attend_nowhere(attend, query: Tensor, key: Tensor, value: Tensor) -> None:
    heads, _ = _both(attend(query, key, value, torch.full((4, 5), LOWEST)))
    expect(
        bool(torch.isfinite(heads).all()),
        "a query that may look nowhere (padding) gives NaN: add the mask as it is, without -inf",
    )


def _attend_dropout(attend) -> None:
    """Equal scores and values of one: without dropout every head is one."""
    ones = torch.ones(1, 1, 400, 2)
    heads, _ = _both(attend(ones, ones, ones, None, 0.5))  # (1, 1, 400, 2)
    expect(
        not same(heads, torch.ones_like(heads)),
        "dropout changes nothing: it sets some attention weights to zero, after the softmax",
    )
    expect(
        bool((heads[..., 0] == heads[..., 1]).all()),
        "dropout falls on the heads: it should fall on the weights, before they meet the values",
    )
    mean = heads.mean().item()
    expect(
        abs(mean - 1) < 0.1,
        f"with dropout 0.5 the heads become {mean:.2f} times as large on average: what is kept is "
        "divided by 1 - dropout (F.dropout does it)",
    )


# -- who may look at whom --------------------------------------------------------------------------


@check(
    "0 for the past and the token itself, very negative for the future, with a past of any length"
)
def causal_mask(causal_mask) -> None:
    """causal_mask(tokens, keys, like) -> (T, S)."""
    for T, S in ((5, 5), (2, 5), (1, 4)):
        _causal_pattern(causal_mask(T, S, torch.zeros(1)), T, S)
    for dtype in (torch.bfloat16, torch.float16):
        overflow = f"the forbidden value is too large for {dtype}: use torch.finfo(like.dtype).min"
        try:
            mask = causal_mask(3, 3, torch.zeros(1, dtype=dtype))
        except RuntimeError as error:
            expect("overflow" not in str(error), overflow)
            raise
        expect(
            mask.dtype == dtype,
            f"for {dtype} queries the mask is {mask.dtype}: give it the dtype of `like`",
        )
        expect(bool(torch.isfinite(mask).all()), overflow)


def _causal_pattern(mask, T: int, S: int) -> None:
    expect(isinstance(mask, Tensor), "causal_mask should return a tensor (is a return missing?)")
    expect(
        mask.shape == (T, S),
        f"for {T} tokens and {S} keys the mask has shape {tuple(mask.shape)}, "
        f"it should be ({T}, {S})",
    )
    expect(
        mask.dtype != torch.bool,
        "the mask holds True and False: it is added to scores, so it needs 0 and a very negative "
        "number",
    )
    expect(
        not torch.isinf(mask).any(),
        "the forbidden value is minus infinity: a query that may look nowhere would give NaN, so "
        "take torch.finfo(like.dtype).min",
    )
    expect(
        not (mask > 0).any(),
        "the mask holds positive numbers: it is added to the scores, 0 means may look",
    )
    open_ = mask == 0  # (T, S)
    rows, columns = torch.arange(T)[:, None] + S - T, torch.arange(S)[None]
    compare(
        open_.float(),
        (columns <= rows).float(),
        "the pattern of the mask",
        [
            ("every query may look everywhere: the future is open", torch.ones(T, S)),
            (
                "off by one: a query sees the token after it, whose word it should guess",
                (columns <= rows + 1).float(),
            ),
            ("off by one: a query does not see its own token", (columns < rows).float()),
            ("upside down: queries see the future and not the past", (columns >= rows).float()),
            ("upside down: queries see the future and not the past", (columns > rows).float()),
            (
                "with more keys than tokens the first keys are the past: the last query stands at "
                "the last key",
                (columns <= rows - (S - T)).float(),
            ),
        ],
    )
    if (mask < 0).any():
        weakest = mask[mask < 0].max().item()
        expect(
            weakest <= -1e9,
            f"the forbidden value {weakest:g} is too weak: a large score would shine through",
        )


# -- multi-head attention --------------------------------------------------------------------------


@check(
    "heads split and joined, masks, cross-attention, a cache that changes nothing, the memory door"
)
def attention(Attention: type[nn.Module]) -> None:
    """Vaswani et al. 2017, section 3.2.2. Attention(width, heads, dropout)."""
    layer = Attention(6, 2).eval()
    _split_and_join(layer)
    x, context = torch.randn(2, 5, 6), torch.randn(2, 7, 6)
    _self_attention(layer, x)
    _attention_masks(layer, x)
    _cross_attention(layer, x, context)
    _attention_cache(layer, x, context)
    _attention_memory(layer, x)
    _attention_dropout(Attention(6, 2, dropout=0.5), x)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, C) -> (B, H, T, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _answer(
    layer, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None, wrong: str = ""
) -> Tensor:
    """What the layer's weights give by the equations, or by the equations with one mistake."""
    source = x if context is None else context
    H, (B, _, C) = layer.heads, x.shape
    query, key, value = layer.query(x), layer.key(source), layer.value(source)
    if wrong == "query from context":
        query = layer.query(source)
    if wrong == "value from x":
        value = layer.value(x)
    if wrong == "key and value swapped":
        key, value = value, key
    if wrong == "view":  # (B, H, T, D) at once: tokens and heads get mixed up
        query, key, value = (part.reshape(B, H, -1, C // H) for part in (query, key, value))
    elif wrong == "one head":
        query, key, value = (part[:, None] for part in (query, key, value))
    else:
        query, key, value = (_heads(part, H) for part in (query, key, value))
    scale = {"width": C**-0.5, "no scale": 1.0}.get(wrong, query.shape[-1] ** -0.5)
    scores = scale * query @ key.transpose(-2, -1)  # (B, H, T, S)
    weights = (scores if mask is None else scores + mask).softmax(dim=-1)
    mixed = weights @ value  # (B, H, T, D)
    mixed = mixed.reshape(B, -1, C) if wrong == "join" else mixed.transpose(1, 2).flatten(2)
    return mixed if wrong == "no output" else layer.output(mixed)


def _split_and_join(layer) -> None:
    x = torch.randn(2, 5, 6)
    right = _heads(x, 2)  # (2, 2, 5, 3)
    compare(
        layer.split(x),
        right,
        "split(x)",
        [
            (
                "split cuts with view(B, H, T, D), which gives a head parts of other tokens: make "
                "(B, T, H, D) first, then transpose T and H",
                x.view(2, 2, 5, 3),
            ),
            ("split stops at (B, T, H, D): transpose T and H", x.view(2, 5, 2, 3)),
            (
                "split deals the numbers out in turn: head 0 gets the first D numbers of a token, "
                "so make (B, T, H, D)",
                x.view(2, 5, 3, 2).permute(0, 3, 1, 2),
            ),
        ],
    )
    compare(
        layer.join(right),
        x,
        "join(split(x))",
        [
            (
                "join reshapes (B, H, T, D) directly, which mixes tokens: transpose H and T back "
                "first",
                right.reshape(2, 5, 6),
            ),
        ],
    )


def _named(layer, *names: str, **given) -> list[tuple[str, Tensor]]:
    """Sentences of the usual mistakes with the answers they give."""
    sentences = {
        "no output": "the last linear map is missing: return output(join(heads))",
        "key and value swapped": "key and value have changed places",
        "view": "heads are cut with view(B, H, T, D), which mixes tokens: use split",
        "join": "heads are joined without a transpose, which mixes tokens: use join",
        "one head": "the heads are not split: all C numbers are used as one head",
        "width": "the scores are divided by sqrt(C): each head is D wide, so divide by sqrt(D)",
        "no scale": "the scores are not scaled: divide them by sqrt(D)",
        "query from context": "the query is made from the context: queries come from x",
        "value from x": "the value is made from x: with a context, keys and values come from it",
    }
    return [(sentences[name], _answer(layer, wrong=name, **given)) for name in names]


def _self_attention(layer, x: Tensor) -> None:
    usual = "no output", "key and value swapped", "one head", "view", "join", "width", "no scale"
    compare(
        layer(x),
        _answer(layer, x),
        "the output of self-attention",
        _named(layer, *usual, x=x),
    )


def _reach(layer, x: Tensor, **more) -> Tensor:
    """(T, T) of 0 and 1: does output i change when token j does?"""
    before, seen = layer(x, **more), []
    for j in range(x.shape[1]):
        other = x.clone()
        other[:, j] += 1.0
        seen.append((layer(other, **more) - before).abs().amax(dim=(0, 2)) > 1e-6)  # (T,)
    return torch.stack(seen, dim=1)


def _attention_masks(layer, x: Tensor) -> None:
    reach = _reach(layer, x, causal=True)
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    expect(not reach[future].all(), "causal=True is ignored: every token sees its future")
    expect(reach.diagonal()[1:].all(), "with causal=True a token does not see itself")
    expect(not reach[future].any(), "with causal=True a token sees a token of its future")
    expect(reach[~future].all(), "with causal=True a token does not see all of its past")
    ahead = torch.zeros(5, 5).masked_fill(future, LOWEST)
    compare(layer(x, causal=True), _answer(layer, x, mask=ahead), "the output with causal=True")
    padded = torch.zeros(2, 1, 1, 5)
    padded[0, :, :, 3:] = LOWEST  # the first row has two tokens of padding
    compare(
        layer(x, mask=padded),
        _answer(layer, x, mask=padded),
        "the output with a mask",
        [("the mask is ignored: hand it on to mix", _answer(layer, x))],
    )
    compare(
        layer(x, mask=padded, causal=True),
        _answer(layer, x, mask=torch.minimum(padded, ahead)),
        "the output with a mask and causal=True",
        [
            ("with causal=True the mask is ignored", _answer(layer, x, mask=ahead)),
            ("with a mask causal=True is ignored", _answer(layer, x, mask=padded)),
        ],
    )


def _cross_attention(layer, x: Tensor, context: Tensor) -> None:
    compare(
        layer(x, context),
        _answer(layer, x, context),
        "the output of cross-attention",
        [
            ("the context is ignored: keys and values come from it", _answer(layer, x)),
            *_named(layer, "query from context", "no output", x=x, context=context),
        ],
    )
    same_length = context[:, :5]
    compare(
        layer(x, same_length),
        _answer(layer, x, same_length),
        "the output of cross-attention",
        _named(layer, "value from x", "query from context", x=x, context=same_length),
    )


def _attention_cache(layer, x: Tensor, context: Tensor) -> None:
    whole, cache = layer(x, causal=True), {}
    first = layer(x[:, :3], causal=True, cache=cache)  # (2, 3, 6)
    expect(cache, "the cache stays empty: keep key and value there for the next step")
    second = layer(x[:, 3:4], causal=True, cache=cache)  # (2, 1, 6)
    third = layer(x[:, 4:], causal=True, cache=cache)
    compare(first, whole[:, :3], "the output of a first step with an empty cache")
    compare(
        second,
        whole[:, 3:4],
        "the output of a second step with a cache",
        [
            (
                "the cache is filled but not read: put the cached keys and values before the new",
                layer(x[:, 3:4], causal=True),
            )
        ],
    )
    expect(
        not same(third, _answer(layer, x[:, 4:], context=x[:, 3:])),
        "the cache keeps the keys of the last step only: store the past and the new ones together",
    )
    compare(third, whole[:, 4:], "the output of a third step with a cache")
    two = {}
    steps = [layer(x[:, a:b], causal=True, cache=two) for a, b in pairwise((0, 2, 5))]
    compare(
        torch.cat(steps, dim=1),
        whole,
        "the output with a cache, several tokens at a time",
        [],
    )
    read = {}
    layer(x[:, :1], context, cache=read)
    later = layer(x[:, 1:2], context, cache=read)
    compare(later, _answer(layer, x[:, 1:2], context), "cross-attention with a cache")
    lengths = {part.shape[2] for part in read.values() if isinstance(part, Tensor)}
    expect(
        lengths <= {7},
        "in cross-attention the cache grows at every step: the context does not change, so its "
        "keys and values are stored once",
    )


def _attention_memory(layer, x: Tensor) -> None:
    keys, values = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3)  # (1, H, P, D)
    ahead = torch.zeros(5, 5).masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), LOWEST)
    plain = layer(x, causal=True)

    def remembering(mask: Tensor) -> Tensor:
        """Self-attention with the memory before the keys; the mask covers (T, P + S)."""
        parts = [_heads(part(x), 2) for part in (layer.query, layer.key, layer.value)]
        query = parts[0]
        key = torch.cat([keys.expand(2, -1, -1, -1), parts[1]], dim=2)  # (2, 2, 3 + 5, 3)
        value = torch.cat([values.expand(2, -1, -1, -1), parts[2]], dim=2)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return layer.output(mixed.transpose(1, 2).flatten(2))

    layer.memory = (keys, values)
    try:
        cache = {}
        compare(
            layer(x, causal=True),
            remembering(F.pad(ahead, (3, 0))),
            "the output with a memory",
            [
                ("the memory is ignored: when there is one, `remember` puts it in front", plain),
                (
                    "with a memory every token sees its future: `remember` gives back a mask that "
                    "holds the causal part, hand that one to mix",
                    remembering(torch.zeros(5, 8)),
                ),
                (
                    "the causal pattern begins at the memory: every query may look at all of it",
                    remembering(
                        torch.zeros(5, 8).masked_fill(torch.ones(5, 8).triu(1) > 0, LOWEST)
                    ),
                ),
                (
                    "the mask is lengthened at its end: the memory stands in front",
                    remembering(F.pad(ahead, (0, 3))),
                ),
            ],
        )
        layer(x, causal=True, cache=cache)
    finally:
        layer.memory = None
    lengths = {part.shape[2] for part in cache.values() if isinstance(part, Tensor)}
    expect(
        lengths <= {5},
        "the memory enters the cache, so the next step would add it again: fill the cache first",
    )


def _attention_dropout(layer, x: Tensor) -> None:
    layer.eval()
    expect(same(layer(x), layer(x)), "dropout stays on in eval mode: two calls differ")
    layer.train()
    expect(not same(layer(x), layer(x)), "dropout is never applied in training")


# -- the feed-forward layer and the block ----------------------------------------------------------


@check("phi(x W_up + b_up) W_down + b_down, at every token alone")
def feed_forward(FeedForward: type[nn.Module]) -> None:
    """Vaswani et al. 2017, eq. 2. FeedForward(width, inner, activation)."""
    x = torch.randn(2, 5, 4)
    for name, phi in (("relu", F.relu), ("gelu_tanh", lambda h: F.gelu(h, approximate="tanh"))):
        layer = FeedForward(4, 4, name)
        up, down = layer.up, layer.down
        compare(
            layer(x),
            down(phi(up(x))),
            f"the output with {name}",
            [
                ("the activation is missing between up and down", down(up(x))),
                (
                    "the activation comes after down: it stands between the two maps",
                    phi(down(up(x))),
                ),
                ("there is an activation after down too", phi(down(phi(up(x))))),
                (
                    "the activation comes before up: it stands between the two maps",
                    down(up(phi(x))),
                ),
                ("x is added here: the block adds it, not the layer", x + down(phi(up(x)))),
                ("up and down have changed places", up(phi(down(x)))),
                ("down is missing", phi(up(x))),
                ("the activation is always relu: use self.activation", down(F.relu(up(x)))),
                (
                    "the activation is always the exact gelu: use self.activation",
                    down(F.gelu(up(x))),
                ),
                (
                    "the biases are missing: call self.up(x) and self.down(...)",
                    phi(x @ up.weight.T) @ down.weight.T,
                ),
            ],
        )


class _Listener(nn.Module):
    """Stands in for a sublayer: a simple linear map that writes down how it was called.

    The block is judged by its own work, whether or not the learner's attention is written.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)
        self.calls: list[dict] = []

    def forward(self, x, context=None, mask=None, causal=False, cache=None) -> Tensor:
        self.calls.append({"context": context, "mask": mask, "causal": causal, "cache": cache})
        return self.map(x) if context is None else self.map(x) + context.mean(1, keepdim=True)


@check("pre-norm and post-norm residuals, masks and cache handed on, cross-attention, dropout")
def block(Block: type[nn.Module]) -> None:
    """Block(config, cross). The sublayers are replaced by stand-ins that listen."""
    for norm in ("pre", "post"):
        _block_equation(_staged(Block, norm), norm)
        _block_cross(_staged(Block, norm, cross=True), norm)
    _block_calls(_staged(Block, "pre", cross=True))
    _block_dropout(_staged(Block, "pre", dropout=0.5))


def _staged(Block, norm: str, cross: bool = False, dropout: float = 0.0) -> nn.Module:
    from tiny_transformer import TransformerConfig  # here: checks are imported without a model too

    config = TransformerConfig(vocab_size=8, width=4, layers=1, heads=2, norm=norm, dropout=dropout)
    made = Block(config, cross)
    for name in ("attention", "feed_forward", "cross_attention"):
        if hasattr(made, name):
            setattr(made, name, _Listener(4))
    for module in made.modules():
        if isinstance(module, nn.LayerNorm):  # else a forgotten norm could look like another one
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return made.eval()


def _block_equation(block, norm: str) -> None:
    a, f = block.attention, block.feed_forward
    n_a, n_f = block.attention_norm, block.feed_forward_norm
    x = torch.randn(2, 5, 4)
    pre = lambda h, sublayer, n: h + sublayer(n(h))  # noqa: E731
    post = lambda h, sublayer, n: n(h + sublayer(h))  # noqa: E731
    right, other = (pre, post) if norm == "pre" else (post, pre)
    bare = lambda h, sublayer, n: sublayer(n(h)) if norm == "pre" else n(sublayer(h))  # noqa: E731
    on_both = lambda h, sublayer, n: n(h) + sublayer(n(h))  # noqa: E731
    none = lambda h, sublayer, n: h + sublayer(h)  # noqa: E731
    after = lambda h, sublayer, n: h + n(sublayer(h))  # noqa: E731

    def chain(step, first=(a, n_a), second=(f, n_f)) -> Tensor:
        return step(step(x, *first), *second)

    asked = f"the block is {norm}-norm"
    compare(
        block(x),
        chain(right),
        f"the output of a {norm}-norm block",
        [
            (f"{asked}, but the norm stands where the other kind has it", chain(other)),
            ("the residual is missing: each sublayer adds to x", chain(bare)),
            (
                "the norm falls on the residual too: in pre-norm x itself is carried on untouched, "
                "x + sublayer(norm(x))",
                chain(on_both),
            ),
            ("the norms are missing", chain(none)),
            (
                "the norm falls on the sublayer's output: that is neither pre- nor post-norm",
                chain(after),
            ),
            (
                "the feed-forward layer comes first: attention is first",
                chain(right, (f, n_f), (a, n_a)),
            ),
            ("both sublayers use attention_norm: each has its own", chain(right, second=(f, n_a))),
            (
                "both sublayers use feed_forward_norm: each has its own",
                chain(right, first=(a, n_f)),
            ),
            ("the norms have changed places", chain(right, (a, n_f), (f, n_a))),
            ("the feed-forward layer is missing", right(x, a, n_a)),
            ("attention is missing", right(x, f, n_f)),
            (
                "the feed-forward layer reads what the block was given: it should read the stream "
                "after attention",
                right(x, a, n_a) + right(x, f, n_f) - x,
            ),
        ],
    )


def _block_cross(block, norm: str) -> None:
    x, context = torch.randn(2, 5, 4), torch.randn(2, 3, 4)

    def add(h, sublayer, n, *more) -> Tensor:
        return h + sublayer(n(h), *more) if norm == "pre" else n(h + sublayer(h, *more))

    steps = {
        "attention": (block.attention, block.attention_norm),
        "cross": (block.cross_attention, block.cross_attention_norm, context),
        "feed-forward": (block.feed_forward, block.feed_forward_norm),
    }

    def chain(*names: str) -> Tensor:
        h = x
        for name in names:
            h = add(h, *steps[name])
        return h

    compare(
        block(x, context=context),
        chain("attention", "cross", "feed-forward"),
        "the output of a block with a context",
        [
            ("cross-attention is missing: a context is given", chain("attention", "feed-forward")),
            (
                "cross-attention comes before self-attention: it is the second sublayer",
                chain("cross", "attention", "feed-forward"),
            ),
            (
                "cross-attention comes last: it stands between self-attention and feed-forward",
                chain("attention", "feed-forward", "cross"),
            ),
        ],
    )
    compare(
        block(x),
        chain("attention", "feed-forward"),
        "the output of a block without a context, which has cross-attention",
    )


def _block_calls(block) -> None:
    x, context = torch.randn(2, 5, 4), torch.randn(2, 3, 4)
    mask, context_mask, cache = torch.zeros(2, 1, 1, 5), torch.zeros(2, 1, 1, 3), {}
    for calls in (block.attention.calls, block.cross_attention.calls):
        calls.clear()
    block(x, mask, True, context, context_mask, cache)
    own, read = block.attention.calls[-1], block.cross_attention.calls[-1]
    expect(own["mask"] is not context_mask, "self-attention gets the mask of the context")
    expect(own["mask"] is mask, "the mask does not reach self-attention: hand it on")
    expect(bool(own["causal"]), "causal does not reach self-attention: hand it on")
    expect(own["context"] is None, "self-attention gets the context: it reads the stream itself")
    expect(read["mask"] is not mask, "cross-attention gets the mask of the tokens")
    expect(read["mask"] is context_mask, "context_mask does not reach cross-attention: hand it on")
    expect(not read["causal"], "cross-attention is causal: every token may read the whole context")
    expect(own["cache"] is not None, "the cache does not reach self-attention: hand it a dict")
    expect(
        own["cache"] is not read["cache"],
        "self- and cross-attention share one cache, so one overwrites the other: give each its own",
    )
    block(x, mask, True, context, context_mask, cache)
    expect(
        block.attention.calls[-1]["cache"] is own["cache"],
        "at the second step self-attention gets a fresh cache: keep it inside `cache`",
    )
    block(x, mask, True)
    expect(
        block.attention.calls[-1]["cache"] is None,
        "without a cache attention gets one anyway: hand on None",
    )


def _block_dropout(block) -> None:
    x = torch.full((1, 400, 4), 10.0)
    expect(same(block(x), block(x)), "dropout stays on in eval mode: two calls differ")
    block.train()
    once = block(x)
    expect(not same(once, block(x)), "dropout is never applied in training")
    expect(
        once.min() > 2,
        "dropout falls on the residual: it should fall on what a sublayer says, before the sum",
    )
