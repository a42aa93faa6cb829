"""Lesson 01 once more: wrong solutions that were new to its checks, and unusual right ones."""

import math

import torch
from exercises.changing import changed
from torch import nn
from torch.nn import functional as F

from tiny_transformer.attention import MultiHeadAttention
from tiny_transformer.attention import attend as right_attend
from tiny_transformer.attention import causal_mask as right_mask
from tiny_transformer.attention import extend_cache as right_cache
from tiny_transformer.attention import put_in_front as right_memory
from tiny_transformer.layers import Block


def scale_of_lesson(query, key, value, mask=None, dropout=0.0):
    s = query @ key.mT / math.sqrt(16)
    s = s if mask is None else s + mask
    p = F.dropout(s.softmax(-1), dropout)
    return (p @ value, p)


def scores_of(q, k, m=None):
    s = q @ k.mT / math.sqrt(q.shape[-1])
    return s if m is None else s + m


def flat_softmax(query, key, value, mask=None, dropout=0.0):
    s = scores_of(query, key, mask)
    p = F.dropout(s.flatten(-2).softmax(-1).view_as(s), dropout)
    return (p @ value, p)


def zero_is_closed(query, key, value, mask=None, dropout=0.0):
    s = scores_of(query, key)
    s = s if mask is None else s.masked_fill(mask == 0, torch.finfo(s.dtype).min)
    p = F.dropout(s.softmax(-1), dropout)
    return (p @ value, p)


def key_reshaped(query, key, value, mask=None, dropout=0.0):
    s = query @ key.reshape(*key.shape[:2], key.shape[3], key.shape[2]) / math.sqrt(query.shape[-1])
    s = s if mask is None else s + mask
    p = F.dropout(s.softmax(-1), dropout)
    return (p @ value, p)


def mask_twice(query, key, value, mask=None, dropout=0.0):
    s = scores_of(query, key, mask)
    s = s if mask is None else s + mask
    p = F.dropout(s.softmax(-1), dropout)
    return (p @ value, p)


def mask_first_head(query, key, value, mask=None, dropout=0.0):
    s = scores_of(query, key)
    if mask is not None:
        s = torch.cat([s[:, :1] + mask, s[:, 1:]], 1)
    p = F.dropout(s.softmax(-1), dropout)
    return (p @ value, p)


def cosine(query, key, value, mask=None, dropout=0.0):
    return right_attend(F.normalize(query, dim=-1), F.normalize(key, dim=-1), value, mask, dropout)


def heads_averaged(query, key, value, mask=None, dropout=0.0):
    p = F.dropout(
        scores_of(query, key, mask)
        .softmax(-1)
        .mean(1, keepdim=True)
        .expand(-1, query.shape[1], -1, -1),
        dropout,
    )
    return (p @ value, p)


def causal_if_square(query, key, value, mask=None, dropout=0.0):
    T, S = (query.shape[2], key.shape[2])
    if mask is None and T == S:
        mask = right_mask(T, S, query)
    return right_attend(query, key, value, mask, dropout)


def fourth_root(query, key, value, mask=None, dropout=0.0):
    s = query * query.shape[-1] ** (-0.25) @ key.mT
    s = s if mask is None else s + mask
    p = F.dropout(s.softmax(-1), dropout)
    return (p @ value, p)


def sigmoid_attention(query, key, value, mask=None, dropout=0.0):
    p = F.dropout(scores_of(query, key, mask).sigmoid(), dropout)
    return (p @ value, p)


def returns_scores(query, key, value, mask=None, dropout=0.0):
    h, p = right_attend(query, key, value, mask, dropout)
    return (h, scores_of(query, key, mask))


def batch_one(query, key, value, mask=None, dropout=0.0):
    h, p = right_attend(
        query[:1], key[:1], value[:1], mask if mask is None or mask.dim() < 4 else mask[:1], dropout
    )
    return (h.expand_as(query), p.expand(len(query), -1, -1, -1))


