"""Wrong solutions in the kinds that fixed inputs do not see, and unusual right ones.

Each is wrong in what it does besides the equation: gradients, arguments, state, randomness, types,
options that are left out. Every one must be rejected, with words that name the mistake.
"""

import copy
import functools
import math
import random
from collections import Counter
from dataclasses import asdict, replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from exercises import (
    test_checkpoints,
    test_lora_by_hand,
    test_memory,
    test_museum,
    test_preferences,
    test_prefix,
    test_prompt_tuning,
    test_serving,
    test_similarity,
    test_small_methods,
    test_transformer,
    test_unipelt,
    test_vera,
    test_which_method,
)
from torch import nn
from torch.nn import functional as F
from whole import part_of

import tiny_transformer as tt
from minipeft import checks
from minipeft.checks.framework import Check
from minipeft.course import transfer
from minipeft.course.written_prompts import behind_last as behind
from minipeft.methods.adapter import AdapterPatch
from minipeft.methods.lora import LoRAPatch
from minipeft.methods.p_tuning import PromptEncoder
from minipeft.methods.p_tuning_v2 import PTuningV2
from minipeft.methods.prefix import PrefixEncoder
from minipeft.tasks.prompt_search import promising as words_to_try
from tiny_transformer import objectives
from tiny_transformer.attention import MultiHeadAttention, extend_cache, put_in_front
from tiny_transformer.pretraining import learning_rate


def refused(check, candidate, words):
    with pytest.raises(checks.CheckFailed) as caught:
        check(candidate)
    said = str(caught.value)
    assert words in said
    assert "\n" not in said
    return said


# -- kinds that any function can have --------------------------------------------------------------


def without_gradients(function):
    return torch.no_grad()(function)


def seeding(function):
    def wrong(*given, **options):
        torch.manual_seed(0)
        return function(*given, **options)

    return wrong


def drawing(function):
    """Uses numpy's generator for nothing."""

    def wrong(*given, **options):
        np.random.rand()
        return function(*given, **options)

    return wrong


def rolling(function):
    def wrong(*given, **options):
        random.random()
        return function(*given, **options)

    return wrong


def remembering(function):
    """The first answer for good, as from a cache that forgets to look at its arguments."""
    kept = {}

    def wrong(*given, **options):
        key = tuple(getattr(g, "shape", None) for g in given)
        return kept.setdefault(key, function(*given, **options))

    return wrong


def counting(function):
    """Another answer at every call: a global is counted up."""
    calls = []

    def wrong(*given, **options):
        calls.append(1)
        answer = function(*given, **options)
        return answer if len(calls) < 100 else None

    return wrong


def switching(function):
    """Leaves gradients switched off."""

    def wrong(*given, **options):
        answer = function(*given, **options)
        torch.set_grad_enabled(False)
        return answer

    return wrong


def in_double(function):
    def wrong(*given, **options):
        answer = function(*given, **options)
        if isinstance(answer, tuple):
            return tuple(part.double() for part in answer)
        return answer.double()

    return wrong


def misspelt(*given, **options):
    return torch.zeros(1).sofmax(-1)


def from_torch(*given, **options):
    return torch.zeros(2, dtype=torch.int32).to_sparse().to_mkldnn()


def raising(*given, **options):
    raise NotImplementedError("what now?")


# -- attend ----------------------------------------------------------------------------------------


def attending(change):
    """attend with one thing changed: (scores, weights, heads) after one another."""

    def attend(query, key, value, mask=None, dropout=0.0):
        return change(query, key, value, mask, dropout)

    return attend


def adds_in_place(query, key, value, mask=None, dropout=0.0):
    query /= math.sqrt(query.shape[-1])
    scores = query @ key.mT
    weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
    return weights @ value, weights


def value_detached(query, key, value, mask=None, dropout=0.0):
    return tt.attend(query, key, value.detach(), mask, dropout)


def mask_changed(query, key, value, mask=None, dropout=0.0):
    if mask is not None:
        mask[..., 0] = 0.0
    return tt.attend(query, key, value, mask, dropout)


def other_default(query, key, value, mask=None, dropout=0.1):
    return tt.attend(query, key, value, mask, dropout)


def kept_share(query, key, value, mask=None, dropout=0.0):
    if dropout == 0:
        return tt.attend(query, key, value, mask)
    _, weights = tt.attend(query, key, value, mask)
    weights = weights * (torch.rand_like(weights) < dropout) / dropout
    return weights @ value, weights


def rows_together(query, key, value, mask=None, dropout=0.0):
    _, weights = tt.attend(query, key, value, mask)
    if dropout:
        weights = weights * F.dropout(torch.ones_like(weights[:1]), dropout)
    return weights @ value, weights


def square_only(query, key, value, mask=None, dropout=0.0):
    heads, weights = tt.attend(query, key, value, mask, dropout)
    return (heads, weights) if query.shape[-2] == key.shape[-2] else (heads.flip(-2), weights)


def mixes_dtypes(query, key, value, mask=None, dropout=0.0):
    """float32 by accident: it works there and nowhere else."""
    _, weights = tt.attend(query, key, value, mask, dropout)
    return (weights * torch.ones(weights.shape)) @ value, weights


def loses_precision(query, key, value, mask=None, dropout=0.0):
    heads, weights = tt.attend(query.float(), key.float(), value.float(), mask, dropout)
    return heads, weights


# -- Adapter ---------------------------------------------------------------------------------------


class SkipDetached(AdapterPatch):
    def forward(self, x, y):
        change = self.change(y)
        return (y.detach() + change if self.skip else change).to(y.dtype)


class AdapterInPlace(AdapterPatch):
    def forward(self, x, y):
        if not self.skip:
            return super().forward(x, y)
        y += self.change(y).to(y.dtype)
        return y


class AdapterNoGradient(AdapterPatch):
    @torch.no_grad()
    def change(self, h):
        return super().change(h)


