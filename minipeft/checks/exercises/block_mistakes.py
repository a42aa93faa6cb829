"""The usual mistakes of `Block`."""

from __future__ import annotations

from minipeft.checks.framework import mistake

PRE, POST = "x + self.dropout(sublayer(norm(x)))", "norm(x + self.dropout(sublayer(x)))"
OWN = "self.attention(h, mask=mask, causal=causal, cache=self_cache)"
READ = "self.cross_attention(h, context, mask=context_mask, cache=cross_cache)"
OWN_STEP = (
    f"x = self.add(\n            x,\n            lambda h: {OWN},\n"
    "            self.attention_norm,\n        )"
)
LAST = "return self.add(x, self.feed_forward, self.feed_forward_norm)"
OTHER_NORM = OWN_STEP.replace("attention_norm", "feed_forward_norm")
READ_IF = "if context is not None:"
FIRST_LINE = 'self_cache = None if cache is None else cache.setdefault("self", {})'
READ_STEP = (
    f"x = self.add(\n                x,\n                lambda h: {READ},\n"
    "                self.cross_attention_norm,\n            )"
)


def adding(sentence: str, pre: str, post: str | None = None) -> list:
    """`add` is another one: in each kind of norm, or the same in both."""
    both = mistake(sentence, (PRE, pre), (POST, pre))
    if post is None:
        return [both]
    return [mistake(sentence, (PRE, pre), (POST, post)), both]


def calling(sentence: str, which: str, wrong: str):
    return mistake(sentence, (which, wrong))


