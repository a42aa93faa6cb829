"""Attention against equation 1 written as loops, against torch's kernel, and against algebra."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from closeness import close
from torch import Tensor

import tiny_transformer as tt
from tiny_transformer.attention import padding_mask

B, H, T, S, D, P = 2, 3, 4, 6, 5, 3
C = H * D


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loops(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    """Equation 1, one query at a time; allowed: (B, T, S) of booleans."""
    heads = torch.zeros_like(query)
    for b, h, t in product(*(range(n) for n in query.shape[:3])):
        seen = [s for s in range(key.shape[2]) if allowed[b, t, s]]
        weights = [(query[b, h, t].dot(key[b, h, s]) / query.shape[-1] ** 0.5).exp() for s in seen]
        for s, weight in zip(seen, weights, strict=True):
            heads[b, h, t] += weight / sum(weights) * value[b, h, s]
    return heads


@torch.no_grad()
def by_hand(attention: tt.Attention, x: Tensor, context: Tensor, allowed: Tensor) -> Tensor:
    """What the whole module should give: the maps, H slices of D columns, loops, the last map."""
    slices = [slice(h * D, (h + 1) * D) for h in range(H)]
    query, key, value = (
        torch.stack([(y @ m.weight.T + m.bias)[:, :, columns] for columns in slices], dim=1)
        for m, y in ((attention.query, x), (attention.key, context), (attention.value, context))
    )  # (B, H, T or S, D)
    heads = loops(query, key, value, allowed)
    joined = torch.cat([heads[:, h] for h in range(H)], dim=-1)  # (B, T, C)
    return joined @ attention.output.weight.T + attention.output.bias


def additive(allowed: Tensor) -> Tensor:
    """(B, T, S) booleans -> (B, 1, T, S) to add to scores."""
    forbidden = torch.finfo(torch.float32).min
    return torch.zeros(allowed.shape).masked_fill(~allowed, forbidden)[:, None]


def module(seed: int = 0) -> tt.Attention:
    torch.manual_seed(seed)
    attention = tt.Attention(C, H).eval()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return attention


CAUSAL = torch.arange(T)[:, None] >= torch.arange(T)[None, :]  # (T, T)
REAL = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])  # (B, T) padding on the left of row 1
SEEN = {  # what a query may look at, by the arguments that say so
    "all": (dict(), torch.ones(B, T, T, dtype=torch.bool)),
    "causal": (dict(causal=True), CAUSAL.expand(B, T, T)),
    "padded": (dict(mask=additive(REAL[:, None].bool())), REAL[:, None].bool().expand(B, T, T)),
    "both": (
        dict(causal=True, mask=additive(REAL[:, None].bool())),
        CAUSAL & REAL[:, None].bool(),
    ),
}


def rows_that_see(allowed: Tensor) -> Tensor:
    """(B, T): queries that may look at something; of the others nothing is claimed."""
    return allowed.any(dim=-1)


def test_attend_is_equation_1():
    query, key, value = (normal(B, H, n, D, seed=i) for i, n in enumerate((T, S, S)))
    allowed = normal(B, T, S, seed=9) > -0.5
    allowed[:, :, 0] = True
    heads, weights = tt.attend(query, key, value, additive(allowed))
    close(heads, loops(query, key, value, allowed))
    close(weights.sum(-1), torch.ones(B, H, T))
    assert (weights.transpose(0, 1)[:, ~allowed] == 0).all()  # exactly nothing on what is hidden


@pytest.mark.parametrize("keep", [True, False], ids=["by hand", "kernel"])
@pytest.mark.parametrize("case", SEEN)
def test_self_attention_is_loops_over_queries(case, keep):
    attention, x = module(), normal(B, T, C, seed=1)
    arguments, allowed = SEEN[case]
    attention.keep_weights = keep
    ours = attention(x, **arguments)
    theirs = by_hand(attention, x, x, allowed)
    see = rows_that_see(allowed)
    close(ours[see], theirs[see])
    if keep:
        assert attention.weights.shape == (B, H, T, T)
        assert not attention.weights.requires_grad
        close(attention.weights.sum(-1), torch.ones(B, H, T))


@pytest.mark.parametrize("keep", [True, False], ids=["by hand", "kernel"])
def test_cross_attention_is_loops_over_queries(keep):
    attention, x, context = module(), normal(B, T, C, seed=1), normal(B, S, C, seed=2)
    allowed = torch.ones(B, T, S, dtype=torch.bool)
    allowed[1, :, 4:] = False
    attention.keep_weights = keep
    ours = attention(x, context, mask=additive(allowed))
    close(ours, by_hand(attention, x, context, allowed))


def test_a_causal_mask_with_a_past_hides_the_future_only():
    mask = tt.causal_mask(2, 5, torch.zeros(1))
    assert (mask == 0).tolist() == [[True, True, True, True, False], [True] * 5]


def test_padding_mask():
    assert padding_mask(None, torch.zeros(1)) is None
    assert padding_mask(torch.ones(B, T), torch.zeros(1)) is None
    mask = padding_mask(REAL, torch.zeros(1))
    assert mask.shape == (B, 1, 1, T)
    assert ((mask[:, 0, 0] == 0) == REAL.bool()).all()


# The memory door


def keys_and_values(attention: tt.Attention, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (B, H, P, D) of some tokens (B, P, C)."""
    return attention.split(attention.key(tokens)), attention.split(attention.value(tokens))