def both_scaled(query, key, value, mask=None, dropout=0.0):
    B, H, T, D = query.shape
    S = key.shape[2]
    q = (query * D ** (-0.25)).reshape(B * H, T, D)
    k = (key * D ** (-0.25)).reshape(B * H, S, D)
    s = torch.bmm(q, k.transpose(1, 2)).view(B, H, T, S)
    if mask is not None:
        s = torch.add(s, mask)
    p = torch.exp(s - torch.logsumexp(s, -1, keepdim=True))
    p = nn.Dropout(dropout)(p)
    return (torch.matmul(p, value), p)


def zero_times_inf(tokens, keys, like):
    return (1 - torch.ones(tokens, keys, dtype=like.dtype).tril(keys - tokens)) * float("-inf")


def transposed(tokens, keys, like):
    return right_mask(tokens, keys, like).T


def pad_right(tokens, keys, like):
    return F.pad(right_mask(tokens, tokens, like), (0, keys - tokens))


def past_closed(tokens, keys, like):
    return F.pad(
        right_mask(tokens, tokens, like), (keys - tokens, 0), value=torch.finfo(like.dtype).min
    )


def window(tokens, keys, like):
    i = torch.arange(tokens)[:, None] + keys - tokens
    j = torch.arange(keys)[None]
    return torch.zeros(tokens, keys, dtype=like.dtype).masked_fill(
        (j > i) | (j < i - 3), torch.finfo(like.dtype).min
    )


def of_five(tokens, keys, like):
    return right_mask(5, 5, like)


kept = {}


def kept_by_size(tokens, keys, like):
    return kept.setdefault((tokens, keys), right_mask(tokens, keys, like))


def minus_ten_thousand(tokens, keys, like):
    return right_mask(tokens, keys, like).clamp(min=-10000.0)


def default_dtype(tokens, keys, like):
    return torch.triu(torch.full((tokens, keys), -1000000000.0), diagonal=keys - tokens + 1)


def one_row(tokens, keys, like):
    return right_mask(1, keys, like).expand(tokens, keys)


def random_noise(tokens, keys, like):
    return right_mask(tokens, keys, like) + 0 * torch.rand(tokens, keys, dtype=like.dtype)


def scaled_like(tokens, keys, like):
    return right_mask(tokens, keys, like) + 0 * like.sum()


def no_past(tokens, keys, like):
    return torch.full((tokens, keys), torch.finfo(like.dtype).min, dtype=like.dtype).triu(1)


def mask_first_query(self, x, context=None, mask=None, causal=False):
    return MultiHeadAttention.forward(
        self, x, context, mask if mask is None else mask[:, :, :1], causal
    )


def mask_of_first_row(self, x, context=None, mask=None, causal=False):
    return MultiHeadAttention.forward(self, x, context, mask if mask is None else mask[:1], causal)


def head0(self, x, context=None, mask=None, causal=False):
    s = x if context is None else context
    h = self.mix(
        self.split(self.query(x)), self.split(self.key(s)), self.split(self.value(s)), mask, causal
    )
    return self.output(self.join(h[:, :1].expand_as(h)))


def output_twice(self, x, context=None, mask=None, causal=False):
    return self.output(MultiHeadAttention.forward(self, x, context, mask, causal))


def no_query_bias(self, x, context=None, mask=None, causal=False):
    s = x if context is None else context
    return self.output(
        self.join(
            self.mix(
                self.split(x @ self.query.weight.T),
                self.split(self.key(s)),
                self.split(self.value(s)),
                mask,
                causal,
            )
        )
    )


def weights_not_T(self, x, context=None, mask=None, causal=False):
    s = x if context is None else context
    return self.output(
        self.join(
            self.mix(
                self.split(x @ self.query.weight + self.query.bias),
                self.split(self.key(s)),
                self.split(self.value(s)),
                mask,
                causal,
            )
        )
    )


def first_answer(self, x, context=None, mask=None, causal=False):
    if getattr(self, "seen", None) is None:
        self.seen = MultiHeadAttention.forward(self, x, context, mask, causal)
    return self.seen


def window16(cache, key, value):
    k, v = right_cache(cache, key, value)
    cache["key"], cache["value"] = (k[:, :, -16:], v[:, :, -16:])
    return (k, v)