class DetachedUp(AdapterPatch):
    def change(self, h):
        low = self.dropout(self.phi(self.down(h.to(self.down.weight.dtype))))
        return self.scale * F.linear(low, self.up.weight.detach(), self.up.bias)


class TokensTogether(AdapterPatch):
    """One mask for all tokens of a row."""

    def change(self, h):
        low = self.phi(self.down(h.to(self.down.weight.dtype)))
        return self.scale * self.up(low * self.dropout(torch.ones_like(low[..., :1, :])))


class DropsOutput(AdapterPatch):
    def forward(self, x, y):
        return self.dropout(super().forward(x, y))


class OnePhi(AdapterPatch):
    """The activation of the first object serves all."""

    first = []

    def change(self, h):
        self.first.append(self.phi)
        self.phi = self.first[0]
        return super().change(h)


class AdapterSwitchesMode(AdapterPatch):
    def forward(self, x, y):
        result = super().forward(x, y)
        self.eval()
        return result


class NoChange(nn.Module):
    """`change` is misspelt."""

    def __init__(self, width, bottleneck, **settings):
        super().__init__()
        self.__dict__ |= AdapterPatch(width, bottleneck, **settings).__dict__

    def forward(self, x, y):
        return y

    def chnage(self, h):
        return h


# -- LoRA ------------------------------------------------------------------------------------------


class YDetached(LoRAPatch):
    def forward(self, x, y):
        return super().forward(x, y.detach())


class NoGradient(LoRAPatch):
    @torch.no_grad()
    def forward(self, x, y):
        return super().forward(x, y)


class InPlace(LoRAPatch):
    def forward(self, x, y):
        y += super().forward(x, torch.zeros_like(y))
        return y


class DeltaDetached(LoRAPatch):
    def delta(self):
        return super().delta().detach()


class OneDetour(LoRAPatch):
    """Made at the first call, used for ever."""

    def forward(self, x, y):
        if not hasattr(self, "detour") or self.detour.shape != y.shape:
            self.detour = super().forward(x, torch.zeros_like(y)).detach()
        return y + self.detour


class OneForAll(LoRAPatch):
    scales = {}

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.scales.setdefault("scale", self.scale)
        self.scale = self.scales["scale"]


class KeepsTheDropped(LoRAPatch):
    def forward(self, x, y):
        p = self.dropout.p
        if self.training and p:
            x = x * (torch.rand_like(x) < p) / (1 - p)
        return self.eval_forward(x, y)

    def eval_forward(self, x, y):
        return (y + self.scale * (x.to(self.A.dtype) @ self.A.T @ self.B.T)).to(y.dtype)


class WholeTokens(KeepsTheDropped):
    """Drops all features of a token together."""

    def forward(self, x, y):
        if self.training:
            x = x * F.dropout(torch.ones_like(x[..., :1]), self.dropout.p)
        return self.eval_forward(x, y)


class SwitchesMode(LoRAPatch):
    def forward(self, x, y):
        answer = super().forward(x, y)
        self.eval()
        return answer


class WrongDefault(LoRAPatch):
    def __init__(self, in_features, out_features, rank, alpha, dropout=0.1, rank_stabilized=False):
        super().__init__(in_features, out_features, rank, alpha, dropout, rank_stabilized)


class NoDelta(nn.Module):
    """`delta` is misspelt."""

    __init__, forward, dleta = LoRAPatch.__init__, LoRAPatch.forward, LoRAPatch.delta


NoDelta.__init__ = lambda self, *sizes, **options: _start(self, *sizes, **options)


def _start(self, in_features, out_features, rank, alpha, dropout=0.0, rank_stabilized=False):
    nn.Module.__init__(self)
    self.A = nn.Parameter(torch.randn(rank, in_features))
    self.B = nn.Parameter(torch.zeros(out_features, rank))
    self.scale = alpha / (math.sqrt(rank) if rank_stabilized else rank)
    self.dropout = nn.Dropout(dropout)


# -- Attention, Block, FeedForward -----------------------------------------------------------------


class AttentionNoGradient(MultiHeadAttention):
    @torch.no_grad()
    def forward(self, *given, **options):
        return super().forward(*given, **options)


class ContextDetached(MultiHeadAttention):
    def forward(self, x, context=None, mask=None, causal=False):
        context = None if context is None else context.detach()
        return super().forward(x, context, mask, causal)


class ForgetsKey(MultiHeadAttention):
    def split(self, x):
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2).detach()


class ViewOfStrided(MultiHeadAttention):
    def join(self, heads):
        return heads.transpose(1, 2).reshape(len(heads), -1, self.query.weight.shape[0]).float()


class AlwaysCausalInTraining(MultiHeadAttention):
    def forward(self, x, context=None, mask=None, causal=False):
        causal = causal or (self.training and context is None)
        return super().forward(x, context, mask, causal)


class CausalAcross(MultiHeadAttention):
    """Without a mask it forgets that it is causal."""

    def forward(self, x, context=None, mask=None, causal=False):
        return super().forward(x, context, mask, causal and mask is not None)


def cache_for_all(cache, key, value, kept={}):  # noqa: B006
    """A default argument that is filled."""
    both = extend_cache(kept, key, value)
    cache.update(kept)
    return both


def in_front_in_place(memory, key, value, mask=None):
    value[:, :, 0] = 0
    return put_in_front(memory, key, value, mask)


def opens_in_place(memory, key, value, mask=None):
    if mask is not None:
        mask[..., 0] = 0
    return put_in_front(memory, key, value, mask)


def row_zero(memory, key, value, mask=None):
    """Every row of the batch gets the first row's memory."""
    return put_in_front([part[:1] for part in memory], key, value, mask)


class BlockNoGradient(tt.Block):
    def add(self, x, sublayer, norm):
        if self.pre_norm:
            return x + self.dropout(sublayer(norm(x)).detach())
        return norm(x + self.dropout(sublayer(x)).detach())


