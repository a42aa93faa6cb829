"""Checks of lesson 01: they take what is right, however it is written, and name what is wrong."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tiny_transformer as tt
from minipeft import checks
from minipeft.course import attention as lesson
from tiny_transformer.attention import MultiHeadAttention
from tiny_transformer.attention import extend_cache as keep_past
from tiny_transformer.attention import put_in_front as memory_first

LOWEST = torch.finfo(torch.float32).min


def refused(check, candidate, words):
    with pytest.raises(checks.CheckFailed) as caught:
        check(candidate)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# -- attend ----------------------------------------------------------------------------------------


def by_einsum(query, key, value, mask=None, dropout=0.0):
    scores = torch.einsum("bhtd,bhsd->bhts", query, key) / query.size(-1) ** 0.5
    weights = torch.softmax(scores if mask is None else scores + mask, dim=3)
    kept = (torch.rand_like(weights) >= dropout).to(weights.dtype) / (1 - dropout)
    return torch.einsum("bhts,bhsd->bhtd", weights * kept, value), weights


def by_exp(query, key, value, mask=None, dropout=0.0):
    """Scaled queries, an own softmax, weights given back before the dropout."""
    scores = (query * query.shape[-1] ** -0.5) @ key.mT
    scores = scores + (0 if mask is None else mask)
    up = (scores - scores.amax(-1, keepdim=True)).exp()
    weights = up / up.sum(-1, keepdim=True)
    return nn.Dropout(dropout)(weights) @ value, weights


@pytest.mark.parametrize("right", [tt.attend, by_einsum, by_exp])
def test_right_equations_pass(right, capsys):
    checks.attend(right)
    assert f"✓ {right.__name__}" in capsys.readouterr().out


def equation(
    scale=lambda D: 1 / math.sqrt(D),
    dim=-1,
    late=None,
    give=lambda heads, weights: (heads, weights),
    mix=lambda weights, key, value: weights @ value,
    join=lambda scores, mask: scores + mask,
    softmax=torch.softmax,
    drop=F.dropout,
    drop_heads=lambda heads, p: heads,
):
    """Equation 1 with one part replaced."""

    def attend(query, key, value, mask=None, dropout=0.0):
        scores = scale(query.shape[-1]) * (query @ key.mT)
        if mask is not None and late is None:
            scores = join(scores, mask)
        weights = softmax(scores, dim)
        if mask is not None and late is not None:
            weights = late(weights, mask)
        weights = drop(weights, dropout)
        return give(drop_heads(mix(weights, key, value), dropout), weights)

    return attend


def swapped(query, key, value, mask=None, dropout=0.0):
    return tt.attend(key, query, value, mask, dropout)


def drop_scores(query, key, value, mask=None, dropout=0.0):
    scores = F.dropout(query @ key.mT / math.sqrt(query.shape[-1]), dropout)
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return weights @ value, weights


def divided_by_root_of(size):
    """The scores are divided by the square root of `size(query)`."""

    def attend(query, key, value, mask=None, dropout=0.0):
        scale = math.sqrt(query.shape[-1] / size(query))
        return tt.attend(query * scale, key, value, mask, dropout)

    return attend


def minus_infinity(scores, mask):
    return torch.where(mask < -1e9, -torch.inf, scores + mask)


WRONG_EQUATIONS = [
    (equation(scale=lambda D: 1), "not scaled: divide them by sqrt(D)"),
    (equation(scale=lambda D: 1 / D), "divided by D, it should be sqrt(D)"),
    (equation(scale=math.sqrt), "multiplied by sqrt(D)"),
    (divided_by_root_of(lambda query: query.shape[1]), "divided by sqrt(H)"),
    (divided_by_root_of(lambda query: query.shape[2]), "divided by sqrt(T)"),
    (divided_by_root_of(lambda q: q.shape[1] * q.shape[-1]), "divided by sqrt(H D)"),
    (equation(dim=-2), "softmax runs over the queries"),
    (equation(dim=1), "softmax runs over the heads"),
    (equation(softmax=lambda scores, dim: scores), "the softmax is missing"),
    (equation(mix=lambda w, key, value: w @ key), "should mix the values"),
    (equation(give=lambda heads, weights: (weights, heads)), "changed places: return heads"),
    (equation(give=lambda heads, weights: heads), "two tensors"),
    (swapped, "query and key have changed places"),
    (equation(late=lambda w, mask: w + mask), "added after the softmax"),
    (equation(late=lambda w, mask: w.masked_fill(mask < -1e9, 0)), "cut out after the softmax"),
    (equation(late=lambda w, mask: w), "mask is ignored"),
    (equation(join=lambda s, mask: s * mask), "multiplied with the scores"),
    (equation(join=lambda s, mask: s.masked_fill(mask < -1e9, LOWEST)), "read as yes or no"),
    (equation(join=minus_infinity), "gives NaN"),
    (equation(drop=lambda w, p: w), "dropout changes nothing"),
    (drop_scores, "dropout changes nothing"),
    (equation(drop=lambda w, p: w, drop_heads=F.dropout), "dropout falls on the heads"),
    (equation(drop=lambda w, p: w * (torch.rand_like(w) >= p)), "divided by 1 - dropout"),
    (torch.no_grad()(tt.attend), "does not require grad"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG_EQUATIONS)
def test_a_wrong_equation_is_told_its_mistake(wrong, words):
    refused(checks.attend, wrong, words)


# -- causal_mask -----------------------------------------------------------------------------------


def by_tril(tokens, keys, like):
    past = torch.ones(tokens, keys).tril(keys - tokens).bool()
    return torch.where(past, like.new_zeros(()), torch.finfo(like.dtype).min)


def by_loop(tokens, keys, like):
    mask = like.new_zeros(tokens, keys)
    for i in range(tokens):
        mask[i, keys - tokens + i + 1 :] = torch.finfo(like.dtype).min / 2
    return mask


@pytest.mark.parametrize("right", [tt.causal_mask, by_tril, by_loop])
def test_right_masks_pass(right):
    checks.causal_mask(right)


def above(shift, forbidden=LOWEST, aligned=True):
    """Forbid what lies `shift` above the diagonal."""

    def causal_mask(tokens, keys, like):
        ahead = torch.ones(tokens, keys).triu(shift + (keys - tokens if aligned else 0)).bool()
        return torch.zeros(tokens, keys, dtype=like.dtype).masked_fill(ahead, forbidden)

    return causal_mask


WRONG_MASKS = [
    (above(2), "sees the token after it"),
    (above(0), "does not see its own token"),
    (above(99), "the future is open"),
    (above(1, aligned=False), "the last query stands at the last key"),
    (lambda T, S, like: by_tril(T, S, like).mT if T == S else None, "upside down"),
    (lambda T, S, like: torch.ones(T, S).triu(1 + S - T).bool(), "True and False"),
    (lambda T, S, like: torch.ones(T, S).tril(S - T), "positive numbers"),
    (above(1, -torch.inf), "minus infinity"),
    (above(1, -1e4), "is too weak"),
    (above(1, -1e9), "too large for torch.float16"),
    (lambda T, S, like: by_tril(T, S, torch.zeros(1)), "give it the dtype of `like`"),
    (lambda T, S, like: tt.causal_mask(S, T, like), "it should be (2, 5)"),
    (lambda T, S, like: None, "is a return missing"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG_MASKS)
def test_a_wrong_mask_is_told_its_mistake(wrong, words):
    refused(checks.causal_mask, wrong, words)


# -- MultiHeadAttention ----------------------------------------------------------------------------


class OwnAttention(nn.Module):
    """Another correct solution: one einsum, its own masks. The wrong ones change one thing each."""

    def __init__(self, width, heads, dropout=0.0):
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        for name in ("query", "key", "value", "output"):
            setattr(self, name, nn.Linear(width, width))

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).permute(0, 2, 1, 3)

    def join(self, heads):
        return heads.permute(0, 2, 1, 3).flatten(2)

    def score(self, query, key):
        return torch.einsum("bhtd,bhsd->bhts", query, key) / query.shape[-1] ** 0.5

    def hide(self, scores, mask, causal):
        T, S = scores.shape[-2:]
        if causal:
            ahead = torch.ones(T, S, dtype=torch.bool).triu(S - T + 1)
            scores = scores.masked_fill(ahead, torch.finfo(scores.dtype).min)
        if mask is None:
            return scores
        return (scores + mask).clamp(min=torch.finfo(scores.dtype).min)

    def sources(self, x, context):
        source = x if context is None else context
        return x, source, source

    def made(self, key, value):
        return key, value

    def forward(self, x, context=None, mask=None, causal=False):
        parts = zip((self.query, self.key, self.value), self.sources(x, context), strict=True)
        query, key, value = (self.split(layer(source)) for layer, source in parts)
        key, value = self.made(key, value)
        scores = self.hide(self.score(query, key), mask, causal)
        return self.output(self.join(self.dropout(scores.softmax(dim=-1)) @ value))


class WithEquation(MultiHeadAttention):
    """The package's, but always by the equation."""

    def mix(self, query, key, value, mask, causal):
        if causal:
            ahead = tt.causal_mask(query.shape[2], key.shape[2], query)
            mask = ahead if mask is None else torch.minimum(mask, ahead)
        return tt.attend(query, key, value, mask, self.dropout if self.training else 0.0)[0]