def buffer8(cache, key, value):
    if not cache:
        cache["kb"] = key.new_zeros(*key.shape[:2], 8, key.shape[3])
        cache["vb"] = cache["kb"].clone()
        cache["n"] = 0
    n, T = (cache["n"], key.shape[2])
    cache["kb"][:, :, n : n + T] = key
    cache["vb"][:, :, n : n + T] = value
    cache["n"] = n + T
    cache["key"], cache["value"] = (cache["kb"][:, :, : n + T], cache["vb"][:, :, : n + T])
    return (cache["key"], cache["value"])


def rebound(cache, key, value):
    if cache:
        key = torch.cat([cache["key"], key], 2)
        value = torch.cat([cache["value"], value], 2)
    cache = {"key": key, "value": value}
    return (key, value)


def half_kept(cache, key, value):
    k, v = right_cache(cache, key, value)
    cache["key"], cache["value"] = (k.half(), v.half())
    return (k, v)


def get_doubles(cache, key, value):
    key = torch.cat([cache.get("key", key), key], 2)
    value = torch.cat([cache.get("value", value), value], 2)
    cache["key"], cache["value"] = (key, value)
    return (key, value)


def not_single(cache, key, value):
    old = dict(cache)
    k, v = right_cache(cache, key, value)
    if key.shape[2] == 1 and old:
        cache.update(old)
    return (k, v)


def last_twice(cache, key, value):
    k, v = right_cache(cache, key, value)
    cache["key"] = torch.cat([k, key[:, :, -1:]], 2)
    cache["value"] = torch.cat([v, value[:, :, -1:]], 2)
    return (k, v)


def stored_joined(cache, key, value):
    cache["kv"] = (
        torch.cat([key, value], -1)
        if not cache
        else torch.cat([cache["kv"], torch.cat([key, value], -1)], 2)
    )
    return tuple(cache["kv"].chunk(2, -1))


def transposed_tokens(cache, key, value):
    k, v = (
        right_cache(cache, key.transpose(1, 2), value.transpose(1, 2))
        if not cache
        else (None, None)
    )
    if k is None:
        k = torch.cat([cache["key"], key.transpose(1, 2)], 1)
        v = torch.cat([cache["value"], value.transpose(1, 2)], 1)
        cache["key"], cache["value"] = (k, v)
    return (k.transpose(1, 2), v.transpose(1, 2))


def residual_halved(self, x, sublayer, norm):
    return (
        0.5 * x + self.dropout(sublayer(norm(x)))
        if self.pre_norm
        else norm(0.5 * x + self.dropout(sublayer(x)))
    )


def sum_over_root2(self, x, sublayer, norm):
    return (
        (x + self.dropout(sublayer(norm(x)))) / 2**0.5
        if self.pre_norm
        else norm((x + self.dropout(sublayer(x))) / 2**0.5)
    )


def dropout_01(self, x, sublayer, norm):

    def d(y):
        return F.dropout(y, 0.1, self.training)

    return x + d(sublayer(norm(x))) if self.pre_norm else norm(x + d(sublayer(x)))


def sublayer_twice(self, x, sublayer, norm):
    sublayer(norm(x) if self.pre_norm else x)
    return Block.add(self, x, sublayer, norm)


def functional_norm(self, x, sublayer, norm):

    def n(y):
        return F.layer_norm(y, y.shape[-1:])

    return x + self.dropout(sublayer(n(x))) if self.pre_norm else n(x + self.dropout(sublayer(x)))


def norm_over_tokens(self, x, sublayer, norm):

    def n(y):
        return F.layer_norm(y, y.shape[-2:]) * norm.weight + norm.bias

    return x + self.dropout(sublayer(n(x))) if self.pre_norm else n(x + self.dropout(sublayer(x)))


def sub_then_norm(self, x, sublayer, norm):
    return (
        norm(x) + self.dropout(sublayer(x))
        if self.pre_norm
        else norm(x) + self.dropout(sublayer(x))
    )