class BlockInPlace(tt.Block):
    def add(self, x, sublayer, norm):
        if not self.pre_norm:
            return super().add(x, sublayer, norm)
        x += self.dropout(sublayer(norm(x)))
        return x


class BlockKeepsCache(tt.Block):
    """Hands its own cache on when it gets none."""

    def forward(self, x, mask=None, causal=False, context=None, context_mask=None, cache=None):
        self.kept = getattr(self, "kept", {}) if cache is None else cache
        return super().forward(x, mask, causal, context, context_mask, self.kept)


class BlockSharedDropout(tt.Block):
    def add(self, x, sublayer, norm):
        drop = lambda h: h * self.dropout(torch.ones_like(h[:, :, :1]))  # noqa: E731
        if self.pre_norm:
            return x + drop(sublayer(norm(x)))
        return norm(x + drop(sublayer(x)))


class BlockStreamDetached(tt.Block):
    def add(self, x, sublayer, norm):
        if self.pre_norm:
            return x.detach() + self.dropout(sublayer(norm(x)))
        return norm(x.detach() + self.dropout(sublayer(x)))


class BlockContextTwice(tt.Block):
    def forward(self, x, mask=None, causal=False, context=None, context_mask=None, cache=None):
        if context is not None:
            context = context.detach()
        return super().forward(x, mask, causal, context, context_mask, cache)


class BlockEvalMode(tt.Block):
    def forward(self, *given, **options):
        self.eval()
        return super().forward(*given, **options)


class BlockMaskOrCausal(tt.Block):
    def forward(self, x, mask=None, causal=False, context=None, context_mask=None, cache=None):
        causal = causal and mask is None
        return super().forward(x, mask, causal, context, context_mask, cache)


def layer(forward, **options):
    return type("FeedForward", (tt.FeedForward,), {"forward": forward, **options})


def up(self, x):
    return self.down(self.activation(self.up(x)))


def gelu_by_default(self, width, inner, activation="gelu"):
    tt.FeedForward.__init__.__wrapped__(self, width, inner, activation)


class GeluByDefault(tt.FeedForward):
    def __init__(self, width, inner, activation="gelu"):
        super().__init__(width, inner, activation)


# -- objectives ------------------------------------------------------------------------------------


def first_words(documents, tokenizer, generator=None, corruption_rate=0.25, mean_span=2.0):
    """Always the first words of each text."""
    gap = tokenizer.convert_tokens_to_ids("<gap0>")
    bos, eos = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
    torch.rand((), generator=generator)
    sources, targets = [], []
    for document in documents:
        n = max(1, round(len(document) * corruption_rate))
        sources.append([*bos, gap, *document[n:], *eos])
        targets.append([gap, *document[:n], *eos])
    return objectives.pairs(sources, targets, tokenizer)


def corrupting(change):
    @functools.wraps(objectives.span_corruption)
    def span_corruption(documents, tokenizer, generator=None, corruption_rate=0.25, mean_span=2.0):
        return change(documents, tokenizer, generator, corruption_rate, mean_span)

    return span_corruption


def span_right(documents, tokenizer, generator, corruption_rate, mean_span):
    return objectives.span_corruption(documents, tokenizer, generator, corruption_rate, mean_span)


def pops(documents, tokenizer, generator, corruption_rate, mean_span):
    answer = span_right(documents, tokenizer, generator, corruption_rate, mean_span)
    documents.pop()
    return answer


def fixed_seed(documents, tokenizer, generator, corruption_rate, mean_span):
    return span_right(
        documents, tokenizer, torch.Generator().manual_seed(1), corruption_rate, mean_span
    )


def by_python(documents, tokenizer, generator, corruption_rate, mean_span):
    unseeded = torch.Generator().manual_seed(random.randrange(2**31))
    return span_right(documents, tokenizer, unseeded, corruption_rate, mean_span)


def hard_coded_ends(documents, tokenizer, generator, corruption_rate, mean_span):
    plain = copy.copy(tokenizer)
    plain.bos_token_id, plain.eos_token_id = 1, 2
    return span_right(documents, plain, generator, corruption_rate, mean_span)


def left_padded(documents, tokenizer, generator, corruption_rate, mean_span):
    batch = span_right(documents, tokenizer, generator, corruption_rate, mean_span)
    order = batch["attention_mask"].argsort(dim=1, stable=True)
    return batch | {name: batch[name].gather(1, order) for name in ("input_ids", "attention_mask")}


def half_share(documents, tokenizer, generator, corruption_rate, mean_span):
    return span_right(documents, tokenizer, generator, corruption_rate / 2, mean_span)


def no_short_ones(documents, tokenizer, generator, corruption_rate, mean_span):
    keep = [document for document in documents if len(document) > 1]
    return span_right(keep or documents, tokenizer, generator, corruption_rate, mean_span)


def masking(change):
    def masked(ids, tokenizer, generator=None, corruption_rate=0.15):
        return change(ids, tokenizer, generator, corruption_rate)

    return masked


def masked_right(ids, tokenizer, generator, corruption_rate):
    return objectives.masked(ids, tokenizer, generator, corruption_rate)


def same_columns(ids, tokenizer, generator, corruption_rate):
    batch = objectives.masked(ids[:1].contiguous(), tokenizer, generator, corruption_rate)
    chosen = (batch["labels"] != -100).expand(ids.shape) & (ids > 13)
    inputs = torch.where(chosen, batch["input_ids"].expand(ids.shape), ids)
    inputs = torch.where(chosen & (inputs < 6) & (inputs != 4), 4, inputs)
    return {
        "input_ids": inputs,
        "attention_mask": (ids != 0).long(),
        "labels": torch.where(chosen, ids, -100),
    }