@pytest.mark.parametrize("right", [MultiHeadAttention, tt.Attention, OwnAttention, WithEquation])
def test_right_attentions_pass(right):
    checks.attention(right)


class ViewSplit(OwnAttention):
    def split(self, x):
        return x.reshape(x.shape[0], self.heads, x.shape[1], -1)


class NoTranspose(OwnAttention):
    def split(self, x):
        return x.unflatten(-1, (self.heads, -1))


class Interleaved(OwnAttention):
    def split(self, x):
        return x.unflatten(-1, (-1, self.heads)).permute(0, 3, 1, 2)


class FlatJoin(OwnAttention):
    def join(self, heads):
        return heads.reshape(heads.shape[0], heads.shape[2], -1)


class NoOutput(OwnAttention):
    def forward(self, *given, **options):
        y = super().forward(*given, **options)
        return (y - self.output.bias) @ torch.linalg.inv(self.output.weight).T


class KeyIsValue(OwnAttention):
    def made(self, key, value):
        return value, key


class ScaledByWidth(OwnAttention):
    def score(self, query, key):
        return query @ key.mT / (self.heads * query.shape[-1]) ** 0.5


class NotScaled(OwnAttention):
    def score(self, query, key):
        return query @ key.mT


class NeverCausal(OwnAttention):
    def hide(self, scores, mask, causal):
        return super().hide(scores, mask, False)