def sublayers(
    self,
    x,
    mask=None,
    causal=False,
    context=None,
    context_mask=None,
    cache=None,
    *,
    first=None,
    cross=None,
    ff=None,
):
    sc = None if cache is None else cache.setdefault("self", {})
    x = self.add(
        x,
        first or (lambda h: self.attention(h, mask=mask, causal=causal, cache=sc)),
        self.attention_norm,
    )
    if context is not None:
        cc = None if cache is None else cache.setdefault("cross", {})
        x = self.add(
            x,
            cross(self, context, context_mask, cc)
            if cross
            else lambda h: self.cross_attention(h, context, mask=context_mask, cache=cc),
            self.cross_attention_norm,
        )
    return self.add(x, ff or self.feed_forward, self.feed_forward_norm)


def context_normed(self, x, mask=None, causal=False, context=None, context_mask=None, cache=None):
    return sublayers(
        self,
        x,
        mask,
        causal,
        None if context is None else self.cross_attention_norm(context),
        context_mask,
        cache,
    )


def cross_reads_block_input(
    self, x, mask=None, causal=False, context=None, context_mask=None, cache=None
):
    first = x
    return sublayers(
        self,
        x,
        mask,
        causal,
        context,
        context_mask,
        cache,
        cross=lambda s, c, m, cc: (
            lambda h: s.cross_attention(
                s.cross_attention_norm(first) if s.pre_norm else first, c, m, False, cc
            )
        ),
    )


def no_cross_in_cache(
    self, x, mask=None, causal=False, context=None, context_mask=None, cache=None
):
    if cache is not None and "cross" in cache:
        context = None
    return sublayers(self, x, mask, causal, context, context_mask, cache)


def causal_without_context(
    self, x, mask=None, causal=False, context=None, context_mask=None, cache=None
):
    return sublayers(self, x, mask, causal and context is None, context, context_mask, cache)


def same_sublayers(self, x, mask=None, causal=False, context=None, context_mask=None, cache=None):
    return sublayers(
        self,
        x,
        mask,
        causal,
        context,
        context_mask,
        cache,
        ff=lambda h: self.feed_forward(self.feed_forward(h)),
    )


def extra_final_norm(self, x, mask=None, causal=False, context=None, context_mask=None, cache=None):
    return self.feed_forward_norm(sublayers(self, x, mask, causal, context, context_mask, cache))


STORE = {}


def global_cache(self, x, mask=None, causal=False, context=None, context_mask=None, cache=None):
    return sublayers(
        self, x, mask, causal, context, context_mask, STORE if cache is not None else None
    )


def if_cache(self, x, mask=None, causal=False, context=None, context_mask=None, cache=None):
    return sublayers(self, x, mask, causal, context, context_mask, cache if cache else None)


def P_from_last(memory, key, value, mask=None):
    k, v, _ = right_memory(memory, key, value)
    return (k, v, None if mask is None else F.pad(mask, (memory[0].shape[-1], 0)))


def mask_in_float32(memory, key, value, mask=None):
    k, v, _ = right_memory(memory, key, value)
    return (
        k,
        v,
        None
        if mask is None
        else torch.cat([torch.zeros(*mask.shape[:-1], memory[0].shape[2]), mask], -1),
    )


def flipped(memory, key, value, mask=None):
    return right_memory(tuple(m.flip(2) for m in memory), key, value, mask)


def memory_mean(memory, key, value, mask=None):
    return right_memory(tuple(m.mean(0, keepdim=True) for m in memory), key, value, mask)


def zeros_mask(memory, key, value, mask=None):
    k, v, m = right_memory(memory, key, value, mask)
    return (k, v, None if m is None else torch.zeros_like(m))


def head_axis(memory, key, value, mask=None):
    B = len(key)
    return (
        torch.cat([memory[0].expand(B, -1, -1, -1), key], 1),
        torch.cat([memory[1].expand(B, -1, -1, -1), value], 1),
        mask,
    )


def memory_scaled(memory, key, value, mask=None):
    return right_memory(tuple(m / m.shape[-1] ** 0.5 for m in memory), key, value, mask)