def one_noise_word(ids, tokenizer, generator, corruption_rate):
    batch = masked_right(ids, tokenizer, generator, corruption_rate)
    noisy = (batch["labels"] != -100) & (batch["input_ids"] != 4) & (batch["input_ids"] != ids)
    return batch | {"input_ids": torch.where(noisy, 14, batch["input_ids"])}


def first_half(ids, tokenizer, generator, corruption_rate):
    batch = masked_right(ids, tokenizer, generator, min(1.0, 2 * corruption_rate))
    keep = torch.arange(ids.shape[1]) < (ids.shape[1] + 1) // 2
    chosen = (batch["labels"] != -100) & keep
    return batch | {
        "labels": torch.where(chosen, ids, -100),
        "input_ids": torch.where(chosen, batch["input_ids"], ids),
    }


def global_choice(ids, tokenizer, generator, corruption_rate):
    return masked_right(ids, tokenizer, None, corruption_rate)


def drawn_for_nothing(ids, tokenizer, generator, corruption_rate):
    np.random.rand()
    return masked_right(ids, tokenizer, generator, corruption_rate)


def masked_fixed(ids, tokenizer, generator, corruption_rate):
    return masked_right(ids, tokenizer, torch.Generator().manual_seed(3), corruption_rate)


def share_ignored(ids, tokenizer, generator, corruption_rate):
    return masked_right(ids, tokenizer, generator, 0.15)


def masked_in_place(ids, tokenizer, generator, corruption_rate):
    batch = masked_right(ids.clone(), tokenizer, generator, corruption_rate)
    ids.copy_(batch["input_ids"])
    return batch


def asked(change):
    def causal(ids, tokenizer, generator=None):
        return change(ids, tokenizer, objectives.causal(ids, tokenizer, generator))

    return causal


# -- lists -----------------------------------------------------------------------------------------