class SeesNext(OwnAttention):
    def hide(self, scores, mask, causal):
        if not causal:
            return super().hide(scores, mask, causal)
        T, S = scores.shape[-2:]
        return scores.masked_fill(torch.ones(T, S, dtype=torch.bool).triu(S - T + 2), LOWEST)


class NotItself(OwnAttention):
    def hide(self, scores, mask, causal):
        if not causal:
            return super().hide(scores, mask, causal)
        T, S = scores.shape[-2:]
        return scores.masked_fill(torch.ones(T, S, dtype=torch.bool).triu(S - T), LOWEST)


class NoMask(OwnAttention):
    def hide(self, scores, mask, causal):
        return super().hide(scores, None, causal)


class MaskOrCausal(OwnAttention):
    def hide(self, scores, mask, causal):
        return super().hide(scores, mask, causal and mask is None)


class NoContext(OwnAttention):
    def sources(self, x, context):
        return x, x, x


class QueryFromContext(OwnAttention):
    def sources(self, x, context):
        source = x if context is None else context
        return source, source, source


class ValueFromX(OwnAttention):
    def sources(self, x, context):
        same_length = context is not None and context.shape == x.shape
        return (
            x,
            x if context is None else context,
            x if same_length else super().sources(x, context)[2],
        )


class ValueAlwaysFromX(OwnAttention):
    def sources(self, x, context):
        return *super().sources(x, context)[:2], x


class AddsX(OwnAttention):
    def forward(self, x, context=None, mask=None, causal=False):
        return x + super().forward(x, context, mask, causal)


class KeyAlwaysFromX(OwnAttention):
    def sources(self, x, context):
        return x, x, super().sources(x, context)[2]


class DropoutInEval(OwnAttention):
    def eval(self):
        super().eval()
        self.dropout.train()
        return self


class NeverDropout(OwnAttention):
    def __init__(self, width, heads, dropout=0.0):
        super().__init__(width, heads, 0.0)


