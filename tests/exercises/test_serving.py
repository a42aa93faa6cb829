"""The exercises of lesson 17: right and wrong answers, and what each wrong one is told."""

from __future__ import annotations

from fractions import Fraction

import diagnoses
import numpy
import pytest
import torch
from torch.nn import functional as F

import minipeft as mp
import tiny_transformer as tt
from minipeft import checks
from minipeft.checks.exercises import serving_costs as costs
from minipeft.checks.exercises.server_patients import HINTS
from minipeft.course import serving_patients
from minipeft.course.serving import mixed_lora
from minipeft.course.serving_patients import CAUSES, SERVERS


def refused(check, candidate, words):
    with pytest.raises(checks.CheckFailed) as caught:
        check(candidate)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# -- mixed_lora ------------------------------------------------------------------------------------


def row_by_row(x, y, A, B, who, scale):
    rows = []
    for i, a in enumerate(who.tolist()):
        rows.append(y[i] if a < 0 else y[i] + scale * x[i] @ (B[a] @ A[a]).T)
    return torch.stack(rows)


def adapter_by_adapter(x, y, A, B, who, scale):
    for a in range(len(A)):
        rows = (who == a).nonzero().flatten()
        y = y.index_add(0, rows, scale * x[rows] @ A[a].T @ B[a].T)
    return y.clone()


def adapter_of_zeros(x, y, A, B, who, scale):
    """-1 counts from the end: there stands an adapter that does nothing."""
    A, B = F.pad(A, (0, 0, 0, 0, 0, 1)), F.pad(B, (0, 0, 0, 0, 0, 1))
    return y + scale * torch.einsum("bti,bri,bor->bto", x, A[who], B[who])


def by_one_hot(x, y, A, B, who, scale):
    hot = (who[:, None] == torch.arange(len(A))).to(x.dtype)  # (R, N)
    return y + scale * torch.einsum("rn,noi,rti->rto", hot, B @ A, x)


def by_where(x, y, A, B, who, scale):
    chosen = who.clamp(min=0)
    detour = torch.bmm(torch.bmm(x, A[chosen].transpose(1, 2)), B[chosen].transpose(1, 2)) * scale
    return torch.where((who < 0)[:, None, None], y, y + detour)


def by_baddbmm(x, y, A, B, who, scale):
    hidden = (x @ A[who.clamp(min=0)].mT) * (who >= 0)[:, None, None]
    return torch.baddbmm(y, hidden, B[who.clamp(min=0)].mT, alpha=scale)


def by_index_add(x, y, A, B, who, scale):
    rows = (who >= 0).nonzero()[:, 0]
    return y.index_add(0, rows, scale * x[rows] @ A[who[rows]].mT @ B[who[rows]].mT)


@pytest.mark.parametrize(
    "right",
    [
        by_baddbmm,
        by_index_add,
        mixed_lora,
        row_by_row,
        adapter_by_adapter,
        adapter_of_zeros,
        by_one_hot,
        by_where,
    ],
)
def test_every_way_to_mix_passes(right, capsys):
    checks.mixed_lora(right)
    assert "✓" in capsys.readouterr().out


def minus_one_is_last(x, y, A, B, who, scale):
    return y + scale * (x @ A[who].mT) @ B[who].mT


def zero_is_nobody(x, y, A, B, who, scale):
    return row_by_row(x, y, A, B, torch.where(who > 0, who, -1), scale)


def by_row_number(x, y, A, B, who, scale):
    numbers = torch.arange(int((who >= 0).sum())) % len(A)
    return row_by_row(x, y, A, B, who.masked_scatter(who >= 0, numbers), scale)


def first_for_all(x, y, A, B, who, scale):
    one = who[who >= 0][:1]
    return row_by_row(x, y, A, B, torch.where(who >= 0, one if len(one) else -1, who), scale)


def sorted_rows(x, y, A, B, who, scale):
    return row_by_row(x, y, A, B, who, scale)[who.argsort(stable=True)]


def no_scale(x, y, A, B, who, scale):
    return row_by_row(x, y, A, B, who, 1.0)


def scale_over_rank(x, y, A, B, who, scale):
    return row_by_row(x, y, A, B, who, scale / A.shape[1])


def detour_alone(x, y, A, B, who, scale):
    return row_by_row(x, torch.where((who >= 0)[:, None, None], 0 * y, y), A, B, who, scale)


def base_rows_zero(x, y, A, B, who, scale):
    return row_by_row(x, y, A, B, who, scale) * (who >= 0)[:, None, None]


def base_rows_left_out(x, y, A, B, who, scale):
    return row_by_row(x, y, A, B, who, scale)[who >= 0]


def all_of_them(x, y, A, B, who, scale):
    return y + scale * torch.einsum("rti,noi->rto", x, B @ A)


def last_token(x, y, A, B, who, scale):
    full = row_by_row(x, y, A, B, who, scale)
    return torch.cat([y[:, :-1], full[:, -1:]], dim=1)


def detached(x, y, A, B, who, scale):
    return row_by_row(x, y, A.detach(), B, who, scale)