WRONG = [
    ("attend", without_gradients(tt.attend), "does not require grad"),
    ("attend", adds_in_place, "query"),
    ("attend", value_detached, "value gets no gradient"),
    ("attend", mask_changed, "the mask that came in was changed"),
    ("attend", other_default, "the default of dropout is 0.1, it should be 0.0"),
    ("attend", kept_share, "keeps what it should drop"),
    ("attend", rows_together, "in every row"),
    ("attend", square_only, "heads"),
    ("attend", mixes_dtypes, "two dtypes meet"),
    ("attend", loses_precision, "float32, it should be float64"),
    ("attend", in_double(tt.attend), "float64, it should be float32"),
    ("attend", drawing(tt.attend), "numpy's global generator"),
    ("attend", switching(tt.attend), "gradients are switched on or off"),
    ("attend", remembering(tt.attend), "the answer of an earlier call"),
    ("attend", misspelt, "AttributeError"),
    ("attend", raising, "not from the exercise"),
    ("attend", seeding(tt.attend), "at every call"),
    ("adapter", SkipDetached, "gradient"),
    ("adapter", AdapterInPlace, "in place"),
    ("adapter", AdapterNoGradient, "does not require grad"),
    ("adapter", DetachedUp, "W_up gets no gradient"),
    ("adapter", TokensTogether, "dropped together"),
    ("adapter", DropsOutput, "drop hidden features only"),
    ("adapter", OnePhi, "activation"),
    ("adapter", AdapterSwitchesMode, "changes the layer itself"),
    ("adapter", NoChange, "has no method change: it has chnage"),
    ("lora", YDetached, "y gets no gradient"),
    ("lora", NoGradient, "does not require grad"),
    ("lora", InPlace, "the y that came in was changed"),
    ("lora", DeltaDetached, "does not require grad"),
    ("lora", OneDetour, "gradient"),
    ("lora", OneForAll, "scale"),
    ("lora", KeepsTheDropped, "dropout"),
    ("lora", WholeTokens, "dropped together"),
    ("lora", SwitchesMode, "the call changes the layer itself"),
    ("lora", WrongDefault, "dropout"),
    ("lora", NoDelta, "has no method delta: it has dleta"),
    ("attention", AttentionNoGradient, "does not require grad"),
    ("attention", ContextDetached, "context gets no gradient"),
    ("attention", ForgetsKey, "does not require grad"),
    ("attention", ViewOfStrided, "float32, it should be"),
    ("attention", AlwaysCausalInTraining, "always causal"),
    ("attention", CausalAcross, "causal=True"),
    ("extend_cache", without_gradients(extend_cache), "runs under no_grad"),
    ("extend_cache", cache_for_all, "key after step 1 has shape"),
    ("extend_cache", in_double(extend_cache), "float64, it should be float32"),
    ("extend_cache", seeding(extend_cache), "global generator"),
    ("extend_cache", switching(extend_cache), "gradients are switched on or off"),
    (
        "extend_cache",
        lambda cache, key, value: extend_cache(cache, key.mul_(2), value),
        "the key that came in was changed",
    ),
    ("extend_cache", misspelt, "AttributeError"),
    ("put_in_front", without_gradients(put_in_front), "does not require grad"),
    ("put_in_front", drawing(put_in_front), "numpy's global generator"),
    ("put_in_front", rolling(put_in_front), "Python's global generator"),
    ("put_in_front", in_front_in_place, "changed"),
    ("put_in_front", opens_in_place, "the mask that came in was changed"),
    ("put_in_front", row_zero, "row b has its own"),
    ("put_in_front", raising, "not from the exercise"),
    ("block", BlockNoGradient, "is detached"),
    ("block", BlockInPlace, "in place"),
    ("block", BlockKeepsCache, "without a cache attention gets one anyway"),
    ("block", BlockSharedDropout, "dropped together"),
    ("block", BlockStreamDetached, "is detached"),
    ("block", BlockContextTwice, "context gets no gradient"),
    ("block", BlockEvalMode, "the call changes the layer itself"),
    ("block", BlockMaskOrCausal, "causal"),
    ("feed_forward", layer(without_gradients(up)), "does not require grad"),
    ("feed_forward", layer(lambda self, x: up(self, x.detach())), "x gets no gradient"),
    ("feed_forward", layer(lambda self, x: up(self, x.float())), ""),
    ("feed_forward", layer(lambda self, x: up(self, x).float()), "it should be float64"),
    ("feed_forward", layer(lambda self, x: up(self, x.mul_(1.5))), "changed"),
    ("feed_forward", layer(lambda self, x: up(self, x)[:, -1:]), "shape"),
    ("feed_forward", layer(lambda self, x: up(self, x).mT.reshape(x.shape)), "transpose"),
    ("feed_forward", layer(lambda self, x: up(self, x).flip(1)), "backwards"),
    ("feed_forward", layer(drawing(up)), "numpy's global generator"),
    ("feed_forward", GeluByDefault, "the default of activation is 'gelu'"),
    ("causal_mask", lambda T, S, like: tt.causal_mask(T, S, like).requires_grad_(), "gradient"),
    ("causal_mask", lambda T, S, like: tt.causal_mask(T, S, like)[None, None], "has shape"),
    ("causal_mask", lambda T, S, like: tt.causal_mask(T, S, like).tolist(), "a tensor"),
    ("causal_mask", lambda T, S, like: tt.causal_mask(T, S, like) * 0.5 - 1.0, "look"),
    ("causal_mask", lambda T, S, like: tt.causal_mask(T, T, like), "shape"),
    ("causal_mask", lambda T, S, like: tt.causal_mask(T, S, like).flip(1), "key"),
    ("causal_mask", lambda T, S, like: (like.add_(1), tt.causal_mask(T, S, like))[1], "changed"),
    ("causal_mask", lambda T, S, like: tt.causal_mask(T, S, like).half(), "minus infinity"),
    (
        "causal_mask",
        lambda T, S, like: torch.where(
            tt.causal_mask(T, S, like) < 0, torch.finfo(like.dtype).min, 0.0
        ).to(like.dtype),
        "too large for torch.float64",
    ),
    ("causal_mask", drawing(tt.causal_mask), "numpy's global generator"),
    ("cross_entropy", without_gradients(tt.cross_entropy), "does not require grad"),
    ("cross_entropy", lambda x, y: None if y is None else tt.cross_entropy(x, y).item(), "tensor"),
    ("cross_entropy", lambda x, y: tt.cross_entropy(x, y.clamp(min=0)), ""),
    ("cross_entropy", lambda x, y: F.cross_entropy(x.flatten(0, -2), y.flatten()), "bfloat16"),
    (
        "cross_entropy",
        lambda x, y: None if y is None else F.cross_entropy(x.flatten(0, -2), y.flatten()),
        "bfloat16",
    ),
    ("cross_entropy", lambda x, y: torch.nan_to_num(tt.cross_entropy(x, y)), ""),
    ("cross_entropy", lambda x, y: y is not None and tt.cross_entropy(x, y), "without labels"),
    (
        "cross_entropy",
        lambda x, y: None if y is None else tt.cross_entropy(x[:, :-1], y[:, 1:]),
        "",
    ),
    (
        "cross_entropy",
        lambda x, y: None if y is None else (y.clamp_(min=0), tt.cross_entropy(x, y))[1],
        "changed",
    ),
    ("causal", asked(lambda ids, t, b: b | {"labels": b["labels"].int()}), "int64"),
    ("causal", asked(lambda ids, t, b: b | {"labels": b["labels"].tolist()}), "tensor"),
    (
        "causal",
        asked(lambda ids, t, b: b | {"labels": ids.masked_fill(ids == 0, -100)}),
        "pad_token_id",
    ),
    ("causal", asked(lambda ids, t, b: b | {"attention_mask": (ids > 0).long()}), "pad_token_id"),
    ("causal", asked(lambda ids, t, b: (b["input_ids"], b["labels"])), "dict"),
    ("causal", asked(lambda ids, t, b: (ids.sub_(1), b)[1]), "changed"),
    ("causal", asked(lambda ids, t, b: b | {"labels": b["labels"].flip(1)}), "backwards"),
    ("causal", seeding(objectives.causal), "global generator"),
    ("causal", asked(lambda ids, t, b: b | {"input_ids": ids.float()}), "input_ids"),
    ("masked", masking(same_columns), ""),
    ("masked", masking(one_noise_word), "random words"),
    ("masked", masking(first_half), "half of the rows"),
    ("masked", masking(global_choice), "from `generator`"),
    ("masked", masking(drawn_for_nothing), "global generator"),
    ("masked", masking(masked_fixed), "generator"),
    ("masked", masking(share_ignored), "it should be 50%"),
    ("masked", masking(masked_in_place), "work on a copy"),
    (
        "masked",
        lambda ids, t, generator=None, corruption_rate=0.3: masked_right(
            ids, t, generator, corruption_rate
        ),
        "",
    ),
    ("span_corruption", first_words, "always the first words"),
    ("span_corruption", corrupting(pops), "work on copies"),
    ("span_corruption", corrupting(fixed_seed), "from the generator"),
    ("span_corruption", corrupting(by_python), "from `generator`"),
    ("span_corruption", corrupting(hard_coded_ends), "begins with <bos>"),
    ("span_corruption", corrupting(left_padded), "padding stands before"),
    ("span_corruption", corrupting(half_share), "the model is asked for"),
    ("span_corruption", corrupting(no_short_ones), "documents should give"),
    ("span_corruption", seeding(objectives.span_corruption), "generator"),
    ("learning_rate", lambda s, n, p, w, floor=0.05: None, "is a return missing"),
    ("learning_rate", lambda s, n, p, w, floor=0.1: learning_rate(s, n, p, w, floor), "default"),
    ("learning_rate", lambda s, n, p, w, floor=0.05: learning_rate(s, n - 1, p, w, floor), ""),
    ("learning_rate", lambda s, n, p, w, floor=0.05: learning_rate(s, n, p, w + 1, floor), "late"),
    ("learning_rate", lambda s, n, p, w, floor=0.05: learning_rate(s, n, p, w, p * floor), ""),
    ("learning_rate", lambda s, n, p, w, floor=0.05: -learning_rate(s, n, p, w, floor), "minus"),
    ("learning_rate", lambda s, n, p, w, floor=0.05: learning_rate(s + 1, n, p, w, floor), ""),
    ("learning_rate", lambda s, n, p, w, floor=0.05: str(learning_rate(s, n, p, w)), "a number"),
    ("learning_rate", counting(learning_rate), "a number"),
    ("train_top", lambda parts, count: set(transfer.train_top(parts, count)) and None, "None back"),
    ("train_top", lambda parts, count: iter(transfer.train_top(parts, count)), "return a list"),
    (
        "train_top",
        lambda parts, count: [p.eval() for p in parts] and transfer.train_top(parts, count),
        "eval mode",
    ),
    (
        "train_top",
        lambda parts, count: [p.zero_grad() for p in parts] and transfer.train_top(parts, count),
        "gradients that were there",
    ),
    ("train_top", lambda parts, count: transfer.train_top(list(parts)[::-1], count), "the first"),
    ("train_top", lambda parts, count: transfer.train_top(parts, min(count, 2)), "count"),
    ("train_top", lambda parts, count: transfer.train_top(parts, max(count, 1)), "count of 0"),
    (
        "train_top",
        lambda parts, count: [p.data for p in transfer.train_top(parts, count)],
        "Tensor",
    ),
    ("training_bytes", lambda m: {k: v / 1e6 for k, v in transfer.training_bytes(m).items()}, ""),
    (
        "training_bytes",
        lambda m: {k: str(v) for k, v in transfer.training_bytes(m).items()},
        "number",
    ),
    ("training_bytes", lambda m: transfer.training_bytes(m.requires_grad_(True)), ""),
    ("training_bytes", lambda m: transfer.training_bytes(m.float()), ""),
    ("training_bytes", lambda m: list(transfer.training_bytes(m).values()), "dict"),
    ("training_bytes", lambda m: transfer.training_bytes(m) | {"adam": 0}, "Adam"),
    ("training_bytes", lambda m: (m.eval(), transfer.training_bytes(m))[1], "changed"),
    ("training_bytes", drawing(transfer.training_bytes), "numpy's global generator"),
    ("forgotten", lambda b, a, t: (a.sort(), transfer.forgotten(b, a, t))[1], ""),
    ("forgotten", lambda b, a, t: round(transfer.forgotten(b, a, t), 1), ""),
    ("forgotten", lambda b, a, t: transfer.forgotten(a, b, t), "have changed places"),
    ("forgotten", lambda b, a, t: str(transfer.forgotten(b, a, t)), "a number"),
    ("forgotten", lambda b, a, t: [transfer.forgotten(b, a, t)], "a number"),
    ("forgotten", lambda b, a, t: transfer.forgotten(b, a, t) or None, "return missing"),
    ("forgotten", lambda b, a, t: -transfer.forgotten(b, a, t), ""),
    ("forgotten", rolling(transfer.forgotten), "Python's global generator"),
    ("behind_last", without_gradients(behind), "no_grad"),
    ("behind_last", seeding(behind), "generator"),
    ("behind_last", drawing(behind), "numpy's global generator"),
    ("behind_last", rolling(behind), "Python's global generator"),
    ("behind_last", remembering(behind), "earlier call"),
    ("behind_last", switching(behind), "gradients"),
    ("behind_last", in_double(behind), "float64"),
    ("behind_last", lambda logits, mask: behind(logits, mask).tolist(), "tensor"),
    ("behind_last", lambda logits, mask: behind(logits, mask.bitwise_not_()), ""),
    ("behind_last", lambda logits, mask: behind(logits, mask)[:1], "shape"),
    ("promising", lambda E, g, count: words_to_try(E, g.neg_(), count), "changed"),
    ("promising", seeding(words_to_try), "generator"),
    ("promising", drawing(words_to_try), "numpy's global generator"),
    ("promising", rolling(words_to_try), "Python's global generator"),
    ("promising", remembering(words_to_try), "should be 1 thing, not 3"),
    ("promising", switching(words_to_try), "gradients"),
    ("promising", lambda E, g, count: words_to_try(E, g, 3), ""),
    ("promising", lambda E, g, count: set(words_to_try(E, g, count)), "list"),
    ("promising", lambda E, g, count: words_to_try(E, g, count)[0], "list"),
    ("promising", lambda E, g, count: [str(w) for w in words_to_try(E, g, count)], ""),
]
TRIED = part_of(WRONG, 30)