WRONG_ATTENTIONS = [
    (ViewSplit, "parts of other tokens"),
    (NoTranspose, "stops at (B, T, H, D)"),
    (Interleaved, "deals the numbers out in turn"),
    (FlatJoin, "join reshapes (B, H, T, D) directly"),
    (NoOutput, "the last linear map is missing"),
    (KeyIsValue, "key and value have changed places"),
    (ScaledByWidth, "divided by sqrt(C)"),
    (NotScaled, "not scaled"),
    (NeverCausal, "causal=True is ignored"),
    (SeesNext, "a token sees a token of its future"),
    (NotItself, "does not see itself"),
    (NoMask, "the mask is ignored"),
    (MaskOrCausal, "with a mask causal=True is ignored"),
    (NoContext, "the context is ignored"),
    (QueryFromContext, "queries come from x"),
    (ValueFromX, "the value is made from x"),
    (ValueAlwaysFromX, "the value is made from x"),
    (AddsX, "the block adds it to the stream"),
    (KeyAlwaysFromX, "the key is made from x"),
    (DropoutInEval, "stays on in eval mode"),
    (NeverDropout, "never applied in training"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG_ATTENTIONS)
def test_a_wrong_attention_is_told_its_mistake(wrong, words):
    refused(checks.attention, wrong, words)


# -- extend_cache ----------------------------------------------------------------------------------


def by_names(cache, key, value):
    for name, new in (("key", key), ("value", value)):
        cache[name] = torch.cat([cache[name], new], 2) if name in cache else new
    return cache["key"], cache["value"]


def in_one_tensor(cache, key, value):
    """Both in one tensor, (2, B, H, T, D)."""
    both = torch.stack([key, value])
    both = both if not cache else torch.cat([cache["both"], both], dim=3)
    cache["both"] = both
    cache["key"], cache["value"] = both
    return [both[0], both[1]]


def with_zero_past(cache, key, value):
    before = cache.get("key", key[:, :, :0]), cache.get("value", value[:, :, :0])
    cache.update(
        key=torch.cat([before[0], key], dim=-2), value=torch.cat([before[1], value], dim=-2)
    )
    return cache["key"], cache["value"]


@pytest.mark.parametrize("right", [keep_past, by_names, in_one_tensor, with_zero_past])
def test_right_caches_pass(right):
    checks.extend_cache(right)


def caching(join=lambda old, new: torch.cat([old, new], dim=2), keep=None, give=None):
    """A cache with one part replaced."""

    def extend_cache(cache, key, value):
        new = key, value
        if cache:
            key, value = join(cache["key"], key), join(cache["value"], value)
        cache["key"], cache["value"] = (key, value) if keep is None else keep(new, (key, value))
        return (key, value) if give is None else give(new, (key, value))

    return extend_cache


def only_the_first(cache, key, value):
    both = keep_past(dict(cache), key, value)
    cache.setdefault("key", key), cache.setdefault("value", value)
    return both


def value_left_alone(cache, key, value):
    key, _ = keep_past(cache, key, value)
    cache["value"] = value
    return key, value


def keeps(*names):
    """A cache that keeps these of key and value only."""

    def extend_cache(cache, key, value):
        if cache:
            key = torch.cat([cache["key"], key], dim=2)
            value = torch.cat([cache["value"], value], dim=2)
        cache.update({name: {"key": key, "value": value}[name] for name in names})
        return key, value

    return extend_cache


WRONG_CACHES = [
    (keeps("key"), "keeps no values"),
    (keeps("value"), "keeps no keys"),
    (lambda cache, key, value: (key, value), "the cache stays empty"),
    (lambda cache, key, value: keep_past({}, key, value), "the cache stays empty"),
    (lambda cache, key, value: keep_past(cache, key, value) and None, "is a return missing"),
    (lambda cache, key, value: keep_past(cache, key, value)[0], "should return two tensors"),
    (caching(join=lambda old, new: new), "filled but not read"),
    (caching(join=lambda old, new: torch.cat([new, old], dim=2)), "put the past first"),
    (caching(keep=lambda new, all_: new), "keeps the new tokens only"),
    (only_the_first, "keeps the first step only"),
    (value_left_alone, "cached values are not put before"),
    (caching(give=lambda new, all_: new), "only the new tokens are given back"),
    (caching(give=lambda new, all_: all_[::-1]), "return the keys first"),
    (caching(keep=lambda new, all_: all_[::-1]), "changed places in the cache"),
    (caching(keep=lambda new, all_: [x.detach() for x in all_]), "cut off from the graph"),
    (caching(join=lambda old, new: torch.cat([old, new], dim=1)), "along the heads"),
    (caching(join=lambda old, new: torch.cat([old, new], dim=-1)), "along the last axis"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG_CACHES)
def test_a_wrong_cache_is_told_its_mistake(wrong, words):
    refused(checks.extend_cache, wrong, words)


# -- put_in_front ----------------------------------------------------------------------------------


def by_repeat(memory, key, value, mask=None):
    times = len(key) // len(memory[0])
    key, value = (
        torch.cat([front.repeat(times, 1, 1, 1), some], dim=-2)
        for front, some in zip(memory, (key, value), strict=True)
    )
    if mask is None:
        return key, value, None
    zeros = mask.new_zeros(*mask.shape[:-1], memory[0].shape[-2])
    return key, value, torch.cat([zeros, mask], dim=-1)


def by_copying(memory, key, value, mask=None):
    """Writes into fresh tensors."""
    P, S = memory[0].shape[2], key.shape[2]
    both = []
    for front, some in zip(memory, (key, value), strict=True):
        whole = some.new_zeros(*some.shape[:2], P + S, some.shape[3])
        whole[:, :, :P], whole[:, :, P:] = front, some
        both.append(whole)
    if mask is not None:
        long = mask.new_zeros(*mask.shape[:3], P + S)
        long[..., P:] = mask
        mask = long
    return [*both, mask]


def by_rows(memory, key, value, mask=None):
    """One row of the batch after the other."""
    rows = range(len(key))
    pick = lambda part, b: part[b if len(part) > 1 else 0]  # noqa: E731
    both = [
        torch.stack([torch.cat([pick(front, b), some[b]], dim=1) for b in rows])
        for front, some in zip(memory, (key, value), strict=True)
    ]
    return *both, None if mask is None else F.pad(mask, [memory[0].shape[2], 0], value=0.0)


@pytest.mark.parametrize("right", [memory_first, by_repeat, by_copying, by_rows])
def test_right_memories_pass(right):
    checks.put_in_front(right)


def in_front(
    order=lambda front, some: [front, some],
    pad=lambda mask, P: F.pad(mask, (P, 0)),
    swap=False,
    change=lambda front: front,
):
    """A memory with one part replaced."""

    def put_in_front(memory, key, value, mask=None):
        keys, values = memory[::-1] if swap else memory
        keys, values = (change(part).expand(len(key), -1, -1, -1) for part in (keys, values))
        mask = None if mask is None else pad(mask, keys.shape[2])
        key, value = torch.cat(order(keys, key), 2), torch.cat(order(values, value), 2)
        return key, value, mask

    return put_in_front


def not_expanded(memory, key, value, mask=None):
    key, value = torch.cat([memory[0], key], 2), torch.cat([memory[1], value], 2)
    return key, value, None if mask is None else F.pad(mask, (memory[0].shape[2], 0))


def makes_a_mask(memory, key, value, mask=None):
    mask = key.new_zeros(1, 1, 1, key.shape[2]) if mask is None else mask
    return memory_first(memory, key, value, mask)


def keys_only(memory, key, value, mask=None):
    long, _, mask = memory_first(memory, key, value, mask)
    return long, value, mask


def repeated(memory, key, value, mask=None):
    front, behind = (part.repeat(len(key), 1, 1, 1) for part in memory)
    mask = None if mask is None else F.pad(mask, (front.shape[2], 0))
    return torch.cat([front, key], dim=2), torch.cat([behind, value], dim=2), mask


WRONG_MEMORIES = [
    (repeated, "has B rows already"),
    (in_front(pad=lambda mask, P: F.pad(mask, (0, 0, P, 0))), "along the queries"),
    (lambda memory, key, value, mask=None: (key, value, mask), "the memory is ignored"),
    (in_front(order=lambda front, some: [some, front]), "stands behind the tokens"),
    (
        in_front(order=lambda front, some: [some, front], pad=lambda mask, P: F.pad(mask, (0, P))),
        "stands behind the tokens",
    ),
    (in_front(order=lambda front, some: [front]), "the tokens are gone"),
    (in_front(pad=lambda mask, P: F.pad(mask, (0, P))), "lengthened at its end"),
    (in_front(pad=lambda mask, P: F.pad(mask, (P, 0), value=1)), "0 means may look"),
    (in_front(pad=lambda mask, P: F.pad(mask, (P, 0), value=LOWEST)), "closes the memory"),
    (in_front(pad=lambda mask, P: mask), "P places more"),
    (in_front(pad=lambda mask, P: None), "is thrown away"),
    (in_front(swap=True), "changed places: the keys come first"),
    (in_front(change=torch.Tensor.detach), "nothing could train it"),
    (keys_only, "values of the memory are missing"),
    (makes_a_mask, "None hides nothing"),
    (not_expanded, "expand it to B rows"),
    (lambda memory, key, value, mask=None: None, "is a return missing"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG_MEMORIES)
def test_a_wrong_memory_is_told_its_mistake(wrong, words):
    refused(checks.put_in_front, wrong, words)


# -- numbers and diagnoses -------------------------------------------------------------------------

COSTS = {"without": 5950, "with": 109, "kept": 2_009_088}


def test_the_costs_are_those_of_a_decoder_that_writes():
    torch.manual_seed(0)
    small = {"vocab_size": 20, "width": 8, "heads": 2, "layers": 3, "positions": 128}
    model = tt.Decoder(tt.TransformerConfig.gpt2(**small)).eval()
    prompt = torch.randint(20, (1, 10))
    for name, use_cache in (("without", False), ("with", True)):
        text, tokens, _ = lesson.writing(model, prompt, 100, use_cache, repeats=1)
        assert tokens == COSTS[name] and text.shape == (1, 110)
    cache = []
    with torch.no_grad():
        model(text[:, :-1], cache=cache)
    kept = sum(part.numel() for layer in cache for part in layer["self"].values())
    assert kept * (768 // 8) * (12 // 3) == COSTS["kept"]


def test_right_costs_pass_in_any_form():
    checks.cache_costs(COSTS)
    checks.cache_costs({name: float(value) for name, value in COSTS.items()})
    checks.cache_costs({name: torch.tensor(value) for name, value in COSTS.items()} | {"n": 100})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"without": 1000}, "without: the text grows"),
        ({"without": 6050}, "the last word is written and not read again"),
        ({"without": 109}, "runs the whole text"),
        ({"without": 4950}, "the prompt goes through at every step"),
        ({"without": 12 * 5950}, "not once in each block"),
        ({"with": 12 * 109}, "not once in each block"),
        ({"with": 110}, "not read again"),
        ({"with": 100}, "the prompt goes through once"),
        ({"kept": 2 * 768 * 109}, "one layer"),
        ({"kept": 12 * 768 * 109}, "twice as many"),
        ({"kept": 8_036_352}, "bytes in float32"),
        ({"kept": 3 * 12 * 768 * 109}, "queries of earlier tokens"),
        ({"kept": 7}, "too small"),
        ({"with": None}, "cache_costs"),
    ],
)
def test_wrong_costs_are_told_where_they_come_from(changed, words):
    refused(checks.cache_costs, COSTS | changed, words)