def reshaped(memory, key, value, mask=None):
    B, H, S, D = key.shape
    P = memory[0].shape[2]
    return tuple(
        (
            torch.cat([m.expand(B, -1, -1, -1).reshape(B, -1), t.reshape(B, -1)], 1).reshape(
                B, H, P + S, D
            )
            for m, t in zip(memory, (key, value), strict=True)
        )
    ) + (None if mask is None else F.pad(mask, (P, 0)),)


def only_first_head(memory, key, value, mask=None):
    return right_memory(tuple(m[:, :1].expand_as(m) for m in memory), key, value, mask)


def P_three(memory, key, value, mask=None):
    k, v, _ = right_memory(memory, key, value)
    return (k, v, None if mask is None else F.pad(mask, (3, 0)))


def by_sdpa(query, key, value, mask=None, dropout=0.0):
    h = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return (h, scores_of(query, key, mask).softmax(-1))


def own_dropout(query, key, value, mask=None, dropout=0.0):
    p = F.softmax(scores_of(query, key, mask), dim=-1)
    keep = torch.empty_like(p).bernoulli_(1 - dropout)
    p = p * keep / (1 - dropout)
    return ((p.unsqueeze(-1) * value.unsqueeze(2)).sum(3), p)


def last_rows(tokens, keys, like):
    return torch.full(
        (keys, keys), torch.finfo(like.dtype).min, dtype=like.dtype, device=like.device
    ).triu(1)[keys - tokens :]


def by_compare(tokens, keys, like):
    i = torch.arange(keys - tokens, keys)[:, None]
    j = torch.arange(keys)
    return (j > i).to(like.dtype) * torch.finfo(like.dtype).min


def by_cat(tokens, keys, like):
    lo = -torch.finfo(like.dtype).max
    return torch.cat(
        [like.new_zeros(tokens, keys - tokens), like.new_full((tokens, tokens), lo).triu(1)], 1
    )


def by_rows(tokens, keys, like):
    rows = [
        [0.0] * (keys - tokens + t + 1) + [torch.finfo(like.dtype).min / 2] * (tokens - 1 - t)
        for t in range(tokens)
    ]
    return torch.tensor(rows, dtype=like.dtype)


class ByEinsum(MultiHeadAttention):
    def split(self, x):
        return torch.einsum("bthd->bhtd", x.unflatten(-1, (self.heads, -1)))

    def join(self, heads):
        return torch.cat(heads.unbind(1), dim=-1)

    def forward(self, x, context=None, mask=None, causal=False):
        s = context if context is not None else x
        q, k, v = (
            torch.stack(f(t).chunk(self.heads, -1), 1)
            for f, t in ((self.query, x), (self.key, s), (self.value, s))
        )
        return F.linear(
            self.join(self.mix(q, k, v, mask=mask, causal=causal)),
            self.output.weight,
            self.output.bias,
        )


class Fused(MultiHeadAttention):
    def split(self, x):
        B, T, C = x.shape
        return x.reshape(B, T, self.heads, -1).permute(0, 2, 1, 3).contiguous()

    def join(self, heads):
        return heads.movedim(1, 2).flatten(2)

    def forward(self, x, context=None, mask=None, causal=False):
        s = x if context is None else context
        kv = F.linear(
            s,
            torch.cat([self.key.weight, self.value.weight]),
            torch.cat([self.key.bias, self.value.bias]),
        )
        k, v = kv.chunk(2, -1)
        q = self.split(self.query(x))
        return self.output(self.join(self.mix(q, self.split(k), self.split(v), mask, causal)))


def no_mix_no_keep(self, x, context=None, mask=None, causal=False):
    s = x if context is None else context
    q, k = (self.split(self.query(x)), self.split(self.key(s)))
    if causal:
        mask = self.hide_future(q, k, mask)
    h, _ = right_attend(
        q, k, self.split(self.value(s)), mask, self.dropout if self.training else 0.0
    )
    return self.output(self.join(h))


def from_empty(cache, key, value):
    for n, new in (("key", key), ("value", value)):
        past = cache.get(n, new[:, :, :0])
        cache[n] = torch.cat((past, new), dim=-2)
    return (cache["key"], cache["value"])