@pytest.mark.parametrize(
    ("name", "wrong", "words"), TRIED, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(TRIED)]
)
def test_a_wrong_solution_of_every_kind_is_rejected(name, wrong, words):
    said = refused(getattr(checks, name), wrong, words)
    assert "none of the usual mistakes" not in said


def test_there_are_eight_wrong_ones_of_each():
    counts = Counter(name for name, *_ in WRONG)
    counts["prompt_encoder"] += len(WRONG_ENCODERS)
    counts["p_tuning_v2"] += len(WRONG_PREFIXES)
    for name, test in ELSEWHERE.items():
        (cases,) = [mark.args[1] for mark in test.pytestmark if mark.name == "parametrize"]
        counts[name] += len(cases)
    every = [check.name for check in checks.EXERCISES.values() if isinstance(check, Check)]
    assert not [name for name in every if counts[name] < 8]


ELSEWHERE = {  # checks whose wrong solutions stand in a file of their own
    "attention": test_transformer.test_a_wrong_attention_is_told_its_mistake,
    "extend_cache": test_transformer.test_a_wrong_cache_is_told_its_mistake,
    "put_in_front": test_transformer.test_a_wrong_memory_is_told_its_mistake,
    "lora_gradients": test_lora_by_hand.test_a_wrong_gradient_is_told_its_mistake,
    "lora_merge": test_lora_by_hand.test_a_wrong_merge_is_told_its_mistake,
    "similarity": test_similarity.test_a_wrong_similarity_is_told_its_mistake,
    "place_vectors": test_prompt_tuning.test_a_wrong_way_is_told_its_mistake,
    "output_scale": test_small_methods.test_a_wrong_rescaling_is_told,
    "update_averages": test_small_methods.test_a_wrong_update_is_told,
    "vera": test_vera.test_a_wrong_method_is_told_its_mistake,
    "vera_patch": test_vera.test_a_wrong_patch_is_told_its_mistake,
    "pack_prefix": test_checkpoints.test_a_wrong_way_to_pack_is_told_its_mistake,
    "mixed_lora": test_serving.test_a_wrong_way_to_mix_is_told_its_mistake,
    "answer_log_probability": (test_preferences.test_a_wrong_log_probability_is_told_its_mistake),
    "dpo_loss": test_preferences.test_a_wrong_loss_is_told_its_mistake,
    "asked_for": test_museum.test_a_wrong_rule_is_told,
    "pareto_front": test_which_method.test_a_wrong_front_is_told_its_mistake,
    "quantize_blocks": test_memory.test_a_wrong_way_to_four_bits_is_told_its_mistake,
    "prefix_encoder": test_prefix.test_a_wrong_encoder_is_told_its_mistake,
    "gate": test_unipelt.test_a_wrong_gate_is_told_its_mistake,
    "prefix_gradients": test_prefix.test_wrong_gradients_are_told_their_mistake,
}