def test_a_missing_cost_is_asked_for():
    refused(checks.cache_costs, {"without": 5950, "with": 109}, "has no kept")


def test_every_patient_is_what_its_picture_says():
    maps = lesson.patients()
    T = len(maps["A"])
    past, every = torch.ones(T, T).tril().bool(), torch.ones(T, T).bool()
    assert torch.equal(maps["C"], past)
    assert torch.equal(maps["A"], torch.ones(T, T).tril(1).bool())
    assert torch.equal(maps["D"], torch.ones(T, T).triu().bool())
    assert torch.equal(maps["E"], every)
    for regular in (past, every, maps["A"], maps["D"]):
        assert not torch.equal(maps["B"], regular)
    assert (maps["B"] & ~past).any() and (~maps["B"]).any()


def test_every_wrong_diagnosis_is_told_what_speaks_against_it():
    checks.seeing_patients(dict(lesson.PATIENTS))
    checks.seeing_patients({who: cause.upper() for who, cause in lesson.PATIENTS.items()})
    wrong = 0
    for who, right in lesson.PATIENTS.items():
        for cause in lesson.PATIENTS.values():
            if cause != right:
                refused(checks.seeing_patients, dict(lesson.PATIENTS) | {who: cause}, f"{who} is")
                wrong += 1
    assert wrong == 20
    refused(checks.seeing_patients, {"A": "off by one"}, "seeing_patients has no B")