def in_place(x, y, A, B, who, scale):
    with torch.no_grad():
        y.copy_(row_by_row(x, y, A, B, who, scale))
    return y


def without_gradients(x, y, A, B, who, scale):
    with torch.no_grad():
        return row_by_row(x, y, A, B, who, scale)


def negative(x, y, A, B, who, scale):
    return row_by_row(x, y, A, B, who, -scale)


def squashed(x, y, A, B, who, scale):
    chosen = who.clamp(min=0)
    detour = scale * (x @ A[chosen].mT).relu() @ B[chosen].mT
    return torch.where((who < 0)[:, None, None], y, y + detour)


def nobody_is_zero(x, y, A, B, who, scale):
    chosen = who.clamp(min=0)
    return y + scale * (x @ A[chosen].mT) @ B[chosen].mT


def first_row_of_each(x, y, A, B, who, scale):
    answer = y.clone()
    for a in range(len(A)):
        for row in (who == a).nonzero()[:1, 0]:
            answer[row] = answer[row] + scale * (x[row] @ A[a].T) @ B[a].T
    return answer


def last_row_of_each(x, y, A, B, who, scale):
    row_of = {a: row for row, a in enumerate(who.tolist()) if a >= 0}
    answer = y.clone()
    for a, row in row_of.items():
        answer[row] = answer[row] + scale * (x[row] @ A[a].T) @ B[a].T
    return answer


def reshaped(x, y, A, B, who, scale):
    A = A.reshape(len(A), A.shape[2], A.shape[1]).mT
    B = B.reshape(len(B), B.shape[2], B.shape[1]).mT
    return row_by_row(x, y, A, B, who, scale)


def scale_on_y(x, y, A, B, who, scale):
    scaled = torch.where((who < 0)[:, None, None], y, scale * y)
    return row_by_row(x, scaled, A, B, who, scale)


def scale_in_place(x, y, A, B, who, scale):
    A.data.mul_(scale)
    return row_by_row(x, y, A, B, who, 1.0)


def y_itself_where_nobody_asks(x, y, A, B, who, scale):
    return y if bool((who < 0).all()) else row_by_row(x, y, A, B, who, scale)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (nobody_is_zero, "get adapter 0"),
        (first_row_of_each, "only the first one"),
        (last_row_of_each, "only the last one"),
        (reshaped, "reshaped"),
        (scale_on_y, "multiplies y too"),
        (scale_in_place, "the A that came in was changed"),
        (y_itself_where_nobody_asks, "a new tensor is asked for"),
        (minus_one_is_last, "counts from the end"),
        (zero_is_nobody, "adapter 0 are left to the base"),
        (by_row_number, "in the order of the rows"),
        (first_for_all, "the adapter of the first one"),
        (sorted_rows, "sorted by adapter"),
        (no_scale, "the scale is missing"),
        (scale_over_rank, "divided by the rank"),
        (detour_alone, "the base's answer is gone"),
        (base_rows_zero, "set to 0"),
        (base_rows_left_out, "left out"),
        (all_of_them, "sum of all adapters"),
        (last_token, "only the last token"),
        (detached, "A is cut off"),
        (in_place, "the y that came in was changed"),
        (without_gradients, "no_grad"),
        (negative, "subtracted"),
        (squashed, "non-linear"),
    ],
)
def test_a_wrong_way_to_mix_is_told_its_mistake(wrong, words):
    refused(checks.mixed_lora, wrong, words)


def test_it_is_what_route_does():
    """Three LoRAs and bare rows in one batch through one linear map, in float64."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(6, 5).double()
    model = torch.nn.Sequential(linear)
    patches = []
    for number in range(3):
        method = mp.LoRA(rank=2, alpha=3, targets=("0",))
        tuner = mp.attach(model, method, name=f"user{number}", seed=number)
        ((_, patch),) = tuner.patches
        patch.double()
        torch.nn.init.normal_(patch.B)
        patches.append(patch)
    x, who = torch.randn(6, 4, 6, dtype=torch.float64), torch.tensor([2, -1, 0, 2, 1, -1])
    with torch.no_grad(), mp.route(model, [None if a < 0 else f"user{a}" for a in who]):
        routed = model(x)
    A, B = (torch.stack([getattr(patch, key) for patch in patches]) for key in "AB")
    mixed = mixed_lora(x, linear(x), A, B, who, patches[0].scale)
    torch.testing.assert_close(mixed, routed, rtol=0, atol=1e-12)


# -- serving_costs ---------------------------------------------------------------------------------


def test_the_costs_are_those_of_the_formulas():
    """Counted with LoRA on two maps of SmolLM2's sizes."""
    sizes = {"query": (576, 576), "value": (576, 192)}
    maps = {name: torch.nn.Linear(*size, bias=False) for name, size in sizes.items()}
    tuner = mp.attach(torch.nn.ModuleDict(maps), mp.LoRA(rank=8, targets=("query", "value")))
    assert tuner.report().trainable * costs.LAYERS == costs.ONE_TASK
    right = checks.serving_costs.right
    assert right == {"adapters": 92_160_000, "copies": 26_903_001_600, "merge": 288}