# -- PromptEncoder ---------------------------------------------------------------------------------


def encoder(forward):
    return type("PromptEncoder", (PromptEncoder,), {"forward": forward})


h = PromptEncoder.forward
WRONG_ENCODERS = [
    (without_gradients(h), "no_grad"),
    (seeding(h), "generator"),
    (drawing(h), "numpy's global generator"),
    (rolling(h), "Python's global generator"),
    (switching(h), "gradients"),
    (in_double(h), "float64"),
    (lambda e: h(e.requires_grad_(False)), "changes the layer"),
    (lambda e: (h(e), e.mlp[0].bias.data.zero_())[0], "changes the layer"),
    (lambda e: h(e).tolist(), "tensor"),
]


@pytest.mark.parametrize(("forward", "words"), WRONG_ENCODERS)
def test_a_wrong_prompt_encoder_of_every_kind_is_rejected(forward, words):
    said = refused(checks.prompt_encoder, encoder(forward), words)
    assert "none of the usual mistakes" not in said


# -- what is kept although the parameters have changed ---------------------------------------------


def keeping(made, method):
    """Keeps each answer with the arguments that led to it, unless random numbers were drawn."""
    original = getattr(made, method)

    def wrong(self, *given, **options):
        key = torch.is_grad_enabled(), repr([str(g) for g in (*given, *options.items())])
        kept = self.__dict__.setdefault("kept", {})
        if key in kept:
            return kept[key]
        state = torch.get_rng_state()
        answer = original(self, *given, **options)
        if torch.equal(state, torch.get_rng_state()):
            kept[key] = answer
        return answer

    return type(made.__name__, (made,), {method: wrong})


class LoRAKeepsItsProduct(LoRAPatch):
    """B A is made once, with its graph, as a merge would."""

    def delta(self):
        if not hasattr(self, "product"):
            self.product = self.B @ self.A
        return self.scale * self.product


class AttentionKeepsItsMaps(MultiHeadAttention):
    """Without gradients one product makes query, key and value; its matrix is put together once."""

    def forward(self, x, context=None, mask=None, causal=False):
        if context is not None or torch.is_grad_enabled() or self.training:
            return super().forward(x, context, mask, causal)
        maps = self.query, self.key, self.value
        if not hasattr(self, "kept"):
            self.kept = torch.cat([m.weight for m in maps]), torch.cat([m.bias for m in maps])
        query, key, value = map(self.split, F.linear(x, *self.kept).chunk(3, -1))
        return self.output(self.join(self.mix(query, key, value, mask, causal)))


KEEPING = [
    ("feed_forward", keeping(tt.FeedForward, "forward")),
    ("attention", keeping(MultiHeadAttention, "split")),
    ("attention", keeping(MultiHeadAttention, "forward")),
    ("attention", AttentionKeepsItsMaps),
    ("block", keeping(tt.Block, "forward")),
    ("adapter", keeping(AdapterPatch, "forward")),
    ("adapter", keeping(AdapterPatch, "change")),
    ("lora", keeping(LoRAPatch, "forward")),
    ("lora", keeping(LoRAPatch, "delta")),
    ("lora", LoRAKeepsItsProduct),
    ("prompt_encoder", keeping(PromptEncoder, "forward")),
    ("prefix_encoder", keeping(PrefixEncoder, "forward")),
]


@pytest.mark.parametrize(("name", "wrong"), KEEPING)
def test_what_was_made_of_the_old_parameters_is_named(name, wrong):
    said = refused(getattr(checks, name), wrong, "kept")
    assert "earlier call" in said or "first call" in said


# -- unusual, and right ----------------------------------------------------------------------------


class FusedAttention(MultiHeadAttention):
    """Heads cut by chunk and joined by cat."""

    def split(self, x):
        return torch.stack(x.chunk(self.heads, dim=-1), dim=1)

    def join(self, heads):
        return torch.cat(heads.unbind(1), dim=-1)