def test_families_see_what_their_names_promise():
    maps = lesson.families()
    assert maps["encoder"].all()
    assert torch.equal(maps["decoder"], torch.ones(6, 6).tril().bool())
    assert maps["encoder-decoder"][:, :6].all()
    assert torch.equal(maps["encoder-decoder"][:, 6:], torch.ones(5, 5).tril().bool())


# -- FeedForward -----------------------------------------------------------------------------------


class Plain(nn.Module):
    """Another correct solution, with matrices; the wrong ones below change one thing each."""

    phi = {"relu": F.relu, "gelu": F.gelu, "gelu_tanh": lambda h: F.gelu(h, approximate="tanh")}

    def __init__(self, width, inner, activation="gelu_tanh"):
        super().__init__()
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.activation = self.phi[activation]

    def forward(self, x):
        inner = self.activation(x @ self.up.weight.T + self.up.bias)
        return inner @ self.down.weight.T + self.down.bias


class TokenByToken(Plain):
    """Another: the same maps, one token after the other."""

    def forward(self, x):
        rows = [self.down(self.activation(self.up(x[:, t]))) for t in range(x.shape[1])]
        return torch.stack(rows, dim=1)


@pytest.mark.parametrize("right", [tt.FeedForward, Plain, TokenByToken])
def test_right_layers_pass(right):
    checks.feed_forward(right)