@pytest.mark.parametrize("keep", [True, False], ids=["by hand", "kernel"])
@pytest.mark.parametrize("case", SEEN)
def test_memory_is_attention_over_the_concatenation(case, keep):
    """Memory = keys and values of P tokens: as if these stood before the context, seen by all."""
    attention, x, extra = module(), normal(B, T, C, seed=1), normal(B, P, C, seed=2)
    arguments, allowed = SEEN[case]
    attention.memory = keys_and_values(attention, extra)
    attention.keep_weights = keep
    ours = attention(x, **arguments)
    seen = torch.cat([torch.ones(B, T, P, dtype=torch.bool), allowed], dim=2)
    theirs = by_hand(attention, x, torch.cat([extra, x], dim=1), seen)
    close(ours, theirs)
    if keep:
        assert attention.weights.shape == (B, H, T, P + T)
        close(attention.weights.sum(-1), torch.ones(B, H, T))


def test_memory_in_cross_attention():
    attention, x = module(), normal(B, T, C, seed=1)
    context, extra = normal(B, S, C, seed=2), normal(B, P, C, seed=3)
    allowed = torch.ones(B, T, S, dtype=torch.bool)
    allowed[1, :, 4:] = False
    attention.memory = keys_and_values(attention, extra)
    ours = attention(x, context, mask=additive(allowed))
    seen = torch.cat([torch.ones(B, T, P, dtype=torch.bool), allowed], dim=2)
    theirs = by_hand(attention, x, torch.cat([extra, context], dim=1), seen)
    close(ours, theirs)


@pytest.mark.parametrize("case", SEEN)
def test_he_s_identity(case):
    """He et al. 2022, eq. 5: head = (1 - l) Attn(x) + l Attn(memory), l the memory's share."""
    attention, x = module(), normal(B, T, C, seed=1)
    arguments, allowed = SEEN[case]
    memory = normal(1, H, P, D, seed=4), normal(1, H, P, D, seed=5)
    query = attention.split(attention.query(x))
    key, value = keys_and_values(attention, x)
    mask = additive(allowed)
    scores = query @ key.transpose(-2, -1) / D**0.5 + mask  # (B, H, T, T)
    memory_scores = query @ memory[0].transpose(-2, -1) / D**0.5  # (B, H, T, P)
    gate = torch.sigmoid(memory_scores.logsumexp(-1) - scores.logsumexp(-1))  # (B, H, T)
    gate = gate[..., None]  # (B, H, T, 1)
    of_words, _ = tt.attend(query, key, value, mask)
    of_memory, _ = tt.attend(query, *(part.expand(B, -1, -1, -1) for part in memory))
    heads = (1 - gate) * of_words + gate * of_memory  # (B, H, T, D)
    attention.memory = memory
    ours = attention(x, **arguments)
    close(ours, attention.output(attention.join(heads)))
    # and the same before the output projection, to 1e-6
    full = tt.attend(
        query,
        torch.cat([memory[0].expand(B, -1, -1, -1), key], dim=2),
        torch.cat([memory[1].expand(B, -1, -1, -1), value], dim=2),
        torch.nn.functional.pad(mask, (P, 0)),
    )[0]
    close(full, heads)


