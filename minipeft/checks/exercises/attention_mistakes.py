"""The usual mistakes of `MultiHeadAttention`."""

from __future__ import annotations

from minipeft.checks.framework import mistake

QUERY, KEY, VALUE = (
    "self.split(self.query(x))",
    "self.split(self.key(source))",
    "self.split(self.value(source))",
)
SPLIT = "x.view(B, T, self.heads, C // self.heads).transpose(1, 2)"
JOIN = "heads.transpose(1, 2).reshape(B, T, H * D)"
SOURCE = "source = x if context is None else context"
MIX = "heads = self.mix("
FUTURE = "causal_mask(T, S, query)"
LOW = "torch.finfo(query.dtype).min"


def masking(sentence: str, future: str):
    """The causal pattern is another one."""
    return mistake(sentence, (FUTURE, future))


def before_mask(line: str) -> tuple[str, str]:
    """This line first, then what uses causal and mask."""
    return MIX, f"{line}\n        {MIX}"


def over(cut: str):
    """All three parts, cut another way."""
    return [
        (QUERY, cut.format(part="self.query(x)", length="x.shape[1]")),
        (KEY, cut.format(part="self.key(source)", length="source.shape[1]")),
        (VALUE, cut.format(part="self.value(source)", length="source.shape[1]")),
    ]


MISTAKES = [
    mistake(
        "split cuts with view(B, H, T, D), which gives a head parts of other tokens: make "
        "(B, T, H, D) first, then transpose T and H",
        (SPLIT, "x.reshape(B, self.heads, T, C // self.heads)"),
    ),
    mistake(
        "split stops at (B, T, H, D): transpose T and H",
        (SPLIT, SPLIT.removesuffix(".transpose(1, 2)")),
    ),
    mistake(
        "split deals the numbers out in turn: head 0 gets the first D numbers of a token, so make "
        "(B, T, H, D)",
        (SPLIT, "x.unflatten(-1, (-1, self.heads)).permute(0, 3, 1, 2)"),
    ),
    mistake(
        "join reshapes (B, H, T, D) directly, which mixes tokens: transpose H and T back first",
        (JOIN, "heads.reshape(B, T, H * D)"),
    ),
    mistake(
        "join deals the numbers out in turn: the D numbers of a head stay side by side",
        (JOIN, "heads.permute(0, 2, 3, 1).reshape(B, T, H * D)"),
    ),
    mistake(
        "the last linear map is missing: return output(join(heads))",
        ("self.output(self.join(heads))", "self.join(heads)"),
    ),
    mistake(
        "the last linear map is applied twice",
        ("self.output(self.join(heads))", "self.output(self.output(self.join(heads)))"),
    ),
    mistake(
        "the maps are multiplied without a transpose, x @ weight: call self.query(x), which takes "
        "x @ weight.T + bias",
        (QUERY, "self.split(x @ self.query.weight + self.query.bias)"),
    ),
    mistake(
        "keys and values are made of x and context together: with a context, they come from it "
        "alone",
        (SOURCE, "source = x if context is None else torch.cat([x, context], dim=1)"),
        (MIX, "mask = mask if context is None else None\n        heads = self.mix("),
    ),
    mistake(
        "x is added to the answer: attention gives what it found, the block adds it to the stream",
        ("self.output(self.join(heads))", "x + self.output(self.join(heads))"),
    ),
    mistake(
        "key and value have changed places",
        (f"key = {KEY}", "key = self.split(self.value (source))"),
        (f"value = {VALUE}", "value = self.split(self.key(source))"),
    ),
    mistake(
        "query and key have changed places",
        (QUERY, "self.split(self.key(x))"),
        (KEY, "self.split(self.query(source))"),
    ),
    mistake("the value is made with self.key: each part has its own map", (VALUE, KEY)),
    mistake(
        "the key is made with self.query: each part has its own map",
        (KEY, "self.split(self.query(source))"),
    ),
    mistake(
        "the heads are not split: all C numbers are used as one head", *over("{part}[:, None]")
    ),
    mistake(
        "heads are cut with view(B, H, T, D), which mixes tokens: use split",
        *over("{part}.reshape(x.shape[0], self.heads, {length}, -1)"),
    ),
    mistake(
        "heads are joined without a transpose, which mixes tokens: use join",
        ("self.join(heads)", "heads.reshape(x.shape)"),
    ),
    mistake(
        "the scores are divided by sqrt(C): each head is D wide, so divide by sqrt(D)",
        (QUERY, f"{QUERY} / self.heads**0.5"),
    ),
    mistake(
        "the scores are not scaled: divide them by sqrt(D)",
        (QUERY, f"{QUERY} * (x.shape[-1] // self.heads) ** 0.5"),
    ),
    mistake(
        "the scores are scaled twice: mix divides by sqrt(D) itself",
        (QUERY, f"{QUERY} / (x.shape[-1] // self.heads) ** 0.5"),
    ),
    mistake("causal=True is ignored: every token sees its future", before_mask("causal = False")),
    masking(
        "with causal=True a token sees a token of its future",
        "F.pad(causal_mask(T, S, query), (1, 0))[:, :S]",
    ),
    masking(
        "with causal=True a token does not see itself",
        f"F.pad(causal_mask(T, S, query), (0, 1), value={LOW})[:, 1:]",
    ),
    masking(
        "with causal=True a token sees its future and not its past",
        "causal_mask(T, S, query).flip(0, 1)",
    ),
    mistake(
        "attention is always causal: it is when causal=True",
        before_mask("causal = context is None"),
    ),
    mistake("the mask is ignored: hand it on to mix", before_mask("mask = None")),
    mistake(
        "with causal=True the mask is ignored",
        before_mask("mask = None if causal else mask"),
    ),
    mistake("with a mask causal=True is ignored", before_mask("causal = causal and mask is None")),
    mistake("the context is ignored: keys and values come from it", (SOURCE, "source = x")),
    mistake(
        "the query is made from the context: queries come from x",
        (QUERY, "self.split(self.query(x if context is None else context))"),
    ),
    mistake(
        "the value is made from x: with a context, keys and values come from it",
        (VALUE, "self.split(self.value(x if x.shape == source.shape else source))"),
    ),
    mistake(
        "the value is made from x: with a context, keys and values come from it",
        (VALUE, "self.split(self.value(x))"),
    ),
    mistake(
        "the key is made from x: with a context, keys and values come from it",
        (KEY, "self.split(self.key(x if x.shape == source.shape else source))"),
    ),
    mistake(
        "the key is made from x: with a context, keys and values come from it",
        (KEY, "self.split(self.key(x))"),
    ),
    mistake(
        "dropout stays on in eval mode: two calls differ",
        when=lambda view: view.drawn and not view.case.training and view.difference.kind == "value",
    ),
]