def tuple_of_both(cache, key, value):
    both = torch.stack([key, value])
    if "key" in cache:
        both = torch.cat([torch.stack([cache["key"], cache["value"]]), both], dim=3)
    cache.update(key=both[0], value=both[1])
    return list(both)


def written_in(cache, key, value):
    if not cache:
        cache.update(key=key.clone(), value=value.clone())
        return (cache["key"], cache["value"])
    P, T = (cache["key"].shape[2], key.shape[2])
    out = []
    for n, new in (("key", key), ("value", value)):
        full = new.new_zeros(*new.shape[:2], P + T, new.shape[3])
        full[:, :, :P] = cache[n]
        full[:, :, P:] = new
        cache[n] = full
        out.append(full)
    return tuple(out)


class Written(Block):
    def forward(self, x, mask=None, causal=False, context=None, context_mask=None, cache=None):
        steps = [("self", self.attention, self.attention_norm, dict(mask=mask, causal=causal))]
        if context is not None:
            steps.append(
                (
                    "cross",
                    self.cross_attention,
                    self.cross_attention_norm,
                    dict(context=context, mask=context_mask),
                )
            )
        for name, layer, norm, kw in steps:
            c = None
            if cache is not None:
                if name not in cache:
                    cache[name] = {}
                c = cache[name]
            h = norm(x) if self.pre_norm else x
            y = layer(h, cache=c, **kw)
            x = torch.add(x, self.dropout(y))
            x = x if self.pre_norm else norm(x)
        h = self.feed_forward_norm(x) if self.pre_norm else x
        x = self.dropout(self.feed_forward(h)) + x
        return x if self.pre_norm else self.feed_forward_norm(x)


class AddOnly(Block):
    def add(self, x, sublayer, norm):
        before, after = (norm, nn.Identity()) if self.pre_norm else (nn.Identity(), norm)
        return after(
            torch.stack(
                [x, F.dropout(sublayer(before(x)), self.dropout.p, self.dropout.training)]
            ).sum(0)
        )


class Partial(Block):
    def forward(self, x, mask=None, causal=False, context=None, context_mask=None, cache=None):
        from functools import partial

        caches = (
            [None, None] if cache is None else [cache.setdefault(n, {}) for n in ("self", "cross")]
        )
        x = self.add(
            x,
            partial(self.attention, mask=mask, causal=causal, cache=caches[0]),
            self.attention_norm,
        )
        if context is not None:
            x = self.add(
                x,
                partial(self.cross_attention, context=context, mask=context_mask, cache=caches[1]),
                self.cross_attention_norm,
            )
        return self.add(x, self.feed_forward, self.feed_forward_norm)


def broadcast(memory, key, value, mask=None):
    out = [
        torch.cat([torch.broadcast_to(m, (t.shape[0], *m.shape[1:])), t], dim=-2)
        for m, t in zip(memory, (key, value), strict=True)
    ]
    return [*out, mask if mask is None else F.pad(mask, [memory[0].size(2), 0, 0, 0])]


def into_zeros(memory, key, value, mask=None):
    P = memory[0].shape[2]
    k, v = (F.pad(key, (0, 0, P, 0)), F.pad(value, (0, 0, P, 0)))
    k = torch.cat([k[:, :, :P] + memory[0], k[:, :, P:]], 2)
    v = torch.cat([v[:, :, :P] + memory[1], v[:, :, P:]], 2)
    if mask is not None:
        full = mask.new_zeros(*mask.shape[:-1], P + mask.shape[-1])
        full[..., P:] = mask
        mask = full
    return (k, v, mask)


def rows_given(memory, key, value, mask=None):
    k, v, m = right_memory(memory, key, value, mask)
    return (k, v, m if m is None else m.expand(len(key), -1, -1, -1))