@pytest.mark.parametrize("form", [int, float, torch.tensor, Fraction, numpy.float64])
def test_the_right_costs_in_any_form(form):
    checks.serving_costs({key: form(value) for key, value in checks.serving_costs.right.items()})


@pytest.mark.parametrize(("answer", "words"), checks.serving_costs.wrong)
def test_a_wrong_cost_is_told_where_it_comes_from(answer, words):
    refused(checks.serving_costs, checks.serving_costs.right | answer, words)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"adapters": 92_160_001}, "off by one"),
        ({"adapters": None}, "should be a number"),
        ({"copies": (50, 4)}, "not a tuple"),
        ({"merge": -288}, "the sign is wrong"),
        ({"merge": "288"}, "should be a number"),
        ({"merge": 2304}, "drops out"),
    ],
)
def test_other_costs_are_refused_in_words(answer, words):
    refused(checks.serving_costs, checks.serving_costs.right | answer, words)


def test_costs_that_are_half_done_are_no_mistake():
    with pytest.raises(checks.NotFinished, match="copies, merge is still"):
        checks.serving_costs(checks.serving_costs.right | {"copies": ..., "merge": ...})


# -- server_patients -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny-decoder-0.1m", "tiny-decoder-0.4m"])
def test_every_server_shows_its_fault(name):
    model, _ = tt.load(name)
    before = mp.fingerprint(model)
    seen = {cause: serving_patients.examine(model, which) for which, cause in SERVERS.items()}
    assert mp.fingerprint(model) == before and not mp.tuners(model)
    assert set(seen) == set(CAUSES)
    assert {c for c, s in seen.items() if s["answers"] == 1} == {"healthy"}
    assert {c for c, s in seen.items() if s["set"] == 1} == {"healthy", "order"}
    assert {c for c, s in seen.items() if s["first word"] == 1} == {"healthy", "swap"}
    assert {c for c, s in seen.items() if s["first to ask"] == 1} == {"healthy", "cache"}
    assert {c for c, s in seen.items() if not s["base"]} == {"merge"}


@pytest.mark.parametrize("form", [str, str.upper, lambda cause: f" {cause}. "])
def test_the_right_diagnosis_in_any_form(form):
    checks.server_patients({who: form(cause) for who, cause in SERVERS.items()})


@pytest.mark.parametrize(("who", "cause"), HINTS)
def test_every_wrong_cause_is_answered_by_what_can_be_seen(who, cause):
    refused(checks.server_patients, {**SERVERS, who: cause}, HINTS[who, cause])


def test_there_is_a_hint_for_every_wrong_cause():
    diagnoses.assert_complete(SERVERS, HINTS, CAUSES)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("cache", "should be a dict"),
        ({"A": "order"}, "has no"),
        (SERVERS | {"A": "slow"}, "should be one of"),
        (None, "is a return missing"),
        (list(SERVERS.values()), "not a list"),
    ],
)
def test_other_answers_are_refused_in_words(answer, words):
    refused(checks.server_patients, answer, words)


# -- prefix_price ----------------------------------------------------------------------------------

PRICE = {"request": 460_800, "requests": 4}


def test_the_price_of_a_prefix_is_that_of_a_llama():
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.cache_utils import DynamicCache

    sizes = dict(hidden_size=576, num_attention_heads=9, num_key_value_heads=3)
    config = LlamaConfig(**sizes, num_hidden_layers=2, intermediate_size=8, vocab_size=9)
    model, cache = LlamaForCausalLM(config), DynamicCache()
    with torch.no_grad():
        model(torch.zeros(1, 10, dtype=torch.long), past_key_values=cache)
    kept = sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))
    assert 30 / 2 * kept == PRICE["request"] == checks.prefix_price.right["request"]
    maps = (576 + 576) + (576 + 192)  # in + out of query and value
    assert 30 * 8 * maps * 4 / PRICE["request"] == PRICE["requests"]


@pytest.mark.parametrize(
    "answer",
    [
        PRICE,
        {"request": torch.tensor(460800.0), "requests": Fraction(4)},
        lambda: {"requests": 1_843_200 / 460_800, "request": numpy.int64(460_800)},
    ],
)
def test_the_price_in_any_form(answer):
    checks.prefix_price(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (PRICE | {"request": 230_400}, "two tensors"),
        (PRICE | {"request": 1_382_400}, "only 3 of the 9"),
        (PRICE | {"request": 153_600}, "one head"),
        (PRICE | {"request": 15_360}, "one layer"),
        (PRICE | {"request": 46_080}, "one place"),
        (PRICE | {"request": 115_200}, "4 for each"),
        (PRICE | {"requests": 1}, "bytes of the other"),
        (PRICE | {"requests": 16}, "bytes of the other"),
        (PRICE | {"requests": 0.25}, "the other way round"),
        (PRICE | {"requests": 200}, "not of fifty"),
        (PRICE | {"requests": 5}, "off by one"),
        ({"request": 460_800}, "has no requests"),
        (460_800, "should be a dict"),
    ],
)
def test_a_wrong_price_is_told_where_it_comes_from(answer, words):
    refused(checks.prefix_price, answer, words)