def test_memory_of_one_row_serves_the_whole_batch():
    attention, x = module(), normal(B, T, C, seed=1)
    one = normal(1, H, P, D, seed=4), normal(1, H, P, D, seed=5)
    attention.memory = one
    shared = attention(x, causal=True)
    attention.memory = tuple(part.expand(B, -1, -1, -1) for part in one)
    assert torch.equal(shared, attention(x, causal=True))
    attention.memory = None
    assert not torch.allclose(shared, attention(x, causal=True), atol=1e-3)


def test_memory_never_enters_the_cache():
    """With a cache, step by step, the memory is there at each step and is cached at none."""
    attention, x = module(), normal(B, T, C, seed=1)
    attention.memory = normal(1, H, P, D, seed=4), normal(1, H, P, D, seed=5)
    whole = attention(x, causal=True)
    cache: dict = {}
    steps = [attention(x[:, t : t + 1], causal=True, cache=cache) for t in range(T)]
    assert cache["key"].shape == cache["value"].shape == (B, H, T, D)
    close(torch.cat(steps, dim=1), whole)


def test_memory_gets_gradients():
    attention, x = module(), normal(B, T, C, seed=1)
    attention.memory = tuple(normal(1, H, P, D, seed=i).requires_grad_() for i in (4, 5))
    attention(x, causal=True).square().sum().backward()
    assert all(part.grad.abs().max() > 0 for part in attention.memory)


@pytest.mark.parametrize(
    "shape", [(3, H, P, D), (1, H + 1, P, D), (1, H, P, D + 1)], ids=["rows", "heads", "width"]
)
def test_a_memory_of_another_shape_is_refused(shape):
    attention = module()
    attention.memory = torch.zeros(shape), torch.zeros(shape)
    with pytest.raises(ValueError, match="must both be"):
        attention(normal(B, T, C))


# The cache


@pytest.mark.parametrize("pieces", [[1, 1, 1, 1], [3, 1], [1, 3], [2, 2]])
def test_cached_attention_in_pieces_is_attention_at_once(pieces):
    attention, x = module(), normal(B, T, C, seed=1)
    cache, outputs, begin = {}, [], 0
    for length in pieces:
        outputs.append(attention(x[:, begin : begin + length], causal=True, cache=cache))
        begin += length
    whole = attention(x, causal=True)
    close(torch.cat(outputs, dim=1), whole)


def test_cross_attention_reads_its_context_once():
    attention, x, context = module(), normal(B, T, C, seed=1), normal(B, S, C, seed=2)
    cache: dict = {}
    first = attention(x[:, :1], context, cache=cache)
    nonsense = torch.full_like(context, torch.nan)
    rest = attention(x[:, 1:], nonsense, cache=cache)
    whole = attention(x, context)
    close(torch.cat([first, rest], dim=1), whole)


# Odds and ends


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    attention, x = tt.Attention(C, H, dropout=0.5), normal(B, T, C)
    attention.keep_weights = True
    attention.train()(x)
    assert (attention.weights == 0).float().mean() > 0.2
    attention.eval()(x)
    assert (attention.weights > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keep", [True, False], ids=["by hand", "kernel"])
@pytest.mark.parametrize("causal", [True, False])
def test_a_query_that_may_look_nowhere_gives_a_number(dtype, keep, causal):
    attention = module().to(dtype)
    attention.keep_weights = keep
    x = normal(B, T, C).to(dtype).requires_grad_()
    mask = padding_mask(torch.tensor([[0] * T, [1] * T]), x)
    y = attention(x, mask=mask, causal=causal)
    y.sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all()


def test_parameter_count():
    assert sum(p.numel() for p in module().parameters()) == 4 * C**2 + 4 * C