MISTAKES = [
    mistake(
        "the block is post-norm, but the norm stands where the other kind has it",
        ("if self.pre_norm:", "if True:"),
    ),
    mistake(
        "the block is pre-norm, but the norm stands where the other kind has it",
        ("if self.pre_norm:", "if False:"),
    ),
    mistake(
        "pre-norm and post-norm have changed places: self.pre_norm says which one it is",
        ("if self.pre_norm:", "if not self.pre_norm:"),
    ),
    *adding(
        "the residual is missing: each sublayer adds to x",
        "self.dropout(sublayer(norm(x)))",
        "norm(self.dropout(sublayer(x)))",
    ),
    *adding(
        "the norm falls on the residual too: in pre-norm x itself is carried on untouched, "
        "x + sublayer(norm(x))",
        "norm(x) + self.dropout(sublayer(norm(x)))",
        POST,
    ),
    *adding(
        "the norms are missing", "x + self.dropout(sublayer(x))", "x + self.dropout(sublayer(x))"
    ),
    *adding(
        "the norm falls on the sublayer's output: that is neither pre- nor post-norm",
        "x + self.dropout(norm(sublayer(x)))",
        "x + norm(self.dropout(sublayer(x)))",
    ),
    *adding(
        "the sublayer is subtracted: it adds to the stream",
        PRE.replace("+", "-"),
        POST.replace("+", "-"),
    ),
    *adding(
        "the norm is done twice, before and after the sublayer",
        f"norm({PRE})",
        "norm(x + self.dropout(sublayer(norm(x))))",
    ),
    *adding(
        "the norm falls on the stream, and the sublayer reads it without: that is neither pre- nor "
        "post-norm",
        "norm(x) + self.dropout(sublayer(x))",
    ),
    *adding(
        "the norm runs over all tokens together: it runs over the C numbers of each, as norm(x) "
        "does",
        "x + self.dropout(sublayer(nn.functional.layer_norm(x, x.shape[-2:]) * norm.weight + "
        "norm.bias))",
        "nn.functional.layer_norm(x + self.dropout(sublayer(x)), x.shape[-2:]) * norm.weight + "
        "norm.bias",
    ),
    *adding(
        "the sublayer is called twice: with a cache it would keep every token twice",
        "x + self.dropout((sublayer(norm(x)), sublayer(norm(x)))[1])",
        "norm(x + self.dropout((sublayer(x), sublayer(x))[1]))",
    ),
    *adding(
        "the stream is multiplied by what the sublayer says: it is added",
        "x * (1 + self.dropout(sublayer(norm(x))))",
        "norm(x * (1 + self.dropout(sublayer(x))))",
    ),
    mistake(
        "there is a norm behind the block: it ends with the sum (pre-norm) or with the norm of its "
        "last sublayer (post-norm)",
        (LAST, f"return self.feed_forward_norm({LAST.removeprefix('return ')})"),
    ),
    mistake(
        "the feed-forward layer is applied twice",
        (
            LAST,
            LAST.replace(
                "self.feed_forward,", "lambda h: self.feed_forward(self.feed_forward(h)),"
            ),
        ),
    ),
    mistake(
        "the context goes through the norm, too: it comes normalised from the encoder",
        (READ, READ.replace("h, context", "h, self.cross_attention_norm(context)")),
    ),
    mistake(
        "cross-attention reads what the block was given: it should read the stream after "
        "self-attention",
        (FIRST_LINE, f"first = x\n        {FIRST_LINE}"),
        (
            READ,
            READ.replace("(h,", "(self.cross_attention_norm(first) if self.pre_norm else first,"),
        ),
    ),
    mistake(
        "at the second step cross-attention is left out: the context is read at every step",
        (READ_IF, 'if context is not None and "cross" not in (cache or {}):'),
    ),
    mistake(
        "the feed-forward layer comes first: attention is first",
        (
            FIRST_LINE,
            f"x = self.add(x, self.feed_forward, self.feed_forward_norm)\n        {FIRST_LINE}",
        ),
        (LAST, "return x"),
    ),
    mistake(
        "both sublayers use attention_norm: each has its own",
        (LAST, LAST.replace("feed_forward_norm", "attention_norm")),
    ),
    mistake("both sublayers use feed_forward_norm: each has its own", (OWN_STEP, OTHER_NORM)),
    mistake(
        "the norms have changed places",
        (OWN_STEP, OTHER_NORM),
        (LAST, LAST.replace("feed_forward_norm", "attention_norm")),
    ),
    mistake(
        "cross-attention uses attention_norm: it has a norm of its own",
        ("                self.cross_attention_norm", "                self.attention_norm"),
    ),
    mistake("the feed-forward layer is missing", (LAST, "return x")),
    mistake("attention is missing", (OWN_STEP, "pass")),
    mistake(
        "the feed-forward layer reads what the block was given: it should read the stream after "
        "attention",
        (FIRST_LINE, f"first = x\n        {FIRST_LINE}"),
        (LAST, "return x + self.add(first, self.feed_forward, self.feed_forward_norm) - first"),
    ),
    mistake("cross-attention is missing: a context is given", (READ_IF, "if False:")),
    mistake(
        "cross-attention comes before self-attention: it is the second sublayer",
        (OWN_STEP, "pass"),
        (READ_STEP, f"{READ_STEP}\n        {OWN_STEP}"),
    ),
    mistake(
        "cross-attention comes last: it stands between self-attention and feed-forward",
        (
            READ_IF,
            "x = self.add(x, self.feed_forward, self.feed_forward_norm)\n"
            "        if context is not None:",
        ),
        (LAST, "return x"),
    ),
    calling(
        "self-attention gets the mask of the context", OWN, OWN.replace("=mask", "=context_mask")
    ),
    calling(
        "the mask does not reach self-attention: hand it on", OWN, OWN.replace("=mask", "=None")
    ),
    calling(
        "causal does not reach self-attention: hand it on", OWN, OWN.replace("=causal", "=False")
    ),
    calling(
        "self-attention is always causal: hand `causal` on", OWN, OWN.replace("=causal", "=True")
    ),
    calling(
        "self-attention gets the context: it reads the stream itself",
        OWN,
        OWN.replace("(h,", "(h, context,"),
    ),
    calling(
        "cross-attention gets the mask of the tokens", READ, READ.replace("=context_mask", "=mask")
    ),
    calling(
        "context_mask does not reach cross-attention: hand it on",
        READ,
        READ.replace("=context_mask", "=None"),
    ),
    calling(
        "cross-attention is causal: every token may read the whole context",
        READ,
        READ.replace("mask=", "causal=True, mask="),
    ),
    calling(
        "cross-attention is causal: every token may read the whole context",
        READ,
        READ.replace("mask=", "causal=causal, mask="),
    ),
    calling(
        "the context does not reach cross-attention: hand it on",
        READ,
        READ.replace("h, context", "h, None"),
    ),
    calling(
        "the cache does not reach self-attention: hand it a dict",
        OWN,
        OWN.replace("=self_cache", "=None"),
    ),
    calling(
        "the cache does not reach cross-attention: hand it a dict",
        READ,
        READ.replace("=cross_cache", "=None"),
    ),
    mistake(
        "self- and cross-attention share one cache, so one overwrites the other: give each its own",
        ('"cross"', '"self"'),
    ),
    mistake(
        "self- and cross-attention share one cache, so one overwrites the other: give each its own",
        ('cache.setdefault("self", {})', "cache"),
        ('cache.setdefault("cross", {})', "cache"),
    ),
    mistake(
        "at the second step self-attention gets a fresh cache: keep it inside `cache`",
        ('cache.setdefault("self", {})', "{}"),
        ('cache.setdefault("cross", {})', "{}"),
    ),
    mistake(
        "at the second step self-attention gets a fresh cache: keep it inside `cache`",
        ('cache.setdefault("self", {})', "{}"),
    ),
    mistake(
        "at the second step cross-attention gets a fresh cache: keep it inside `cache`",
        ('cache.setdefault("cross", {})', "{}"),
    ),
    mistake(
        "without a cache attention gets one anyway: hand on None",
        (
            "self_cache = None if cache is None else",
            "cache = {} if cache is None else cache\n        self_cache =",
        ),
    ),
    mistake(
        "without a cache (None) there is no dict to look in: hand None on to attention",
        (FIRST_LINE, 'self_cache = cache.setdefault("self", {})'),
    ),
    mistake(
        "a block without cross-attention is asked for it: only where there is a context",
        (READ_IF, "if True:"),
    ),
    *adding(
        "dropout is never applied in training", "x + sublayer(norm(x))", "norm(x + sublayer(x))"
    ),
    *adding(
        "dropout falls on the residual: it should fall on what a sublayer says, before the sum",
        "self.dropout(x + sublayer(norm(x)))",
        "norm(self.dropout(x + sublayer(x)))",
    ),
    *adding(
        "dropout falls on the residual: it should fall on what a sublayer says, before the sum",
        "self.dropout(x) + sublayer(norm(x))",
        "norm(self.dropout(x) + sublayer(x))",
    ),
    *adding(
        "dropout falls on what the sublayer reads: it should fall on what it says, before the sum",
        "x + sublayer(self.dropout(norm(x)))",
        "norm(x + sublayer(self.dropout(x)))",
    ),
    *adding(
        "dropout falls on the output of the norm: it should fall on what a sublayer says, before "
        "the sum",
        PRE,
        "self.dropout(norm(x + sublayer(x)))",
    ),
    mistake(
        "dropout stays on in eval mode: use self.dropout, which knows the mode",
        when=lambda view: view.drawn and not view.case.training and view.difference.kind == "value",
    ),
]