WRONG = [
    ("attend", scale_of_lesson, "`key` is 0.6124 times as large in the smallest case"),
    ("attend", flat_softmax, "softmax runs over queries and keys together: each query"),
    ("attend", zero_is_closed, "the mask is read upside down, 0 as closed: 0 is added and"),
    ("attend", key_reshaped, "`key` is reshaped where its axes 2 and 3 are to be"),
    ("attend", mask_twice, "`mask` is twice as large"),
    ("attend", mask_first_head, "it is right at 0 of axis 1 and wrong at 1, 2"),
    ("attend", cosine, "query and key are divided by their lengths: the scores"),
    ("attend", heads_averaged, "`scores.softmax(dim=-1)` is averaged along axis 1"),
    ("attend", causal_if_square, "the future is hidden although no mask asks for it: the"),
    ("attend", fourth_root, "`query.shape[-1]` is a square root"),
    ("attend", sigmoid_attention, "there is a sigmoid in place of the softmax: the weights"),
    ("attend", returns_scores, "these are the scores beside the heads: give the weights"),
    ("attend", batch_one, "the heads is the same everywhere along axis 0: the first"),
    ("attend", both_scaled, "the heads is 4 times as large as it should be"),
    ("causal_mask", zero_times_inf, "the forbidden value is minus infinity: a query that may"),
    ("causal_mask", transposed, "upside down: queries see the future and not the past"),
    ("causal_mask", pad_right, "the past is put behind the tokens: of more keys than"),
    ("causal_mask", past_closed, "the past is closed: of more keys than tokens the first"),
    ("causal_mask", window, "of 5 tokens and 5 keys query 4 may not look at key 0"),
    ("causal_mask", of_five, "for 2 tokens and 5 keys the mask has shape (5, 5), it"),
    ("causal_mask", kept_by_size, "for torch.bfloat16 queries the mask is torch.float32"),
    ("causal_mask", minus_ten_thousand, "the forbidden value -10000 is too weak: a large score"),
    ("causal_mask", default_dtype, "for torch.bfloat16 queries the mask is torch.float32"),
    ("causal_mask", one_row, "every query may look everywhere: the future is open"),
    ("causal_mask", random_noise, "torch's global generator is drawn from or seeded: leave"),
    ("causal_mask", scaled_like, "the result gets a gradient, but it must not learn: is a"),
    ("causal_mask", no_past, "with more keys than tokens the first keys are the past"),
    (
        "attention",
        changed(
            MultiHeadAttention,
            split=lambda s, x: (
                x.view(x.shape[1], s.heads, -1).transpose(0, 1)[None]
                if len(x) == 1
                else x.reshape(len(x), s.heads, x.shape[1], -1)
            ),
        ),
        "split cuts with view(B, H, T, D), which gives a head",
    ),
    (
        "attention",
        changed(MultiHeadAttention, join=lambda s, h: h.sum(1).repeat(1, 1, h.shape[1])),
        "`heads` is summed along axis 1",
    ),
    (
        "attention",
        changed(MultiHeadAttention, forward=mask_first_query),
        "`mask` is its first one along axis 2, for all",
    ),
    (
        "attention",
        changed(MultiHeadAttention, forward=mask_of_first_row),
        "`mask` is its first one along axis 0, for all",
    ),
    (
        "attention",
        changed(MultiHeadAttention, forward=head0),
        "`self.mix(query, key, value, mask, causal)` is its first",
    ),
    (
        "attention",
        changed(MultiHeadAttention, forward=output_twice),
        "the last linear map is applied twice",
    ),
    (
        "attention",
        changed(MultiHeadAttention, forward=no_query_bias),
        "and is made without query.bias",
    ),
    (
        "attention",
        changed(MultiHeadAttention, forward=weights_not_T),
        "the maps are multiplied without a transpose, x @ weight",
    ),
    (
        "attention",
        changed(MultiHeadAttention, forward=first_answer),
        "MultiHeadAttention stops when it is called again: it uses",
    ),
    ("extend_cache", window16, "key after step 2 has shape (2, 2, 20, 3), it should be"),
    ("extend_cache", buffer8, "RuntimeError: The expanded size of the tensor (8) must"),
    ("extend_cache", rebound, "the cache stays empty: keep what the next step needs in"),
    ("extend_cache", half_kept, "it is right at 3 of axis 2 and wrong at 0, 1, 2"),
    ("extend_cache", get_doubles, "key after step 1 has shape (2, 2, 6, 3), it should be (2"),
    ("extend_cache", not_single, "the cache keeps the first step only: store the past and"),
    ("extend_cache", last_twice, "key after step 2 has shape (2, 2, 5, 3), it should be (2"),
    ("extend_cache", stored_joined, "the cache stays empty: keep what the next step needs in"),
    (
        "extend_cache",
        transposed_tokens,
        'cache["key"] has its axes 1 and 2 interchanged: transpose',
    ),
    ("block", changed(Block, add=residual_halved), "`x` is half as large"),
    (
        "block",
        changed(Block, add=sum_over_root2),
        "`x + self.dropout(sublayer(norm(x)))` is 0.7071 times as",
    ),
    (
        "block",
        changed(Block, add=dropout_01),
        "the output is wrong (with training=True), and random",
    ),
    (
        "block",
        changed(Block, add=sublayer_twice),
        "the sublayer is called twice: with a cache it would keep",
    ),
    ("block", changed(Block, add=functional_norm), "and is made without attention_norm.weight and"),
    (
        "block",
        changed(Block, add=norm_over_tokens),
        "the norm runs over all tokens together: it runs over the",
    ),
    (
        "block",
        changed(Block, add=sub_then_norm),
        "the norm falls on the stream, and the sublayer reads it",
    ),
    (
        "block",
        changed(Block, forward=context_normed),
        "the context goes through the norm, too: it comes",
    ),
    (
        "block",
        changed(Block, forward=cross_reads_block_input),
        "cross-attention reads what the block was given: it should",
    ),
    (
        "block",
        changed(Block, forward=no_cross_in_cache),
        "at the second step cross-attention is left out: the",
    ),
    (
        "block",
        changed(Block, forward=causal_without_context),
        "causal does not reach self-attention: hand it on",
    ),
    ("block", changed(Block, forward=same_sublayers), "the feed-forward layer is applied twice"),
    (
        "block",
        changed(Block, forward=extra_final_norm),
        "there is a norm behind the block: it ends with the sum",
    ),
    (
        "block",
        changed(Block, forward=global_cache),
        "Block was right with the same arguments before and is",
    ),
    (
        "block",
        changed(Block, forward=if_cache),
        "the cache does not reach self-attention: hand it a dict",
    ),
    ("put_in_front", P_from_last, "the mask has shape (2, 1, 3, 7), it should be (2, 1, 3"),
    ("put_in_front", mask_in_float32, "the mask is float32, it should be bfloat16 here"),
    ("put_in_front", flipped, "`memory` runs backwards along axis 2"),
    ("put_in_front", memory_mean, "`memory` is averaged along axis 0"),
    ("put_in_front", zeros_mask, "`mask` is 0 everywhere"),
    ("put_in_front", head_axis, "memory and tokens are joined along the heads (dim 1)"),
    ("put_in_front", memory_scaled, "`memory` is divided by the root of the size of axis 3"),
    ("put_in_front", reshaped, "numbers are joined and cut anew, which mixes the heads"),
    ("put_in_front", only_first_head, "`memory` is its first one along axis 1, for all"),
    ("put_in_front", P_three, "the mask has shape (2, 1, 3, 7), it should be (2, 1, 3"),
]
RIGHT = [
    ("attend", by_sdpa),
    ("attend", own_dropout),
    ("causal_mask", last_rows),
    ("causal_mask", by_compare),
    ("causal_mask", by_cat),
    ("causal_mask", by_rows),
    ("attention", ByEinsum),
    ("attention", Fused),
    ("attention", changed(MultiHeadAttention, forward=no_mix_no_keep)),
    ("extend_cache", from_empty),
    ("extend_cache", tuple_of_both),
    ("extend_cache", written_in),
    ("block", Written),
    ("block", AddOnly),
    ("block", Partial),
    ("put_in_front", broadcast),
    ("put_in_front", into_zeros),
    ("put_in_front", rows_given),
]