def layer(answer):
    """A FeedForward whose forward is `answer(self, x)`."""
    return type("FeedForward", (Plain,), {"forward": answer})


WRONG_LAYERS = [
    (layer(lambda self, x: self.down(self.up(x))), "the activation is missing"),
    (layer(lambda self, x: self.activation(self.down(self.up(x)))), "comes after down"),
    (layer(lambda self, x: self.activation(Plain.forward(self, x))), "after down too"),
    (layer(lambda self, x: self.down(self.up(self.activation(x)))), "comes before up"),
    (layer(lambda self, x: x + Plain.forward(self, x)), "the block adds it"),
    (layer(lambda self, x: self.up(self.activation(self.down(x)))), "changed places"),
    (layer(lambda self, x: self.down(F.relu(self.up(x)))), "always relu"),
    (layer(lambda self, x: self.activation(self.up(x))), "down is missing"),
    (
        layer(lambda self, x: self.activation(x @ self.up.weight.T) @ self.down.weight.T),
        "biases are missing",
    ),
    (layer(lambda self, x: None), "is a return missing"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG_LAYERS)
def test_a_wrong_layer_is_told_its_mistake(wrong, words):
    refused(checks.feed_forward, wrong, words)


# -- Block -----------------------------------------------------------------------------------------


class InOneGo(tt.Block):
    """Another correct solution: no helper, both kinds written out."""

    def forward(self, x, mask=None, causal=False, context=None, context_mask=None, cache=None):
        sublayers = [(self.attention, self.attention_norm, (None, mask, causal), "own")]
        if context is not None:
            given = context, context_mask, False
            sublayers += [(self.cross_attention, self.cross_attention_norm, given, "read")]
        sublayers += [(self.feed_forward, self.feed_forward_norm, (), None)]
        for sublayer, norm, given, name in sublayers:
            h = norm(x) if self.pre_norm else x
            options = {} if name is None or cache is None else {"cache": cache.setdefault(name, {})}
            x = x + self.dropout(sublayer(h, *given, **options))
            x = x if self.pre_norm else norm(x)
        return x


class Renormed(tt.Block):
    """Another: the two kinds as two methods."""

    def add(self, x, sublayer, norm):
        return self.before(x, sublayer, norm) if self.pre_norm else self.after(x, sublayer, norm)

    def before(self, x, sublayer, norm):
        return torch.add(self.dropout(sublayer(norm(x))), x)

    def after(self, x, sublayer, norm):
        return norm(torch.add(self.dropout(sublayer(x)), x))


@pytest.mark.parametrize("right", [tt.Block, InOneGo, Renormed])
def test_right_blocks_pass(right):
    checks.block(right)


def adding(answer):
    """A Block whose add is `answer(self, x, sublayer, norm)`."""
    return type("Block", (tt.Block,), {"add": answer})


class AlwaysPre(tt.Block):
    def add(self, x, sublayer, norm):
        return x + self.dropout(sublayer(norm(x)))


class AlwaysPost(tt.Block):
    def add(self, x, sublayer, norm):
        return norm(x + self.dropout(sublayer(x)))


class Changed(tt.Block):
    """forward of the package with its order and arguments as class attributes."""

    order = ("own", "read", "think")
    norms = {}
    self_mask = cross_mask = "right"
    hand_causal, cross_causal, share_cache, fresh_cache, parallel = True, False, False, False, False
    always_cache = False

    def forward(self, x, mask=None, causal=False, context=None, context_mask=None, cache=None):
        first = x
        if self.always_cache and cache is None:
            cache = {}

        def place(name):
            if cache is None:
                return None
            if self.fresh_cache:
                return {}
            return cache.setdefault("one" if self.share_cache else name, {})

        masks = {"right": mask, "swapped": context_mask, "none": None}
        cross = {"right": context_mask, "swapped": mask, "none": None}
        steps = {
            "own": lambda h: self.attention(
                h, None, masks[self.self_mask], causal and self.hand_causal, place("own")
            ),
            "read": lambda h: self.cross_attention(
                h, context, cross[self.cross_mask], self.cross_causal, place("read")
            ),
            "think": self.feed_forward,
        }
        norms = {"own": "attention_norm", "read": "cross_attention_norm"} | {
            "think": "feed_forward_norm"
        }
        for name in self.order:
            if name == "read" and context is None:
                continue
            norm = getattr(self, self.norms.get(name, norms[name]))
            if self.parallel and name == "think":
                x = x + self.add(first, steps[name], norm) - first
            else:
                x = self.add(x, steps[name], norm)
        return x


class LooksIntoNone(tt.Block):
    def forward(self, x, mask=None, causal=False, context=None, context_mask=None, cache=None):
        kept = cache.setdefault("self", {})
        x = self.add(x, lambda h: self.attention(h, None, mask, causal, kept), self.attention_norm)
        return self.add(x, self.feed_forward, self.feed_forward_norm)


class AlwaysReads(tt.Block):
    def forward(self, x, mask=None, causal=False, context=None, context_mask=None, cache=None):
        cache = {} if cache is None else cache
        kept, read = cache.setdefault("self", {}), cache.setdefault("cross", {})
        x = self.add(x, lambda h: self.attention(h, None, mask, causal, kept), self.attention_norm)
        x = self.add(
            x,
            lambda h: self.cross_attention(h, context, context_mask, cache=read),
            self.cross_attention_norm,
        )
        return self.add(x, self.feed_forward, self.feed_forward_norm)


def changed(**what):
    return type("Block", (Changed,), what)


def test_the_changed_block_is_right_when_nothing_is_changed():
    checks.block(Changed)


WRONG_BLOCKS = [
    (AlwaysPre, "the block is post-norm, but"),
    (AlwaysPost, "the block is pre-norm, but"),
    (LooksIntoNone, "without a cache (None) there is no dict"),
    (AlwaysReads, "only where there is a context"),
    (adding(lambda self, x, f, norm: f(norm(x))), "the residual is missing"),
    (adding(lambda self, x, f, norm: norm(x) + f(norm(x))), "falls on the residual too"),
    (adding(lambda self, x, f, norm: x + f(x)), "the norms are missing"),
    (adding(lambda self, x, f, norm: x + norm(f(x))), "neither pre- nor post-norm"),
    (changed(order=("think", "own", "read")), "attention is first"),
    (changed(norms={"think": "attention_norm"}), "both sublayers use attention_norm"),
    (changed(norms={"own": "feed_forward_norm"}), "both sublayers use feed_forward_norm"),
    (changed(order=("own", "read")), "the feed-forward layer is missing"),
    (changed(parallel=True), "read the stream after attention"),
    (changed(order=("own", "think")), "cross-attention is missing"),
    (changed(order=("own", "think", "read")), "cross-attention comes last"),
    (changed(order=("read", "own", "think")), "comes before self-attention"),
    (changed(self_mask="swapped"), "self-attention gets the mask of the context"),
    (changed(self_mask="none"), "the mask does not reach self-attention"),
    (changed(hand_causal=False), "causal does not reach"),
    (changed(cross_mask="swapped"), "cross-attention gets the mask of the tokens"),
    (changed(cross_mask="none"), "context_mask does not reach"),
    (changed(cross_causal=True), "cross-attention is causal"),
    (changed(share_cache=True), "share one cache"),
    (changed(fresh_cache=True), "gets a fresh cache"),
    (changed(always_cache=True), "without a cache attention gets one"),
    (
        adding(lambda self, x, f, n: x + f(n(x)) if self.pre_norm else n(x + f(x))),
        "never applied in training",
    ),
    (
        adding(
            lambda self, x, f, n: (
                self.dropout(x + f(n(x))) if self.pre_norm else n(self.dropout(x + f(x)))
            )
        ),
        "dropout falls on the residual",
    ),
    (
        adding(
            lambda self, x, f, n: (
                x + F.dropout(f(n(x)), self.dropout.p)
                if self.pre_norm
                else n(x + F.dropout(f(x), self.dropout.p))
            )
        ),
        "stays on in eval mode",
    ),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG_BLOCKS)
def test_a_wrong_block_is_told_its_mistake(wrong, words):
    refused(checks.block, wrong, words)


def test_a_block_can_be_right_while_its_attention_is_not_written_yet(monkeypatch):
    def forward(self, *given, **options):
        raise NotImplementedError("Attention.forward is yours to write")

    monkeypatch.setattr(tt.Attention, "forward", forward)
    checks.block(tt.Block)