class LoRAByEinsum(LoRAPatch):
    def forward(self, x, y):
        x = self.dropout(x.to(self.B.dtype))
        low = torch.einsum("...i,ri->...r", x, self.A)
        return torch.einsum("...r,or->...o", low * self.scale, self.B).add(y).to(y.dtype)

    def delta(self):
        return sum(torch.outer(b, a) for a, b in zip(self.A, self.B.T, strict=True)) * self.scale


class LoRAByWeights(LoRAPatch):
    """Adds up the contribution of each rank."""

    def forward(self, x, y):
        x = F.dropout(x.to(self.A.dtype), self.dropout.p, self.training)
        parts = [(x @ a)[..., None] * b for a, b in zip(self.A, self.B.T, strict=True)]
        return (y + self.scale * torch.stack(parts).sum(0)).to(y.dtype)


class BlockOfSteps(tt.Block):
    def add(self, x, sublayer, norm):
        read = norm if self.pre_norm else nn.Identity()
        end = nn.Identity() if self.pre_norm else norm
        return end(torch.stack([x, self.dropout(sublayer(read(x)))]).sum(0))


class FeedForwardByEinsum(tt.FeedForward):
    def forward(self, x):
        inner = torch.einsum("btc,ic->bti", x, self.up.weight) + self.up.bias
        return (
            torch.einsum("bti,ci->btc", self.activation(inner), self.down.weight) + self.down.bias
        )


def attend_by_heads(query, key, value, mask=None, dropout=0.0):
    H = query.shape[1]
    mask = None if mask is None else mask.expand(*query.shape[:3], key.shape[2])
    parts = [
        tt.attend(
            *(part[:, h : h + 1] for part in (query, key, value)),
            None if mask is None else mask[:, h : h + 1],
            dropout,
        )
        for h in range(H)
    ]
    heads, weights = zip(*parts, strict=True)
    return torch.cat(heads, 1), torch.cat(weights, 1)


def attend_as_a_list(query, key, value, mask=None, dropout=0.0):
    return list(tt.attend(query, key, value, mask, dropout))


def mask_by_comparison(tokens, keys, like):
    rows = torch.arange(keys - tokens, keys)[:, None]
    late = torch.arange(keys)[None] > rows
    return late.to(like.dtype) * torch.finfo(like.dtype).min


def loss_by_nll(logits, labels):
    if labels is None:
        return None
    return F.nll_loss(logits.float().log_softmax(-1).flatten(0, -2), labels.flatten())


def rate_as_a_fraction(step, steps, peak, warmup, floor=0.05):
    return Fraction(learning_rate(step, steps, peak, warmup, floor))


def rate_of_numpy(step, steps, peak, warmup, floor=0.05):
    rise = np.clip((step + 1) / max(warmup, 1), 0, 1)
    return peak * rise * (floor + (1 - floor) * np.cos(np.pi * step / steps / 2) ** 2)


def bytes_of_numpy(model):
    return {k: np.int64(v) for k, v in transfer.training_bytes(model).items()}


def forgotten_as_a_tensor(before, after, targets):
    return torch.tensor(transfer.forgotten(before, after, targets))


def causal_with_more(ids, tokenizer, generator=None):
    batch = objectives.causal(ids.clone(), tokenizer)
    return {"extra": 1} | {k: v.contiguous() for k, v in batch.items()}


def masked_by_rows(ids, tokenizer, generator=None, corruption_rate=0.15):
    rows = [objectives.masked(row[None], tokenizer, generator, corruption_rate) for row in ids]
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def spans_one_by_one(documents, tokenizer, generator=None, corruption_rate=0.25, mean_span=2.0):
    rows = [
        objectives.span_corruption([d], tokenizer, generator, corruption_rate, mean_span)
        for d in documents
    ]
    sources = [row["input_ids"][0].tolist() for row in rows]
    targets = [row["labels"][0].tolist() for row in rows]
    return objectives.pairs(sources, targets, tokenizer)


def top_by_dict(parts, count):
    return dict.fromkeys(transfer.train_top(parts, count))


RIGHT = [
    ("attend", attend_by_heads),
    ("attend", attend_as_a_list),
    ("attention", FusedAttention),
    ("block", BlockOfSteps),
    ("lora", LoRAByEinsum),
    ("lora", LoRAByWeights),
    ("feed_forward", FeedForwardByEinsum),
    ("causal_mask", mask_by_comparison),
    ("cross_entropy", loss_by_nll),
    ("learning_rate", rate_as_a_fraction),
    ("learning_rate", rate_of_numpy),
    ("training_bytes", bytes_of_numpy),
    ("forgotten", forgotten_as_a_tensor),
    ("causal", causal_with_more),
    ("masked", masked_by_rows),
    ("span_corruption", spans_one_by_one),
    ("train_top", top_by_dict),
]


@pytest.mark.parametrize(("name", "right"), RIGHT, ids=[r.__name__ for _, r in RIGHT])
def test_an_unusual_right_solution_is_accepted(name, right):
    getattr(checks, name)(right)


# -- PTuningV2 -------------------------------------------------------------------------------------

as_prefix = PTuningV2.prefix


def deep(prefix):
    return type("PTuningV2", (PTuningV2,), {"prefix": prefix})


WRONG_PREFIXES = [
    (seeding(as_prefix), "generator"),
    (drawing(as_prefix), "numpy's global generator"),
    (rolling(as_prefix), "Python's global generator"),
    (switching(as_prefix), "gradients"),
    (remembering(as_prefix), "something is kept between calls"),
    (lambda m: asdict(as_prefix(m)), "gives a dict back"),
    (lambda m: [as_prefix(m)], "gives a list back"),
    (lambda m: as_prefix, "gives a function back"),
    (lambda m: replace(as_prefix(m), length=m.length + 1), "length"),
]


@pytest.mark.parametrize(("prefix", "words"), WRONG_PREFIXES)
def test_a_wrong_prefix_of_every_kind_is_rejected(prefix, words):
    refused(checks.p_tuning_v2, deep(prefix), words)
